//! The last stage: classified windows are committed, to Postgres and then to Kafka.
//!
//! Windows arrive in the order in which they were closed, so the records taken together are a contiguous range of each
//! partition. A range's effects and the offset it reaches are one transaction, fenced by the offset it starts
//! from; see [`crate::store`].

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{classified::Classified, commit_set::CommitSet, counts::count, summary::Totals, window::Pending};
use crate::{
    backoff::Backoff,
    fail_point::fail_point,
    kafka::{Assignment, Consumer, DeadLetterError, DeadLetters, Partition},
    model::ModelInfo,
    store::{Fault, FencedRange, Flush, FlushError, Flushed, Store},
    telemetry::{
        health::{Health, Part},
        metric,
    },
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A set of so few records is not halved any more: it is not its size that the server can't handle.
const FEW: usize = 32;

/// How far a partition is committed under one assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// The next offset as Postgres has it.
    At(i64),
    /// Another consumer has moved the offset on: nothing of this assignment may be written any more.
    Fenced,
}

/// How an attempt to commit a set has ended.
enum Attempt {
    /// It is committed, or none of its partitions is assigned to this member any more.
    Done,
    /// The deadline of the shutdown has passed.
    Abandoned,
    /// Nothing of it was stored; smaller parts may succeed.
    TooLarge(Box<CommitSet>),
}

/// Commits what was classified.
pub(super) struct Committer {
    pub(super) store: Store,
    pub(super) consumer: Arc<Consumer>,
    pub(super) assignment: Assignment,
    /// None where rejected records are only counted.
    pub(super) dead_letters: Option<DeadLetters>,
    /// Whether tombstones are written there too.
    pub(super) dead_letters_of_tombstones: bool,
    pub(super) group: Arc<str>,
    pub(super) model: Arc<ModelInfo>,
    pub(super) max_flush_records: usize,
    pub(super) health: Health,
    /// Ends retries: the deadline of the shutdown has passed.
    pub(super) abandon: CancellationToken,
    /// Updated after each commit.
    pub(super) totals: watch::Sender<Totals>,
    pub(super) positions: Positions,
}

/// The positions of the partitions, each under the assignment it belongs to.
#[derive(Debug, Default)]
pub(super) struct Positions(HashMap<Partition, (u64, Position)>);

impl Positions {
    /// The offset that a range of this assignment must start from; `None` if it was fenced.
    fn expected(&self, partition: &Partition, epoch: u64, start: i64) -> Option<i64> {
        match self.0.get(partition) {
            Some((known, Position::Fenced)) if *known == epoch => None,
            Some((known, Position::At(offset))) if *known == epoch => Some(*offset),
            // A new assignment: nothing of it is committed yet, so it is where it was started.
            _ => Some(start),
        }
    }

    fn set(&mut self, partition: &Partition, epoch: u64, position: Position) {
        self.0.insert(partition.clone(), (epoch, position));
    }
}

impl Committer {
    /// Commits windows until their channel closes. Returns when everything is committed, or given up at the deadline.
    ///
    /// # Errors
    /// A stage above has failed in a way that no retry mends.
    pub(super) async fn run(mut self, mut windows: mpsc::Receiver<Pending>) -> anyhow::Result<()> {
        let mut next: Option<Pending> = None;
        loop {
            let Some(pending) = (match next.take() {
                Some(pending) => Some(pending),
                None => {
                    self.health.idle();
                    let pending = windows.recv().await;
                    self.health.progress();
                    pending
                }
            }) else {
                return Ok(());
            };
            let Some(mut records) = self.await_window(pending).await? else {
                return Ok(());
            };
            // Windows that are done by now go into the same transaction: the slower the database, the larger the sets.
            while records.len() < self.max_flush_records {
                match windows.try_recv() {
                    Ok(pending) if pending.task.is_finished() => match self.await_window(pending).await? {
                        Some(more) => records.extend(more),
                        None => return Ok(()),
                    },
                    Ok(pending) => {
                        next = Some(pending);
                        break;
                    }
                    Err(_) => break,
                }
            }
            if self.commit_records(records).await?.is_break() {
                return Ok(());
            }
        }
    }

    /// A window's records; none where the deadline of the shutdown has passed. No later window may be committed then:
    /// its offsets would skip this one's records.
    async fn await_window(&self, mut pending: Pending) -> anyhow::Result<Option<Vec<Classified>>> {
        tokio::select! {
            classified = &mut pending.task => {
                self.health.progress();
                classified.context("a window's task ended")?.map(Some)
            }
            () = self.abandon.cancelled() => {
                pending.task.abort();
                Ok(None)
            }
        }
    }

    /// Commits records: in one transaction, or in several if their posts lie on too many days for one.
    /// Breaks off where the deadline of the shutdown has passed.
    async fn commit_records(&mut self, records: Vec<Classified>) -> anyhow::Result<ControlFlow<()>> {
        let starts: HashMap<(Partition, u64), i64> = self
            .assignment
            .current()
            .into_iter()
            .map(|assigned| (((assigned.topic, assigned.partition), assigned.epoch), assigned.start))
            .collect();
        let mut set = CommitSet::default();
        for record in records {
            if set.is_full_for(&record) {
                let full = std::mem::take(&mut set);
                if self.commit(full).await?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            // Stale: its partition was revoked or restarted. Its next owner starts from what is committed.
            if !self
                .assignment
                .holds(&record.origin.topic, record.origin.partition, record.epoch)
            {
                continue;
            }
            let read = (record.origin.topic_partition(), record.epoch);
            let Some(start) = starts.get(&read) else { continue };
            let Some(committed) = self.positions.expected(&read.0, record.epoch, *start) else {
                continue;
            };
            set.push(record, committed);
        }
        self.commit(set).await
    }

    /// Commits the set, in parts where it is too large for one transaction. Breaks off where the deadline of the
    /// shutdown has passed: nothing that comes after may be committed then, as it would pass over what was given up.
    async fn commit(&mut self, set: CommitSet) -> anyhow::Result<ControlFlow<()>> {
        let mut parts = vec![set];
        while let Some(set) = parts.pop() {
            match self.commit_whole(set).await? {
                Attempt::Done => {}
                Attempt::Abandoned => return Ok(ControlFlow::Break(())),
                Attempt::TooLarge(set) => {
                    tracing::debug!(records = set.len(), "too large for one transaction: halving it");
                    let (first, second) = set.split();
                    parts.extend([second, first]);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Tries until the set is committed, none of its partitions is assigned any more, or the deadline has passed.
    async fn commit_whole(&mut self, mut set: CommitSet) -> anyhow::Result<Attempt> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        // Derived once: a commit whose answer was lost is recognised by trying the same flush again.
        let mut flush = set.flush(&self.group, &self.model);
        loop {
            self.drop_stale(&mut set, &mut flush);
            if flush.is_empty() {
                // The faults concerned records that other members have now; the next flush tells how things are.
                self.health.well(Part::Database);
                self.health.well(Part::DeadLetters);
                return Ok(Attempt::Done);
            }
            // Dead letters first: an offset must not pass a record that is neither stored nor written there. After a crash
            // between the two a letter is written again, with the same origin in its headers.
            if !set.dead_letters_sent {
                let sent = self.send_dead_letters(&set).await;
                self.health.progress();
                if let Err(error) = sent {
                    let error = error.to_string();
                    self.health.fault(Part::DeadLetters, &error);
                    if !self.pause("dead_letter", &error, &mut backoff).await {
                        return Ok(Attempt::Abandoned);
                    }
                    continue;
                }
                set.dead_letters_sent = true;
                // Also where those that could not be written went to another member with their partition.
                self.health.well(Part::DeadLetters);
            }
            let begun = Instant::now();
            let result = self.store.flush(&flush).await;
            self.health.progress();
            match result {
                Ok(flushed) => {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "committed").increment(1);
                    metrics::histogram!(metric::TRANSACTION_SECONDS).record(begun.elapsed().as_secs_f64());
                    self.health.well(Part::Database);
                    self.committed(&set, &flush, &flushed);
                    return Ok(Attempt::Done);
                }
                Err(FlushError::Fenced(fenced)) => {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "fenced").increment(1);
                    self.fenced(&mut set, &mut flush, &fenced);
                }
                Err(FlushError::TooManyDays { .. }) if set.len() > 1 => {
                    return Ok(Attempt::TooLarge(Box::new(set)));
                }
                // The same set again would fail the same way, however alive the server is.
                Err(FlushError::Store(error))
                    if matches!(error.fault, Fault::NoMemory | Fault::Slow) && set.len() > FEW =>
                {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "failed").increment(1);
                    self.health.fault(Part::Database, error.to_string());
                    return Ok(Attempt::TooLarge(Box::new(set)));
                }
                // Some record holds what the tables can't: found by halving, it becomes a dead letter.
                Err(FlushError::Store(error)) if error.fault == Fault::Row && set.has_rows() => {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "failed").increment(1);
                    if set.len() > 1 {
                        return Ok(Attempt::TooLarge(Box::new(set)));
                    }
                    let error = error.to_string();
                    let refused = match self.store.takes_plain_rows(&flush).await {
                        Ok(true) => {
                            tracing::warn!(error, "the database refuses a row: its record is rejected");
                            set.reject_all(&error);
                            flush = set.flush(&self.group, &self.model);
                            continue;
                        }
                        // Every record would become a dead letter, until the topic is empty.
                        Ok(false) => format!("every row is refused, a plain one too: {error}"),
                        Err(other) => other.to_string(),
                    };
                    self.health.fault(Part::Database, &refused);
                    if !self.pause("database", &refused, &mut backoff).await {
                        return Ok(Attempt::Abandoned);
                    }
                }
                // The tables were migrated for a newer program: none of the partitions can go on here.
                Err(error @ FlushError::Outdated(_)) => return Err(error.into()),
                // A bug, or someone has changed the tables: no retry helps, and no record may be skipped. The one at which it
                // shows is found by halving, and its partition stops there.
                Err(
                    error @ (FlushError::Invalid(_) | FlushError::Inconsistent(_) | FlushError::TooManyDays { .. }),
                ) => {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "failed").increment(1);
                    if set.len() > 1 {
                        return Ok(Attempt::TooLarge(Box::new(set)));
                    }
                    self.quarantine(&set, &error);
                }
                // Everything else may be repaired from outside (a disk, a right, a server): wait and try again.
                Err(error) => {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "failed").increment(1);
                    let error = error.to_string();
                    self.health.fault(Part::Database, &error);
                    if !self.pause("database", &error, &mut backoff).await {
                        return Ok(Attempt::Abandoned);
                    }
                }
            }
        }
    }

    /// Drops the records of partitions that are no longer assigned to this member.
    fn drop_stale(&self, set: &mut CommitSet, flush: &mut Flush) {
        let stale: Vec<Partition> = set
            .epochs()
            .filter(|((topic, partition), epoch)| !self.assignment.holds(topic, *partition, *epoch))
            .map(|(partition, _)| partition.clone())
            .collect();
        for partition in &stale {
            set.drop_partition(partition);
            flush.drop_partition(&partition.0, partition.1);
        }
    }

    async fn send_dead_letters(&self, set: &CommitSet) -> Result<(), DeadLetterError> {
        let Some(dead_letters) = &self.dead_letters else {
            return Ok(());
        };
        let letters = set.dead_letters(self.dead_letters_of_tombstones);
        if letters.is_empty() {
            return Ok(());
        }
        fail_point!("dead-letters-before", Err(dead_letters.at_fail_point(&letters)));
        dead_letters.send(&letters).await?;
        fail_point!("dead-letters-after", Err(dead_letters.at_fail_point(&letters)));
        Ok(())
    }

    /// Stops the partition of a set of one record, which can be neither stored nor rejected.
    fn quarantine(&self, set: &CommitSet, error: &FlushError) {
        for ((topic, partition), epoch) in set.epochs() {
            let offset = set.first_offset().unwrap_or_default();
            let detail = format!("the record at offset {offset} can't be stored: {error}");
            self.consumer.quarantine(topic, *partition, epoch, &detail);
        }
    }

    fn fenced(&mut self, set: &mut CommitSet, flush: &mut Flush, fenced: &[FencedRange]) {
        for range in fenced {
            metrics::counter!(metric::FENCED).increment(1);
            self.totals.send_modify(|totals| totals.fenced += 1);
            tracing::warn!(%range, "fenced: another consumer has moved the offset on; dropping the records and restarting the partition");
            let partition = (Arc::clone(&range.topic), range.partition);
            if let Some(epoch) = set.epoch(&partition) {
                self.positions.set(&partition, epoch, Position::Fenced);
                self.consumer.restart(&partition.0, partition.1, epoch);
            }
            set.drop_partition(&partition);
            flush.drop_partition(&partition.0, partition.1);
        }
    }

    /// After COMMIT: notes the positions, counts, and commits the same offsets to Kafka.
    fn committed(&mut self, set: &CommitSet, flush: &Flush, flushed: &Flushed) {
        let mut offsets = Vec::with_capacity(flush.ranges.len());
        for range in &flush.ranges {
            let partition = (Arc::clone(&range.topic), range.partition);
            if let Some(epoch) = set.epoch(&partition) {
                self.positions.set(&partition, epoch, Position::At(range.next));
            }
            offsets.push((partition.0, partition.1, range.next));
        }
        count(&self.totals, self.health.status(), set, flush, flushed);
        self.commit_to_kafka(&offsets);
    }

    /// For lag tools. Nothing here depends on whether it succeeds.
    fn commit_to_kafka(&self, offsets: &[(Arc<str>, i32, i64)]) {
        fail_point!("kafka-commit-before", ());
        self.consumer.commit(offsets);
        fail_point!("kafka-commit-after", ());
    }

    /// Waits before the next attempt. False when the deadline of the shutdown has passed.
    async fn pause(&self, what: &'static str, error: &str, backoff: &mut Backoff) -> bool {
        let pause = backoff.pause();
        metrics::counter!(metric::RETRIES, "what" => what).increment(1);
        tracing::warn!(%error, retry_in_ms = pause.as_millis() as u64, "{what}: failed, the offsets are held back");
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = self.abandon.cancelled() => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_assignment_starts_where_it_was_started() {
        let partition: Partition = ("posts".into(), 0);
        let mut positions = Positions::default();
        assert_eq!(positions.expected(&partition, 1, 7), Some(7));
        positions.set(&partition, 1, Position::At(20));
        assert_eq!(positions.expected(&partition, 1, 7), Some(20));
        assert_eq!(positions.expected(&partition, 2, 20), Some(20));
        positions.set(&partition, 2, Position::Fenced);
        assert_eq!(positions.expected(&partition, 2, 20), None);
        assert_eq!(positions.expected(&partition, 3, 25), Some(25));
    }
}
