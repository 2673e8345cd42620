//! Counts the outcomes of a committed set.

use std::{collections::HashMap, time::Instant};

use time::OffsetDateTime;
use tokio::sync::watch;

use super::{classified::StageDelays, commit_set::CommitSet, summary::Totals};
use crate::{
    store::{Flush, Flushed},
    telemetry::{ProcessStatus, metric},
};

/// Adds what one transaction committed to the metrics, the process's status and the totals.
pub(super) fn count(
    totals: &watch::Sender<Totals>,
    status: &ProcessStatus,
    set: &CommitSet,
    flush: &Flush,
    flushed: &Flushed,
) {
    let (now, committed) = (OffsetDateTime::now_utc(), Instant::now());
    let (stage_times, stage_delays) = (set.stage_times(), StageDelays::new());
    let mut emotions: HashMap<&str, u64> = HashMap::new();
    let (event_delay, broker_delay) = (
        metrics::histogram!(metric::EVENT_DELAY),
        metrics::histogram!(metric::BROKER_DELAY),
    );
    let mut broker_delays = Vec::with_capacity(flushed.written.len());
    for index in &flushed.written {
        let Some(row) = flush.posts.get(*index) else {
            continue;
        };
        *emotions.entry(&row.prediction.emotion).or_default() += 1;
        event_delay.record((now - row.post.created_at.get()).as_seconds_f64().max(0.0));
        if let Some(timestamp) = row.timestamp {
            let delay = (now - timestamp).as_seconds_f64().max(0.0);
            broker_delay.record(delay);
            broker_delays.push(delay);
            if let Some(times) = stage_times.get(*index) {
                stage_delays.record(*times, delay, committed);
            }
        }
    }
    for (emotion, count) in emotions {
        metrics::counter!(metric::EMOTIONS, "emotion" => emotion.to_owned()).increment(count);
    }
    let total = flushed.total();
    metrics::histogram!(metric::FLUSH_POSTS).record(flush.posts.len() as f64);
    metrics::counter!(metric::STAGE_RECORDS, "stage" => "store").increment(total.records());
    for (outcome, count) in [
        ("inserted", total.inserted),
        ("duplicate", total.duplicates),
        ("deletion", total.deletions),
        ("filtered", total.filtered),
        ("late", total.late),
        ("rejected", total.rejected),
    ] {
        metrics::counter!(metric::OUTCOMES, "outcome" => outcome).increment(count);
    }
    let reasons = set.rejects();
    for (reason, count) in &reasons {
        metrics::counter!(metric::REJECTS, "reason" => *reason).increment(*count);
    }
    status.update(|status| {
        for delay in broker_delays {
            status.broker_delay.record(delay);
        }
        for (reason, count) in &reasons {
            *status.rejects.entry(reason).or_default() += count;
        }
    });
    totals.send_modify(|totals| {
        totals.add(&total);
        for (reason, count) in reasons {
            *totals.rejected_by_reason.entry(reason).or_default() += count;
        }
    });
}
