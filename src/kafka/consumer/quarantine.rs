//! Quarantined partitions: those that are not read because of a problem that affects them alone, while the others continue.
//!
//! The consumer's thread quarantines a partition and stops fetching it. The partition stays assigned, and its offset stays
//! as it is. It is retried at intervals and on demand, and is listed until it works again, even during a retry.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::kafka::partition::Partition;
use crate::{sync::lock, telemetry::metric};

/// Why a partition is quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineReason {
    /// The stored offset is out of the broker's range.
    OffsetOutOfRange,
    /// The stored offset belongs to another cluster, or to a topic that was recreated since.
    TopicChanged,
    /// A record can be neither stored nor rejected.
    RecordRefused,
    /// The client library can't read the partition.
    ConsumerError,
}

impl QuarantineReason {
    /// The names of all reasons, as in the metric's label.
    pub const NAMES: &[&str] = metric::QUARANTINE_REASONS;

    /// Its name in the metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// What proves that the problem is over.
    const fn ends_with(self) -> Recovery {
        match self {
            Self::OffsetOutOfRange | Self::TopicChanged => Recovery::Start,
            Self::ConsumerError => Recovery::Record,
            Self::RecordRefused => Recovery::Commit,
        }
    }
}

/// What proves that a partition works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Reading started at an offset of its log.
    Start,
    /// One of its records was read after that.
    Record,
    /// Records of it were committed.
    Commit,
}

/// Why a partition is quarantined, with details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineCause {
    /// The reason.
    pub reason: QuarantineReason,
    /// What was found, and what to do.
    pub detail: String,
}

impl QuarantineCause {
    pub(super) fn new(reason: QuarantineReason, detail: impl fmt::Display) -> Self {
        Self {
            reason,
            detail: detail.to_string(),
        }
    }
}

/// The shortest time between two retries of a partition on demand, since each queries the database and the broker.
const MIN_RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    cause: QuarantineCause,
    /// When it was quarantined or last retried.
    tried: Instant,
    /// When it is retried next; `None`: only on demand, by a restart of the process or by a new assignment.
    retry: Option<Instant>,
}

/// The quarantined partitions of this member. Clones share the list.
#[derive(Debug, Clone, Default)]
pub(super) struct Quarantine(Arc<Mutex<BTreeMap<Partition, Entry>>>);

impl Quarantine {
    /// Adds a partition. Returns whether it was not quarantined for that reason before.
    pub(super) fn put(&self, partition: &Partition, cause: QuarantineCause, retry_in: Option<Duration>) -> bool {
        let now = Instant::now();
        let entry = Entry {
            cause,
            tried: now,
            retry: retry_in.map(|pause| now + pause),
        };
        let reason = entry.cause.reason;
        let before = lock(&self.0).insert(partition.clone(), entry);
        let known = before.as_ref().is_some_and(|entry| entry.cause.reason == reason);
        if !known {
            if let Some(before) = before {
                gauge(partition, before.cause.reason).decrement(1.0);
            }
            gauge(partition, reason).increment(1.0);
        }
        !known
    }

    /// Removes a partition, if it is listed: it was revoked, or just assigned to this member.
    pub(super) fn lift(&self, partition: &Partition) {
        self.lift_if(partition, |_| true);
    }

    /// Removes a partition, if `recovery` shows that its problem is over. It depends on the reason: for example, records in
    /// flight may still be committed of a partition that can't be read.
    pub(super) fn recovered(&self, partition: &Partition, recovery: Recovery) {
        self.lift_if(partition, |reason| reason.ends_with() == recovery);
    }

    fn lift_if(&self, partition: &Partition, lifts: impl FnOnce(QuarantineReason) -> bool) {
        let mut entries = lock(&self.0);
        if entries.get(partition).is_some_and(|entry| lifts(entry.cause.reason))
            && let Some(entry) = entries.remove(partition)
        {
            gauge(partition, entry.cause.reason).decrement(1.0);
        }
    }

    pub(super) fn holds(&self, partition: &Partition) -> bool {
        lock(&self.0).contains_key(partition)
    }

    pub(super) fn list(&self) -> Vec<(Partition, QuarantineCause)> {
        let entries = lock(&self.0);
        entries
            .iter()
            .map(|(partition, entry)| (partition.clone(), entry.cause.clone()))
            .collect()
    }

    /// Schedules a retry of all partitions for now, or for [`MIN_RETRY_INTERVAL`] after their last one.
    pub(super) fn retry_now(&self) {
        let now = Instant::now();
        for entry in lock(&self.0).values_mut() {
            let at = now.max(entry.tried + MIN_RETRY_INTERVAL);
            entry.retry = Some(entry.retry.map_or(at, |retry| retry.min(at)));
        }
    }

    /// The partitions that are due for a retry. Schedules their next retry `pause` later, or only on demand if it is `None`.
    pub(super) fn due(&self, pause: Option<Duration>) -> Vec<Partition> {
        let now = Instant::now();
        let mut entries = lock(&self.0);
        entries
            .iter_mut()
            .filter_map(|(partition, entry)| {
                entry.retry.filter(|retry| *retry <= now)?;
                entry.tried = now;
                entry.retry = pause.map(|pause| now + pause);
                Some(partition.clone())
            })
            .collect()
    }
}

/// The gauge of a partition. Topics beyond the limit on series share one, which counts their partitions.
fn gauge((topic, partition): &Partition, reason: QuarantineReason) -> metrics::Gauge {
    let topic = metric::topic_label(topic);
    let partition = if topic == metric::OTHER_TOPICS {
        String::new()
    } else {
        partition.to_string()
    };
    metrics::gauge!(metric::QUARANTINED, "topic" => topic, "partition" => partition, "reason" => reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(reason: QuarantineReason) -> QuarantineCause {
        QuarantineCause::new(reason, "why")
    }

    #[test]
    fn every_reason_has_its_own_name() {
        let all = [
            QuarantineReason::OffsetOutOfRange,
            QuarantineReason::TopicChanged,
            QuarantineReason::RecordRefused,
            QuarantineReason::ConsumerError,
        ];
        let names: Vec<&str> = all.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names, QuarantineReason::NAMES);
    }

    #[test]
    fn a_partition_is_removed_only_by_the_recovery_for_its_reason() {
        let quarantine = Quarantine::default();
        let (early, late): (Partition, Partition) = (("posts".into(), 0), ("posts".into(), 1));
        assert!(quarantine.put(&early, cause(QuarantineReason::OffsetOutOfRange), None));
        assert!(quarantine.put(&late, cause(QuarantineReason::RecordRefused), None));
        assert!(
            !quarantine.put(&late, cause(QuarantineReason::RecordRefused), None),
            "it is reported once"
        );
        for partition in [&early, &late] {
            quarantine.recovered(partition, Recovery::Start);
        }
        assert!(!quarantine.holds(&early));
        assert!(
            quarantine.holds(&late),
            "a start does not prove that its records can be stored"
        );
        quarantine.recovered(&late, Recovery::Commit);
        assert!(quarantine.list().is_empty());
        quarantine.put(&early, cause(QuarantineReason::ConsumerError), None);
        for recovery in [Recovery::Start, Recovery::Commit] {
            quarantine.recovered(&early, recovery);
            assert!(quarantine.holds(&early), "no record was read yet");
        }
        quarantine.recovered(&early, Recovery::Record);
        assert!(quarantine.list().is_empty());
    }

    #[test]
    fn a_partition_is_retried_when_due_and_only_if_a_retry_is_configured() {
        let quarantine = Quarantine::default();
        let (now, never): (Partition, Partition) = (("posts".into(), 0), ("posts".into(), 1));
        quarantine.put(&now, cause(QuarantineReason::TopicChanged), Some(Duration::ZERO));
        quarantine.put(&never, cause(QuarantineReason::TopicChanged), None);
        let pause = Some(Duration::from_secs(3_600));
        assert_eq!(quarantine.due(pause), [now]);
        assert!(quarantine.due(pause).is_empty(), "the next retry is an hour away");
    }

    #[test]
    fn a_partition_is_retried_on_demand_at_most_once_an_interval() {
        let quarantine = Quarantine::default();
        let never: Partition = ("posts".into(), 0);
        quarantine.put(&never, cause(QuarantineReason::TopicChanged), None);
        for _ in 0..1_000 {
            quarantine.retry_now();
            assert!(quarantine.due(None).is_empty(), "it was quarantined just now");
        }
        // Pretend that the interval has passed.
        let long_ago = Instant::now()
            .checked_sub(MIN_RETRY_INTERVAL)
            .expect("the clock to be past the interval");
        if let Some(entry) = lock(&quarantine.0).get_mut(&never) {
            entry.tried = long_ago;
        }
        quarantine.retry_now();
        assert_eq!(quarantine.due(None), [never]);
        assert!(quarantine.due(None).is_empty(), "each demand causes one retry");
    }
}
