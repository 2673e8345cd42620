//! The records that one transaction commits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use time::Date;

use super::classified::{Classified, Outcome, StageTimes};
use crate::{
    kafka::{DeadLetter, Partition},
    model::ModelInfo,
    post::{Reason, Reject},
    store::{self, DeletionRow, Flush, OffsetRange, PostRow},
};

/// Records in the order in which they were read, so that those of each partition form a contiguous range of offsets.
/// The store's [`Flush`] is derived from them.
#[derive(Debug, Default)]
pub(super) struct CommitSet {
    records: Vec<Classified>,
    /// The start of each partition's range.
    starts: BTreeMap<Partition, Start>,
    /// The days of its posts.
    days: BTreeSet<Date>,
    /// Whether its dead letters were sent. If so, the halves of a split set need not send them again.
    pub(super) dead_letters_sent: bool,
}

/// The start of a partition's range.
#[derive(Debug, Clone, Copy)]
struct Start {
    /// The epoch under which the range was read.
    epoch: u64,
    /// The offset that is committed in the database.
    offset: i64,
}

impl CommitSet {
    /// Whether this record's post would add one day more than a transaction may touch.
    pub(super) fn is_full_for(&self, record: &Classified) -> bool {
        day(record).is_some_and(|day| self.days.len() >= store::MAX_DAYS && !self.days.contains(&day))
    }

    /// Adds a record. If it is the first one of its partition, the partition's range starts at `committed`, which is
    /// less than the record's own offset if there are gaps. The caller has checked that its assignment still holds.
    pub(super) fn push(&mut self, record: Classified, committed: i64) {
        self.starts.entry(record.origin.topic_partition()).or_insert(Start {
            epoch: record.epoch,
            offset: committed,
        });
        self.days.extend(day(&record));
        self.records.push(record);
    }

    /// The transaction's contents.
    pub(super) fn to_flush(&self, group: &Arc<str>, model: &Arc<ModelInfo>) -> Flush {
        let mut flush = Flush::new(Arc::clone(group), Arc::clone(model));
        let mut ranges: BTreeMap<Partition, OffsetRange> = BTreeMap::new();
        for ((topic, partition), start) in &self.starts {
            let range = OffsetRange {
                topic: Arc::clone(topic),
                partition: *partition,
                expected: start.offset,
                next: start.offset,
                filtered: 0,
                late: 0,
                rejected: 0,
                last: None,
            };
            ranges.insert((Arc::clone(topic), *partition), range);
        }
        for record in &self.records {
            let Some(range) = ranges.get_mut(&record.origin.topic_partition()) else {
                continue;
            };
            range.next = record.origin.offset + 1;
            range.last = Some(record.fingerprint);
            match &record.outcome {
                Outcome::Post {
                    post,
                    subjects,
                    prediction,
                } => flush.posts.push(PostRow {
                    post: Arc::clone(post),
                    prediction: prediction.clone(),
                    subjects: subjects.clone(),
                    origin: record.origin.clone(),
                    timestamp: record.timestamp,
                }),
                Outcome::Deletion(deletion) => flush.deletions.push(DeletionRow {
                    deletion: deletion.clone(),
                    origin: record.origin.clone(),
                }),
                Outcome::Filtered => range.filtered += 1,
                Outcome::Late => range.late += 1,
                Outcome::Rejected(_) => range.rejected += 1,
            }
        }
        flush.ranges = ranges.into_values().collect();
        flush
    }

    /// When its posts passed the stages, in the order of the flush's posts.
    pub(super) fn stage_times(&self) -> Vec<StageTimes> {
        let posts = |record: &&Classified| matches!(record.outcome, Outcome::Post { .. });
        self.records
            .iter()
            .filter(posts)
            .map(|record| record.stage_times)
            .collect()
    }

    /// The dead letters of its rejected records.
    pub(super) fn dead_letters(&self, of_tombstones: bool) -> Vec<DeadLetter> {
        let letter = |record: &Classified| record.dead_letter(of_tombstones);
        self.records.iter().filter_map(letter).collect()
    }

    /// The number of rejected records by reason.
    pub(super) fn rejects(&self) -> BTreeMap<&'static str, u64> {
        let mut reasons = BTreeMap::new();
        for record in &self.records {
            if let Outcome::Rejected(reject) = &record.outcome {
                *reasons.entry(reject.reason.as_str()).or_default() += 1;
            }
        }
        reasons
    }

    /// Whether any of its records writes or deletes a post's row.
    pub(super) fn has_rows(&self) -> bool {
        self.records
            .iter()
            .any(|record| matches!(record.outcome, Outcome::Post { .. } | Outcome::Deletion(_)))
    }

    /// Rejects all records that write or delete rows, because the database refuses them.
    pub(super) fn reject_all(&mut self, why: &str) {
        self.dead_letters_sent = false;
        self.days.clear();
        for record in &mut self.records {
            if matches!(record.outcome, Outcome::Post { .. } | Outcome::Deletion(_)) {
                record.outcome = Outcome::Rejected(Reject::new(Reason::Database, why));
            }
        }
    }

    /// The epoch under which a partition's records were read.
    pub(super) fn epoch(&self, partition: &Partition) -> Option<u64> {
        self.starts.get(partition).map(|start| start.epoch)
    }

    /// The partitions in it, each with the epoch under which its records were read.
    pub(super) fn epochs(&self) -> impl Iterator<Item = (&Partition, u64)> {
        self.starts.iter().map(|(partition, start)| (partition, start.epoch))
    }

    /// Removes a partition with its records.
    pub(super) fn drop_partition(&mut self, partition: &Partition) {
        self.starts.remove(partition);
        self.records
            .retain(|record| record.origin.topic != partition.0 || record.origin.partition != partition.1);
    }

    /// The offset of its first record.
    pub(super) fn first_offset(&self) -> Option<i64> {
        self.records.first().map(|record| record.origin.offset)
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Splits it into two sets that, one after the other, commit what it would have committed. Their flushes differ from
    /// its own, so the caller must be certain that it has not been committed.
    pub(super) fn split(mut self) -> (Self, Self) {
        let tail = self.records.split_off(self.records.len() / 2);
        let mut first = Self {
            dead_letters_sent: self.dead_letters_sent,
            ..Self::default()
        };
        let mut second = Self {
            dead_letters_sent: self.dead_letters_sent,
            ..Self::default()
        };
        // The second half of a partition starts where the first one ends.
        let mut reached: BTreeMap<Partition, i64> = BTreeMap::new();
        for record in self.records {
            let partition = record.origin.topic_partition();
            let offset = self
                .starts
                .get(&partition)
                .map_or(record.origin.offset, |start| start.offset);
            reached.insert(partition, record.origin.offset + 1);
            first.push(record, offset);
        }
        for record in tail {
            let partition = record.origin.topic_partition();
            let start = self.starts.get(&partition).map(|start| start.offset);
            let offset = reached
                .get(&partition)
                .copied()
                .or(start)
                .unwrap_or(record.origin.offset);
            second.push(record, offset);
        }
        (first, second)
    }
}

/// The day of a record's post.
fn day(record: &Classified) -> Option<Date> {
    match &record.outcome {
        Outcome::Post { post, .. } => Some(store::day_of(post.created_at.get())),
        _ => None,
    }
}
