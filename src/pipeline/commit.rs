//! The last stage: commits classified windows to Postgres and then to Kafka.
//!
//! Windows arrive in the order in which they were closed, so the records of a set form a contiguous range of each
//! partition. A range's effects and its next offset are written in one transaction, which is fenced by the offset at which
//! the range starts; see [`crate::store`].

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
    store::{FencedRange, Flush, FlushError, Flushed, Store, StoreErrorKind},
    telemetry::{
        health::{Component, Health},
        metric,
    },
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Sets of at most this many records are not halved when the server can't handle them: their size is not the problem.
const MIN_SPLIT_RECORDS: usize = 32;

/// How far a partition is committed under one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// The next offset in Postgres.
    At(i64),
    /// Another consumer has advanced the offset, so nothing of this epoch may be written any more.
    Fenced,
}

/// The result of trying to commit a set.
enum Attempt {
    /// It is committed, or none of its partitions is assigned to this member any more.
    Done,
    /// The shutdown deadline has passed.
    Abandoned,
    /// Nothing of it was stored; smaller parts may succeed.
    TooLarge(Box<CommitSet>),
}

/// Commits classified records.
pub(super) struct Committer {
    pub(super) store: Store,
    pub(super) consumer: Arc<Consumer>,
    pub(super) assignment: Assignment,
    /// `None` if rejected records are only counted.
    pub(super) dead_letters: Option<DeadLetters>,
    /// Whether tombstones become dead letters too.
    pub(super) dead_letters_of_tombstones: bool,
    pub(super) group: Arc<str>,
    pub(super) model: Arc<ModelInfo>,
    pub(super) max_flush_records: usize,
    pub(super) health: Health,
    /// Cancelled when the shutdown deadline has passed; ends retries.
    pub(super) abandon: CancellationToken,
    /// Updated after each commit.
    pub(super) totals: watch::Sender<Totals>,
    pub(super) positions: Positions,
}

/// The positions of the partitions, each with the epoch to which it belongs.
#[derive(Debug, Default)]
pub(super) struct Positions(HashMap<Partition, (u64, Position)>);

impl Positions {
    /// The offset at which a range of this epoch must start; `None` if the epoch was fenced.
    fn expected(&self, partition: &Partition, epoch: u64, start: i64) -> Option<i64> {
        match self.0.get(partition) {
            Some((known, Position::Fenced)) if *known == epoch => None,
            Some((known, Position::At(offset))) if *known == epoch => Some(*offset),
            // Nothing of a new epoch is committed yet, so it is at its start offset.
            _ => Some(start),
        }
    }

    fn set(&mut self, partition: &Partition, epoch: u64, position: Position) {
        self.0.insert(partition.clone(), (epoch, position));
    }
}

impl Committer {
    /// Commits windows until their channel closes. Returns when everything is committed or abandoned at the deadline.
    ///
    /// # Errors
    /// An earlier stage or a flush failed in a way that no retry can fix.
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
            // Windows that are ready join the same transaction, so the slower the database, the larger the sets.
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

    /// Returns a window's records, or `None` if the shutdown deadline has passed. In that case no later window may be
    /// committed, since its offsets would skip this one's records.
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

    /// Commits records in one transaction, or in several if their posts span too many days.
    /// Breaks if the shutdown deadline has passed.
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
            // A stale record: its partition was revoked or restarted. The next owner starts at the committed offset.
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

    /// Commits the set, in parts if it is too large for one transaction. Breaks if the shutdown deadline has passed: no
    /// later records may be committed then, since their offsets would skip the abandoned ones.
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

    /// Retries until the set is committed, none of its partitions is assigned any more, or the deadline has passed.
    async fn commit_whole(&mut self, mut set: CommitSet) -> anyhow::Result<Attempt> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        // Derived once: if the answer to a COMMIT was lost, trying the same flush again shows whether it succeeded.
        let mut flush = set.to_flush(&self.group, &self.model);
        loop {
            self.drop_stale(&mut set, &mut flush);
            if flush.is_empty() {
                // Any faults concerned records that now belong to other members; the next flush reports its own.
                self.health.clear_fault(Component::Database);
                self.health.clear_fault(Component::DeadLetters);
                return Ok(Attempt::Done);
            }
            // Dead letters come first: an offset must not pass a record that is neither stored nor a dead letter. After a
            // crash between the two a dead letter is written again, with the same origin in its headers.
            if !set.dead_letters_sent {
                let sent = self.send_dead_letters(&set).await;
                self.health.progress();
                if let Err(error) = sent {
                    let error = error.to_string();
                    self.health.set_fault(Component::DeadLetters, &error);
                    if !self.pause("dead_letter", &error, &mut backoff).await {
                        return Ok(Attempt::Abandoned);
                    }
                    continue;
                }
                set.dead_letters_sent = true;
                // Clears the fault even if the dead letters that could not be written were dropped with a revoked partition.
                self.health.clear_fault(Component::DeadLetters);
            }
            let begun = Instant::now();
            let result = self.store.flush(&flush).await;
            self.health.progress();
            match result {
                Ok(flushed) => {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "committed").increment(1);
                    metrics::histogram!(metric::TRANSACTION_SECONDS).record(begun.elapsed().as_secs_f64());
                    self.health.clear_fault(Component::Database);
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
                // The same set would fail again the same way, even on a healthy server.
                Err(FlushError::Store(error))
                    if matches!(error.kind, StoreErrorKind::NoMemory | StoreErrorKind::Slow)
                        && set.len() > MIN_SPLIT_RECORDS =>
                {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "failed").increment(1);
                    self.health.set_fault(Component::Database, error.to_string());
                    return Ok(Attempt::TooLarge(Box::new(set)));
                }
                // The tables refuse some record. Halving finds it, and it becomes a dead letter.
                Err(FlushError::Store(error)) if error.kind == StoreErrorKind::Row && set.has_rows() => {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "failed").increment(1);
                    if set.len() > 1 {
                        return Ok(Attempt::TooLarge(Box::new(set)));
                    }
                    let error = error.to_string();
                    let refused = match self.store.takes_plain_rows(&flush).await {
                        Ok(true) => {
                            tracing::warn!(error, "the database refuses a row; rejecting its record");
                            set.reject_all(&error);
                            flush = set.to_flush(&self.group, &self.model);
                            continue;
                        }
                        // Otherwise every record would become a dead letter.
                        Ok(false) => format!("every row is refused, a plain one too: {error}"),
                        Err(other) => other.to_string(),
                    };
                    self.health.set_fault(Component::Database, &refused);
                    if !self.pause("database", &refused, &mut backoff).await {
                        return Ok(Attempt::Abandoned);
                    }
                }
                // The tables were migrated for a newer program, so no partition can continue here.
                Err(error @ FlushError::Outdated(_)) => return Err(error.into()),
                // A bug, or someone has changed the tables: no retry helps, and no record may be skipped. Halving finds the
                // record that fails, and its partition is quarantined.
                Err(
                    error @ (FlushError::Invalid(_) | FlushError::Inconsistent(_) | FlushError::TooManyDays { .. }),
                ) => {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "failed").increment(1);
                    if set.len() > 1 {
                        return Ok(Attempt::TooLarge(Box::new(set)));
                    }
                    self.quarantine(&set, &error);
                }
                // Everything else may be fixed from outside (disk, permissions, server): wait and retry.
                Err(error) => {
                    metrics::counter!(metric::TRANSACTIONS, "result" => "failed").increment(1);
                    let error = error.to_string();
                    self.health.set_fault(Component::Database, &error);
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

    /// Quarantines the partition of a set whose only record can be neither stored nor rejected.
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
            tracing::warn!(%range, "fenced: another consumer has advanced the offset; dropping the records and restarting the partition");
            let partition = (Arc::clone(&range.topic), range.partition);
            if let Some(epoch) = set.epoch(&partition) {
                self.positions.set(&partition, epoch, Position::Fenced);
                self.consumer.restart(&partition.0, partition.1, epoch);
            }
            set.drop_partition(&partition);
            flush.drop_partition(&partition.0, partition.1);
        }
    }

    /// After COMMIT, updates the positions and counts, and commits the same offsets to Kafka.
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

    /// Commits offsets to Kafka, for lag tools only. Nothing depends on its success.
    fn commit_to_kafka(&self, offsets: &[(Arc<str>, i32, i64)]) {
        fail_point!("kafka-commit-before", ());
        self.consumer.commit(offsets);
        fail_point!("kafka-commit-after", ());
    }

    /// Waits before the next attempt. Returns whether to retry: false once the shutdown deadline has passed.
    async fn pause(&self, what: &'static str, error: &str, backoff: &mut Backoff) -> bool {
        let pause = backoff.pause();
        metrics::counter!(metric::RETRIES, "what" => what).increment(1);
        tracing::warn!(%error, retry_in_ms = pause.as_millis() as u64, "{what} failed; the offsets are held back");
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
    fn a_new_assignment_is_expected_at_its_start_offset() {
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
