//! Partitions that stand still because something is wrong with them alone, while the others go on.
//!
//! A partition is put here by the consumer's thread, which stops to fetch it; it keeps its place in the group and its
//! offset. It is tried again at intervals and on demand, and is listed until it works, also while a try is under way.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::partition::Partition;
use crate::{sync::lock, telemetry::metric};

/// Why a partition stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineReason {
    /// The stored offset is not at the broker.
    OffsetOutOfRange,
    /// The stored offset is of another cluster, or of a topic that was made anew since.
    TopicChanged,
    /// A record can be neither stored nor rejected.
    RecordRefused,
    /// The client library can't read the partition.
    ConsumerError,
}

impl QuarantineReason {
    /// All reasons, as the metric names them.
    pub const NAMES: &[&str] = metric::QUARANTINE_REASONS;

    /// Its name in the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// What shows that it is over.
    const fn ends_with(self) -> Proof {
        match self {
            Self::OffsetOutOfRange | Self::TopicChanged => Proof::Start,
            Self::ConsumerError => Proof::Record,
            Self::RecordRefused => Proof::Commit,
        }
    }
}

/// What shows that a partition works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// It has been started at an offset of its log.
    Start,
    /// A record of it has been read after that.
    Record,
    /// Records have been committed.
    Commit,
}

/// Why a partition stands still, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The kind of fault.
    pub reason: QuarantineReason,
    /// What was found, and what to do.
    pub detail: String,
}

impl Cause {
    pub(super) fn new(reason: QuarantineReason, detail: impl fmt::Display) -> Self {
        Self {
            reason,
            detail: detail.to_string(),
        }
    }
}

/// The least time between two tries of a partition, however often somebody asks for one: each asks the database and the broker.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    cause: Cause,
    /// When it was put here or tried last.
    tried: Instant,
    /// When it is tried again; none: on demand, by a restart of the process or by another assignment.
    retry: Option<Instant>,
}

/// The partitions of this member in quarantine. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Quarantine(Arc<Mutex<BTreeMap<Partition, Entry>>>);

impl Quarantine {
    /// Puts a partition in quarantine. Returns whether it was not there before for that reason.
    pub(super) fn put(&self, partition: &Partition, cause: Cause, retry_in: Option<Duration>) -> bool {
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

    /// Takes a partition out, if it is there: it is no longer this member's, or was just assigned to it.
    pub(super) fn lift(&self, partition: &Partition) {
        self.lift_if(partition, |_| true);
    }

    /// Takes a partition out, if this shows that what was wrong with it is over. Records in flight may be committed of one that
    /// can't be read on.
    pub(super) fn proved(&self, partition: &Partition, proof: Proof) {
        self.lift_if(partition, |reason| reason.ends_with() == proof);
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

    pub(super) fn list(&self) -> Vec<(Partition, Cause)> {
        let entries = lock(&self.0);
        entries
            .iter()
            .map(|(partition, entry)| (partition.clone(), entry.cause.clone()))
            .collect()
    }

    /// Has all partitions tried again at once, or [`LEAST_PAUSE`] after their last try.
    pub(super) fn retry_now(&self) {
        let now = Instant::now();
        for entry in lock(&self.0).values_mut() {
            let at = now.max(entry.tried + LEAST_PAUSE);
            entry.retry = Some(entry.retry.map_or(at, |retry| retry.min(at)));
        }
    }

    /// The partitions whose time has come to be tried again; the next time comes `pause` later, or when somebody asks for it.
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

/// Topics beyond the bound on series share one, which adds up their partitions.
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

    fn cause(reason: QuarantineReason) -> Cause {
        Cause::new(reason, "why")
    }

    #[test]
    fn every_reason_has_a_name_of_its_own() {
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
    fn a_partition_leaves_when_what_was_wrong_with_it_is_seen_to_work() {
        let quarantine = Quarantine::default();
        let (early, late): (Partition, Partition) = (("posts".into(), 0), ("posts".into(), 1));
        assert!(quarantine.put(&early, cause(QuarantineReason::OffsetOutOfRange), None));
        assert!(quarantine.put(&late, cause(QuarantineReason::RecordRefused), None));
        assert!(
            !quarantine.put(&late, cause(QuarantineReason::RecordRefused), None),
            "it is told once"
        );
        for partition in [&early, &late] {
            quarantine.proved(partition, Proof::Start);
        }
        assert!(!quarantine.holds(&early));
        assert!(
            quarantine.holds(&late),
            "that its records can be read was never in doubt"
        );
        quarantine.proved(&late, Proof::Commit);
        assert!(quarantine.list().is_empty());
        quarantine.put(&early, cause(QuarantineReason::ConsumerError), None);
        for proof in [Proof::Start, Proof::Commit] {
            quarantine.proved(&early, proof);
            assert!(quarantine.holds(&early), "no record was read since");
        }
        quarantine.proved(&early, Proof::Record);
        assert!(quarantine.list().is_empty());
    }

    #[test]
    fn a_partition_is_tried_again_when_it_is_time_and_only_where_the_settings_say_so() {
        let quarantine = Quarantine::default();
        let (now, never): (Partition, Partition) = (("posts".into(), 0), ("posts".into(), 1));
        quarantine.put(&now, cause(QuarantineReason::TopicChanged), Some(Duration::ZERO));
        quarantine.put(&never, cause(QuarantineReason::TopicChanged), None);
        let pause = Some(Duration::from_secs(3_600));
        assert_eq!(quarantine.due(pause), [now]);
        assert!(quarantine.due(pause).is_empty(), "its next time is an hour away");
    }

    #[test]
    fn a_partition_is_tried_on_demand_and_not_more_often_than_it_may_be() {
        let quarantine = Quarantine::default();
        let never: Partition = ("posts".into(), 0);
        quarantine.put(&never, cause(QuarantineReason::TopicChanged), None);
        for _ in 0..1_000 {
            quarantine.retry_now();
            assert!(quarantine.due(None).is_empty(), "it was tried just now");
        }
        // As if that were long ago.
        let long_ago = Instant::now().checked_sub(LEAST_PAUSE).expect("a clock that runs");
        if let Some(entry) = lock(&quarantine.0).get_mut(&never) {
            entry.tried = long_ago;
        }
        quarantine.retry_now();
        assert_eq!(quarantine.due(None), [never]);
        assert!(quarantine.due(None).is_empty(), "once for each demand");
    }
}
