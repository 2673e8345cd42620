//! Windows put together into what one transaction writes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use time::{Date, OffsetDateTime};

use super::{read::Fate, window::Judged};
use crate::{
    kafka::{DeadLetter, Partition, Permit},
    model::ModelInfo,
    post::{Origin, Reject},
    store::{self, DeletionRow, Flush, PostRow, Run},
};

/// What one transaction settles, and what goes with it.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) flush: Flush,
    /// The assignment under which each partition's run was read.
    pub(super) epochs: BTreeMap<Partition, u64>,
    pub(super) letters: Vec<DeadLetter>,
    /// Whether the letters are written: a crash writes them again, a part of the batch need not.
    pub(super) lettered: bool,
    /// The broker's times of the posts, in the order of the flush's posts.
    pub(super) timestamps: Vec<Option<OffsetDateTime>>,
    runs: HashMap<Partition, usize>,
    days: BTreeSet<Date>,
    /// The records, in the order in which they were put in: what the batch can be cut by.
    marks: Vec<Mark>,
}

/// A record of a batch.
#[derive(Debug)]
struct Mark {
    partition: Partition,
    offset: i64,
    kind: Kind,
    /// The consumer's budget counts the record until it is settled.
    permit: Permit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Post,
    Deletion,
    Filtered,
    Late,
    Rejected,
}

/// What a record brings into the batch.
enum Part {
    Post(PostRow, Option<OffsetDateTime>),
    Deletion(DeletionRow),
    Filtered,
    Late,
    Rejected(DeadLetter),
}

impl Batch {
    pub(super) fn new(group: &Arc<str>, model: &Arc<ModelInfo>) -> Self {
        Self {
            flush: Flush::new(Arc::clone(group), Arc::clone(model)),
            epochs: BTreeMap::new(),
            letters: Vec::new(),
            lettered: false,
            timestamps: Vec::new(),
            runs: HashMap::new(),
            days: BTreeSet::new(),
            marks: Vec::new(),
        }
    }

    /// Whether a post of this record would lie on one day more than a transaction may touch.
    pub(super) fn is_full_for(&self, judged: &Judged) -> bool {
        let Fate::Post { post, .. } = &judged.fate else {
            return false;
        };
        self.days.len() >= store::MAX_DAYS && !self.days.contains(&store::day_of(post.created_at))
    }

    /// Adds a record of a run that starts at `expected`. The caller has made sure that its assignment still holds.
    pub(super) fn push(&mut self, judged: Judged, expected: i64) {
        let Judged { message, fate, verdict } = judged;
        let (origin, epoch) = (message.origin, message.epoch);
        let part = match (fate, verdict) {
            (Fate::Post { post, topics, .. }, Some(verdict)) => {
                let row = PostRow {
                    post,
                    verdict,
                    topics,
                    origin: origin.clone(),
                };
                Part::Post(row, message.timestamp)
            }
            // The window stage gives every post a verdict or a rejection.
            (Fate::Post { .. } | Fate::Filtered, _) => Part::Filtered,
            (Fate::Late, _) => Part::Late,
            (Fate::Deletion(deletion), _) => Part::Deletion(DeletionRow {
                deletion,
                origin: origin.clone(),
            }),
            (Fate::Rejected(Reject { reason, detail }), _) => Part::Rejected(DeadLetter {
                origin: origin.clone(),
                timestamp: message.timestamp,
                key: message.key,
                payload: message.payload,
                reason: reason.as_str(),
                detail,
            }),
        };
        self.add(
            origin.topic_partition(),
            origin.offset,
            epoch,
            message.permit,
            part,
            expected,
        );
    }

    fn add(&mut self, partition: Partition, offset: i64, epoch: u64, permit: Permit, part: Part, expected: i64) {
        let place = *self.runs.entry(partition.clone()).or_insert_with(|| {
            let (topic, number) = partition.clone();
            self.flush.runs.push(Run {
                topic,
                partition: number,
                expected,
                next: expected,
                filtered: 0,
                late: 0,
                rejected: 0,
            });
            self.flush.runs.len() - 1
        });
        self.epochs.insert(partition.clone(), epoch);
        let run = &mut self.flush.runs[place];
        run.next = offset + 1;
        let kind = match part {
            Part::Post(row, timestamp) => {
                self.days.insert(store::day_of(row.post.created_at));
                self.timestamps.push(timestamp);
                self.flush.posts.push(row);
                Kind::Post
            }
            Part::Deletion(row) => {
                self.flush.deletions.push(row);
                Kind::Deletion
            }
            Part::Filtered => {
                run.filtered += 1;
                Kind::Filtered
            }
            Part::Late => {
                run.late += 1;
                Kind::Late
            }
            Part::Rejected(letter) => {
                run.rejected += 1;
                self.letters.push(letter);
                Kind::Rejected
            }
        };
        self.marks.push(Mark {
            partition,
            offset,
            kind,
            permit,
        });
    }

    /// Takes everything of a partition out.
    pub(super) fn drop_partition(&mut self, (topic, partition): &Partition) {
        let other = |origin: &Origin| origin.topic != *topic || origin.partition != *partition;
        let mut places = self.flush.posts.iter().map(|row| other(&row.origin));
        self.timestamps.retain(|_| places.next().unwrap_or(true));
        drop(places);
        self.flush.drop_partition(topic, *partition);
        self.letters.retain(|letter| other(&letter.origin));
        self.epochs.remove(&(Arc::clone(topic), *partition));
        self.marks
            .retain(|mark| mark.partition.0 != *topic || mark.partition.1 != *partition);
        // Runs have moved up; nothing is pushed after a partition is dropped, but a stale place must not be left.
        self.runs = self
            .flush
            .runs
            .iter()
            .enumerate()
            .map(|(place, run)| ((Arc::clone(&run.topic), run.partition), place))
            .collect();
    }

    /// Records in it.
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flush.is_empty()
    }

    /// Cuts it in the middle: two batches that, one after the other, settle what it would have settled. They are
    /// other flushes than it was, so it must be certain that it has not been committed.
    pub(super) fn split(self) -> (Self, Self) {
        let half = self.marks.len() / 2;
        let (group, model) = (&self.flush.group, &self.flush.model);
        let (mut first, mut second) = (Self::new(group, model), Self::new(group, model));
        first.lettered = self.lettered;
        second.lettered = self.lettered;
        let mut posts = self.flush.posts.into_iter().zip(self.timestamps);
        let mut deletions = self.flush.deletions.into_iter();
        let mut letters = self.letters.into_iter();
        for (number, mark) in self.marks.into_iter().enumerate() {
            let part = match mark.kind {
                Kind::Post => posts.next().map(|(row, timestamp)| Part::Post(row, timestamp)),
                Kind::Deletion => deletions.next().map(Part::Deletion),
                Kind::Filtered => Some(Part::Filtered),
                Kind::Late => Some(Part::Late),
                Kind::Rejected => letters.next().map(Part::Rejected),
            };
            // What was put in with its mark is still there: both are taken out together.
            let (Some(part), Some(place)) = (part, self.runs.get(&mark.partition)) else {
                continue;
            };
            let expected = self.flush.runs[*place].expected;
            let epoch = self.epochs.get(&mark.partition).copied().unwrap_or_default();
            if number < half {
                first.add(mark.partition, mark.offset, epoch, mark.permit, part, expected);
            } else {
                let expected = first.reached(&mark.partition).unwrap_or(expected);
                second.add(mark.partition, mark.offset, epoch, mark.permit, part, expected);
            }
        }
        (first, second)
    }

    /// Where its run of a partition ends.
    fn reached(&self, partition: &Partition) -> Option<i64> {
        let place = self.runs.get(partition)?;
        self.flush.runs.get(*place).map(|run| run.next)
    }
}
