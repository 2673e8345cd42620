//! The partitions assigned to this member, with their epochs and progress.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::quarantine::{Quarantine, QuarantineCause, Recovery};
use crate::kafka::partition::Partition;
use crate::{sync::lock, telemetry::metric};

/// A partition being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The number of this period of reading, unique within the process.
    pub epoch: u64,
    /// The offset at which this epoch starts.
    pub start: i64,
    /// The offset of the next record to read.
    pub position: i64,
    /// The committed offset, as far as this member knows: effects of all earlier records are committed.
    pub committed: i64,
    /// The end for this consumer, if the broker has reported it: the last stable offset with `read_committed`, otherwise the
    /// high watermark. From the latest fetch response, which the statistics repeat every second.
    pub end: Option<i64>,
}

/// A partition that the group has assigned to this member.
#[derive(Debug)]
struct Slot {
    /// Changes with every lookup of the start offset, so that late answers are recognised.
    ticket: u64,
    /// Whether librdkafka fetches the partition.
    fetching: bool,
    reading: Option<Reading>,
    /// The lag that the gauge shows.
    lag: i64,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    epoch: u64,
    start: i64,
    position: i64,
    committed: i64,
    end: Option<i64>,
    /// The number of consecutive reports in which the high watermark was below the position.
    out_of_range: u32,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Partition, Slot>,
    /// Whether the first assignment has arrived, even if it was empty.
    joined: bool,
    /// The last error of the client library about the group or its topics since partitions were last assigned.
    last_error: Option<String>,
}

/// A shared view of the assigned partitions. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Assignment {
    state: Arc<Mutex<State>>,
    counter: Arc<AtomicU64>,
    quarantine: Quarantine,
}

impl Assignment {
    /// Whether records read from this partition under `epoch` still belong to this member.
    /// Otherwise they must be dropped, since the partition was revoked or restarted.
    #[must_use]
    pub fn holds(&self, topic: &Arc<str>, partition: i32, epoch: u64) -> bool {
        let state = lock(&self.state);
        let slot = state.slots.get(&(Arc::clone(topic), partition));
        slot.and_then(|slot| slot.reading)
            .is_some_and(|reading| reading.epoch == epoch)
    }

    /// The partitions being read, ordered by topic and partition.
    #[must_use]
    pub fn current(&self) -> Vec<AssignedPartition> {
        let state = lock(&self.state);
        let mut held: Vec<AssignedPartition> = state
            .slots
            .iter()
            .filter_map(|((topic, partition), slot)| {
                let Reading {
                    epoch,
                    start,
                    position,
                    committed,
                    end,
                    ..
                } = slot.reading?;
                Some(AssignedPartition {
                    topic: Arc::clone(topic),
                    partition: *partition,
                    epoch,
                    start,
                    position,
                    committed,
                    end,
                })
            })
            .collect();
        held.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        held
    }

    /// The number of assigned partitions and their total lag, as the gauges show them.
    #[must_use]
    pub fn totals(&self) -> (usize, i64) {
        let state = lock(&self.state);
        (state.slots.len(), state.slots.values().map(|slot| slot.lag).sum())
    }

    /// The epoch of a partition that is being read, and the offset of the next record to read.
    pub(super) fn position(&self, partition: &Partition) -> Option<(u64, i64)> {
        let state = lock(&self.state);
        let reading = state.slots.get(partition)?.reading?;
        Some((reading.epoch, reading.position))
    }

    /// Whether the first assignment has arrived and all assigned partitions are either being read or quarantined.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let state = lock(&self.state);
        let mut slots = state.slots.iter();
        state.joined && slots.all(|(partition, slot)| slot.reading.is_some() || self.quarantine.holds(partition))
    }

    /// While this member has no partitions, the last error that the client library reported about the group or its topics.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        let state = lock(&self.state);
        state.last_error.clone().filter(|_| state.slots.is_empty())
    }

    /// Whether the first assignment has arrived, even if it was empty.
    pub(super) fn has_joined(&self) -> bool {
        lock(&self.state).joined
    }

    /// Notes an error of the client library about the group or its topics.
    pub(super) fn note_error(&self, detail: String) {
        lock(&self.state).last_error = Some(detail);
    }

    /// The quarantined partitions with their causes, ordered by topic and partition.
    #[must_use]
    pub fn quarantined(&self) -> Vec<(Partition, QuarantineCause)> {
        self.quarantine.list()
    }

    /// Retries the quarantined partitions now, each at most once a second.
    pub fn retry_quarantined(&self) {
        self.quarantine.retry_now();
    }

    pub(super) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds assigned partitions. Returns each with a ticket for the lookup of its start offset.
    pub(super) fn assigned(&self, partitions: impl IntoIterator<Item = Partition>) -> Vec<(Partition, u64)> {
        let mut state = lock(&self.state);
        state.joined = true;
        let tickets = partitions
            .into_iter()
            .map(|partition| {
                self.quarantine.lift(&partition);
                let ticket = self.next();
                let lag = state.slots.get(&partition).map_or(0, |slot| slot.lag);
                state.slots.insert(
                    partition.clone(),
                    Slot {
                        ticket,
                        fetching: false,
                        reading: None,
                        lag,
                    },
                );
                (partition, ticket)
            })
            .collect::<Vec<_>>();
        if !tickets.is_empty() {
            state.last_error = None;
        }
        count(&state);
        tickets
    }

    /// Removes revoked partitions. Returns those that librdkafka was fetching.
    pub(super) fn revoked(&self, partitions: &[Partition]) -> Vec<Partition> {
        let mut state = lock(&self.state);
        let fetched = partitions
            .iter()
            .filter(|partition| state.slots.get(*partition).is_some_and(|slot| slot.fetching))
            .cloned()
            .collect();
        for partition in partitions {
            self.quarantine.lift(partition);
            if let Some(mut slot) = state.slots.remove(partition) {
                lag_gauge(partition, &mut slot.lag, 0);
            }
        }
        count(&state);
        fetched
    }

    /// Whether the start offset looked up under this ticket is still needed.
    pub(super) fn awaits(&self, partition: &Partition, ticket: u64) -> bool {
        lock(&self.state)
            .slots
            .get(partition)
            .is_some_and(|slot| slot.ticket == ticket && slot.reading.is_none())
    }

    /// Starts reading under a new epoch, if the start offset is still needed.
    pub(super) fn begin(&self, partition: &Partition, ticket: u64, offset: i64) -> Option<u64> {
        let epoch = self.next();
        let mut state = lock(&self.state);
        let slot = state
            .slots
            .get_mut(partition)
            .filter(|slot| slot.ticket == ticket && slot.reading.is_none())?;
        slot.fetching = true;
        slot.reading = Some(Reading {
            epoch,
            start: offset,
            position: offset,
            committed: offset,
            end: None,
            out_of_range: 0,
        });
        Some(epoch)
    }

    /// Ends an epoch, which makes its records stale. Returns whether it was the current one.
    pub(super) fn interrupt(&self, topic: &Arc<str>, partition: i32, epoch: u64) -> bool {
        let mut state = lock(&self.state);
        let Some(slot) = state.slots.get_mut(&(Arc::clone(topic), partition)) else {
            return false;
        };
        let current = slot.reading.is_some_and(|reading| reading.epoch == epoch);
        if current {
            slot.reading = None;
        }
        current
    }

    /// Returns, for an interrupted partition, a ticket for looking up its start offset again and whether librdkafka was
    /// fetching it.
    pub(super) fn restart(&self, partition: &Partition) -> Option<(u64, bool)> {
        let ticket = self.next();
        let mut state = lock(&self.state);
        let slot = state.slots.get_mut(partition).filter(|slot| slot.reading.is_none())?;
        slot.ticket = ticket;
        Some((ticket, std::mem::take(&mut slot.fetching)))
    }

    /// Moves the position after a record was handed out.
    pub(super) fn advance(&self, partition: &Partition, epoch: u64, position: i64) {
        if let Some((reading, _)) = reading(&mut lock(&self.state), partition)
            && reading.epoch == epoch
        {
            reading.position = position;
        }
    }

    /// Notes that the effects up to `offset` are committed.
    pub(super) fn committed(&self, partition: &Partition, offset: i64) {
        let mut state = lock(&self.state);
        let Some((reading, shown)) = reading(&mut state, partition) else {
            return;
        };
        self.quarantine.recovered(partition, Recovery::Commit);
        reading.committed = reading.committed.max(offset);
        if let Some(end) = reading.end {
            lag_gauge(partition, shown, end - reading.committed);
        }
    }

    /// Notes an end that was queried.
    pub(super) fn refresh_end(&self, partition: &Partition, end: i64) {
        let mut state = lock(&self.state);
        let Some((reading, shown)) = reading(&mut state, partition) else {
            return;
        };
        let end = reading.end.map_or(end, |known| known.max(end));
        reading.end = Some(end);
        lag_gauge(partition, shown, end - reading.committed);
    }

    /// Notes the end and the high watermark from librdkafka's statistics. Returns the partition if its position is beyond
    /// the high watermark for the second time in a row, since the first report may be older than the assignment.
    pub(super) fn observe_watermark(&self, topic: &str, partition: i32, end: i64, high: i64) -> Option<Partition> {
        let key: Partition = (topic.into(), partition);
        let mut state = lock(&self.state);
        let slot = state.slots.get_mut(&key)?;
        let reading = slot.reading.as_mut()?;
        // The statistics repeat the latest fetch response; a refresh may have brought a newer value since.
        let end = reading.end.map_or(end, |known| known.max(end));
        reading.end = Some(end);
        lag_gauge(&key, &mut slot.lag, end - reading.committed);
        reading.out_of_range = if high < reading.position {
            reading.out_of_range + 1
        } else {
            0
        };
        (reading.out_of_range == 2).then_some(key)
    }
}

/// The read state of a partition, and the lag that its gauge shows.
fn reading<'a>(state: &'a mut State, partition: &Partition) -> Option<(&'a mut Reading, &'a mut i64)> {
    let slot = state.slots.get_mut(partition)?;
    Some((slot.reading.as_mut()?, &mut slot.lag))
}

/// Sets a partition's lag gauge. Topics beyond the limit on series share one series, which sums their lag.
// Gauges take doubles; offsets stay far below 2⁵³.
#[allow(clippy::cast_precision_loss)]
fn lag_gauge((topic, partition): &Partition, shown: &mut i64, lag: i64) {
    let lag = lag.max(0);
    let before = std::mem::replace(shown, lag);
    let label = metric::topic_label(topic);
    if label == metric::OTHER_TOPICS {
        metrics::gauge!(metric::LAG, "topic" => label, "partition" => "").increment((lag - before) as f64);
    } else {
        metrics::gauge!(metric::LAG, "topic" => label, "partition" => partition.to_string()).set(lag as f64);
    }
}

#[allow(clippy::cast_precision_loss)]
fn count(state: &State) {
    metrics::gauge!(metric::ASSIGNED).set(state.slots.len() as f64);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn partition(number: i32) -> Partition {
        (Arc::from("posts"), number)
    }

    #[test]
    fn each_assignment_of_a_partition_has_its_own_epoch() {
        let assignment = Assignment::default();
        let (zero, topic) = (partition(0), Arc::from("posts"));
        assert!(!assignment.is_ready(), "nothing has been assigned yet");

        let ticket = assignment.assigned([zero.clone()])[0].1;
        assert!(!assignment.is_ready() && assignment.current().is_empty());
        let first = assignment.begin(&zero, ticket, 5).unwrap();
        assert!(assignment.is_ready() && assignment.holds(&topic, 0, first));

        assert_eq!(assignment.revoked(std::slice::from_ref(&zero)), vec![zero.clone()]);
        assert!(!assignment.holds(&topic, 0, first));
        let ticket = assignment.assigned([zero.clone()])[0].1;
        let second = assignment.begin(&zero, ticket, 5).unwrap();
        assert!(assignment.holds(&topic, 0, second) && !assignment.holds(&topic, 0, first));
    }

    #[test]
    fn a_revocation_removes_only_the_revoked_partitions() {
        let assignment = Assignment::default();
        let tickets = assignment.assigned([partition(0), partition(1)]);
        for (partition, ticket) in &tickets {
            assignment.begin(partition, *ticket, 0).unwrap();
        }
        assignment.revoked(&[partition(0)]);
        let left: Vec<i32> = assignment.current().iter().map(|held| held.partition).collect();
        assert_eq!(left, [1]);
    }

    #[test]
    fn a_start_offset_with_an_old_ticket_is_ignored() {
        let assignment = Assignment::default();
        let old = assignment.assigned([partition(0)])[0].1;
        assignment.revoked(&[partition(0)]);
        assert!(assignment.begin(&partition(0), old, 0).is_none());
        let new = assignment.assigned([partition(0)])[0].1;
        assert!(assignment.begin(&partition(0), old, 0).is_none());
        assert!(assignment.awaits(&partition(0), new));
        assert!(assignment.begin(&partition(0), new, 0).is_some());
        assert!(
            assignment.begin(&partition(0), new, 0).is_none(),
            "a ticket can be used only once"
        );
    }

    #[test]
    fn only_the_current_epoch_can_be_interrupted_and_only_once() {
        let assignment = Assignment::default();
        let topic: Arc<str> = Arc::from("posts");
        let ticket = assignment.assigned([partition(0)])[0].1;
        let epoch = assignment.begin(&partition(0), ticket, 0).unwrap();
        assert!(!assignment.interrupt(&topic, 0, epoch + 1));
        assert!(assignment.interrupt(&topic, 0, epoch));
        assert!(!assignment.interrupt(&topic, 0, epoch));
        assert!(!assignment.holds(&topic, 0, epoch));
        let (ticket, fetched) = assignment.restart(&partition(0)).unwrap();
        assert!(fetched);
        assert!(assignment.begin(&partition(0), ticket, 3).unwrap() > epoch);
    }

    #[test]
    fn a_revoked_partition_that_was_never_fetched_needs_no_unassign() {
        let assignment = Assignment::default();
        assignment.assigned([partition(0)]);
        assert!(assignment.revoked(&[partition(0)]).is_empty());
    }

    #[test]
    fn a_position_beyond_the_end_is_reported_after_two_consecutive_observations() {
        let assignment = Assignment::default();
        let ticket = assignment.assigned([partition(0)])[0].1;
        assignment.begin(&partition(0), ticket, 50).unwrap();
        assert_eq!(assignment.observe_watermark("posts", 0, 10, 10), None);
        assert_eq!(assignment.observe_watermark("posts", 0, 60, 60), None);
        assert_eq!(assignment.observe_watermark("posts", 0, 10, 10), None);
        assert_eq!(assignment.observe_watermark("posts", 0, 10, 10), Some(partition(0)));
        assert_eq!(assignment.observe_watermark("posts", 0, 10, 10), None, "reported once");
        assert_eq!(
            assignment.observe_watermark("posts", 0, 50, 50),
            None,
            "a position at the end is in range"
        );
    }

    #[test]
    fn lag_is_counted_from_the_committed_offset_to_the_end() {
        let assignment = Assignment::default();
        let ticket = assignment.assigned([partition(0)])[0].1;
        assignment.begin(&partition(0), ticket, 10).unwrap();
        assert_eq!(assignment.totals(), (1, 0));
        assignment.observe_watermark("posts", 0, 25, 25);
        assert_eq!(assignment.totals(), (1, 15));
        assignment.committed(&partition(0), 20);
        assignment.committed(&partition(0), 18);
        assert_eq!(assignment.totals(), (1, 5));
        assignment.refresh_end(&partition(0), 40);
        assignment.observe_watermark("posts", 0, 25, 25);
        assert_eq!(assignment.totals(), (1, 20), "older statistics don't lower the end");
    }
}
