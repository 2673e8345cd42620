//! Compares the stored offsets with the broker's, for `moodstream check` and at startup.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use time::OffsetDateTime;

use crate::{
    config::Settings,
    kafka::{self, BrokerReport, KafkaOptions, OnTopicChanged, OutOfRange, Partition, Watermarks},
    store::{Store, StoredOffset},
};

/// The share of the retention time that records may wait without a warning.
const MAX_WAIT_SHARE: f64 = 0.5;

/// The state of the group's stored offsets.
#[derive(Debug, Default)]
pub struct OffsetsReport {
    /// The number of partitions that have a stored offset.
    pub known: usize,
    /// The total lag of these partitions, in records.
    pub lag: i64,
    /// Partitions that would be quarantined, each with the reason.
    pub faults: Vec<String>,
    /// Problems that may do harm later.
    pub warnings: Vec<String>,
}

/// Compares the group's stored offsets with the watermarks of the topics in `broker`.
///
/// # Errors
/// The database or the broker can't be queried.
pub(super) async fn check_offsets(
    settings: &Settings,
    store: &Store,
    broker: &BrokerReport,
    timeout: Duration,
) -> anyhow::Result<OffsetsReport> {
    // The offsets come first, since running members advance them: an offset that is in range can't be beyond an end that is
    // queried after it.
    let partitions: Vec<Partition> = broker
        .topics
        .iter()
        .flat_map(|(topic, count)| {
            let topic: Arc<str> = topic.as_str().into();
            (0..i32::try_from(*count).unwrap_or(i32::MAX)).map(move |partition| (Arc::clone(&topic), partition))
        })
        .collect();
    let stored = store.stored_offsets(&settings.kafka.group, &partitions).await?;
    let watermarks = kafka::watermarks(&settings.kafka, timeout)
        .await
        .context("can't query the topics' watermarks")?;
    let topics: Vec<&str> = broker.topics.iter().map(|(topic, _)| topic.as_str()).collect();
    let retention = kafka::retention(&settings.kafka, topics, timeout).await;
    let found = BrokerState {
        cluster: broker.cluster.as_deref(),
        watermarks: &watermarks,
        retention: &retention,
    };
    Ok(compare(&settings.kafka, &stored, &found, OffsetDateTime::now_utc()))
}

/// What the brokers reported.
struct BrokerState<'a> {
    cluster: Option<&'a str>,
    watermarks: &'a BTreeMap<Partition, Watermarks>,
    /// How long topics keep their records, if not forever.
    retention: &'a BTreeMap<String, Duration>,
}

fn compare(
    options: &KafkaOptions,
    stored: &HashMap<Partition, StoredOffset>,
    broker: &BrokerState<'_>,
    now: OffsetDateTime,
) -> OffsetsReport {
    let mut report = OffsetsReport {
        known: stored.len(),
        ..OffsetsReport::default()
    };
    let mut late = BTreeSet::new();
    for (partition, found) in broker.watermarks {
        let Some(stored) = stored.get(partition) else {
            continue;
        };
        let (topic, number) = partition;
        let foreign =
            broker.cluster.is_some() && stored.cluster.is_some() && stored.cluster.as_deref() != broker.cluster;
        match options.on_topic_changed {
            OnTopicChanged::Stop if foreign => {
                report.faults.push(format!(
                    "{topic}/{number}: the offset belongs to another cluster (kafka.on_topic_changed)"
                ));
                continue;
            }
            OnTopicChanged::Restart if foreign => {
                report.warnings.push(format!(
                    "{topic}/{number}: the offset belongs to another cluster: the partition will restart where kafka.start says \
                     (kafka.on_topic_changed)"
                ));
                continue;
            }
            _ => {}
        }
        // The end is the offset after the last record. An offset that follows no record may be after a transaction marker.
        if stored.next > found.high && stored.last.is_some() && options.on_offset_out_of_range == OutOfRange::Stop {
            let (next, high) = (stored.next, found.high);
            report.faults.push(format!(
                "{topic}/{number}: the offset {next} is beyond the last record, {high}: the topic was recreated \
                 (kafka.on_offset_out_of_range)"
            ));
            continue;
        }
        let is_lost = stored.next < found.low && !found.is_empty();
        if is_lost && options.on_offset_out_of_range == OutOfRange::Stop {
            let (next, low) = (stored.next, found.low);
            report.faults.push(format!(
                "{topic}/{number}: the broker has deleted the records from {next} to {low} (kafka.on_offset_out_of_range)"
            ));
            continue;
        }
        report.lag += (found.high - stored.next).max(0);
        let last_read = stored.last.and_then(|last| last.timestamp);
        if let (Some(last_read), Some(kept)) = (last_read, broker.retention.get(&**topic))
            && stored.next < found.high
            && (now - last_read).as_seconds_f64() > kept.as_secs_f64() * MAX_WAIT_SHARE
        {
            late.insert((&**topic, kept.as_secs() / 3_600));
        }
    }
    for (topic, hours) in late {
        report.warnings.push(format!(
            "records of {topic} have waited for more than half of the {hours} hours for which the topic keeps them (retention.ms): \
             they may be deleted before they are read"
        ));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::post::Fingerprint;

    /// The report about a partition whose last committed record is `age_hours` old, in a topic with a retention of one day.
    fn report(next: i64, age_hours: i64, low: i64, high: i64) -> OffsetsReport {
        report_with(&KafkaOptions::default(), "ours", next, age_hours, low, high)
    }

    fn report_with(
        options: &KafkaOptions,
        cluster: &str,
        next: i64,
        age_hours: i64,
        low: i64,
        high: i64,
    ) -> OffsetsReport {
        let partition: Partition = ("posts".into(), 0);
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let stored = StoredOffset {
            next,
            cluster: Some(cluster.to_owned()),
            last: Some(Fingerprint::of(
                Some(now - time::Duration::hours(age_hours)),
                None,
                None,
            )),
        };
        let broker = BrokerState {
            cluster: Some("ours"),
            watermarks: &BTreeMap::from([(partition.clone(), Watermarks { low, high })]),
            retention: &BTreeMap::from([("posts".to_owned(), Duration::from_hours(24))]),
        };
        compare(options, &HashMap::from([(partition, stored)]), &broker, now)
    }

    #[test]
    fn records_that_have_waited_for_more_than_half_of_the_retention_cause_a_warning() {
        assert!(report(5, 11, 0, 10).warnings.is_empty());
        let warned = report(5, 13, 0, 10);
        assert!(
            warned.warnings.len() == 1 && warned.warnings[0].contains("24 hours"),
            "{warned:?}"
        );
        assert!(report(10, 13, 0, 10).warnings.is_empty(), "no record waits");
    }

    /// The offset 11 is out of the other cluster's range, but a restarted partition does not begin there.
    #[test]
    fn an_offset_of_another_cluster_is_a_fault_only_where_the_partition_does_not_restart() {
        let with = |on_topic_changed| {
            let options = KafkaOptions {
                on_topic_changed,
                ..KafkaOptions::default()
            };
            report_with(&options, "theirs", 11, 1, 0, 10)
        };
        assert!(with(OnTopicChanged::Stop).faults[0].contains("another cluster"));
        let restarted = with(OnTopicChanged::Restart);
        assert!(
            restarted.faults.is_empty() && restarted.warnings[0].contains("will restart"),
            "{restarted:?}"
        );
        assert!(with(OnTopicChanged::Continue).faults[0].contains("beyond the last record"));
    }

    #[test]
    fn offsets_out_of_the_brokers_range_are_faults() {
        assert_eq!((report(5, 1, 0, 10).faults, report(5, 1, 0, 10).lag), (Vec::new(), 5));
        assert!(report(11, 1, 0, 10).faults[0].contains("beyond the last record"));
        assert!(report(2, 1, 4, 10).faults[0].contains("has deleted"));
    }
}
