//! Compares the stored offsets with what the broker has, before the service starts.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use time::OffsetDateTime;

use crate::{
    config::Settings,
    kafka::{self, BrokerReport, OnTopicChanged, OutOfRange, Partition},
    store::Store,
};

/// Records that are nearer to their deletion than this share of the retention are worth a warning.
const CLOSE: f64 = 0.5;

/// What becomes of the group's partitions at a start.
#[derive(Debug, Default)]
pub struct OffsetsReport {
    /// Partitions that have an offset.
    pub known: usize,
    /// Records behind the ends of all partitions that have an offset.
    pub lag: i64,
    /// Partitions that would be quarantined, each with the reason.
    pub faults: Vec<String>,
    /// What may do harm later.
    pub warnings: Vec<String>,
}

/// Compares the offsets of the group with the broker's records, whose topics are in `broker`.
///
/// # Errors
/// The database or the broker can't be asked.
pub async fn check_offsets(
    settings: &Settings,
    store: &Store,
    broker: &BrokerReport,
    timeout: Duration,
) -> anyhow::Result<OffsetsReport> {
    let watermarks = kafka::watermarks(&settings.kafka, timeout)
        .await
        .context("can't tell how far the topics reach")?;
    let partitions: Vec<Partition> = watermarks.keys().cloned().collect();
    let stored = store.stored_offsets(&settings.kafka.group, &partitions).await?;
    let topics = broker.topics.iter().map(|(topic, _)| topic.as_str());
    let retention = kafka::retention(&settings.kafka, topics, timeout).await;
    let now = OffsetDateTime::now_utc();
    let mut report = OffsetsReport {
        known: stored.len(),
        ..OffsetsReport::default()
    };
    let mut late = BTreeSet::new();
    for (partition, found) in &watermarks {
        let Some(stored) = stored.get(partition) else {
            continue;
        };
        let (topic, number) = partition;
        let foreign = broker.cluster.is_some() && stored.cluster.is_some() && stored.cluster != broker.cluster;
        if foreign && settings.kafka.on_topic_changed == OnTopicChanged::Stop {
            report.faults.push(format!(
                "{topic}/{number}: the offset is of another cluster (kafka.on_topic_changed)"
            ));
            continue;
        }
        // The end is that of the last record. An offset that follows no record may stand behind a transaction's marker.
        if stored.next > found.high
            && stored.last.is_some()
            && settings.kafka.on_offset_out_of_range == OutOfRange::Stop
        {
            let (next, high) = (stored.next, found.high);
            report.faults.push(format!(
                "{topic}/{number}: the offset {next} is beyond the last record, {high}: the topic was made anew \
                 (kafka.on_offset_out_of_range)"
            ));
            continue;
        }
        let is_lost = stored.next < found.low && !found.is_empty();
        if is_lost && settings.kafka.on_offset_out_of_range == OutOfRange::Stop {
            let (next, low) = (stored.next, found.low);
            report.faults.push(format!(
                "{topic}/{number}: the broker has deleted the records from {next} to {low} (kafka.on_offset_out_of_range)"
            ));
            continue;
        }
        report.lag += (found.high - stored.next).max(0);
        let settled = stored.last.and_then(|last| last.timestamp);
        if let (Some(settled), Some(kept)) = (settled, retention.get(&**topic))
            && stored.next < found.high
            && (now - settled).as_seconds_f64() > kept.as_secs_f64() * CLOSE
        {
            late.insert((&**topic, kept.as_secs() / 3_600));
        }
    }
    for (topic, hours) in late {
        report.warnings.push(format!(
            "records of {topic} wait for more than half of the {hours} hours for which the topic keeps them (retention.ms): they may \
             be deleted before they are read"
        ));
    }
    Ok(report)
}
