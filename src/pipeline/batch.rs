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
    /// The broker's times of the posts, in the order of the flush's posts.
    pub(super) timestamps: Vec<Option<OffsetDateTime>>,
    pub(super) rejects: HashMap<Partition, BTreeMap<&'static str, u64>>,
    runs: HashMap<Partition, usize>,
    days: BTreeSet<Date>,
    /// The consumer's budget counts the records until they are settled.
    permits: Vec<Permit>,
}

impl Batch {
    pub(super) fn new(group: &Arc<str>, model: &Arc<ModelInfo>) -> Self {
        Self {
            flush: Flush::new(Arc::clone(group), Arc::clone(model)),
            epochs: BTreeMap::new(),
            letters: Vec::new(),
            timestamps: Vec::new(),
            rejects: HashMap::new(),
            runs: HashMap::new(),
            days: BTreeSet::new(),
            permits: Vec::new(),
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
        let partition = message.origin.topic_partition();
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
        self.epochs.insert(partition.clone(), message.epoch);
        let run = &mut self.flush.runs[place];
        run.next = message.origin.offset + 1;
        match (fate, verdict) {
            (Fate::Post { post, topics, .. }, Some(verdict)) => {
                self.days.insert(store::day_of(post.created_at));
                self.timestamps.push(message.timestamp);
                self.flush.posts.push(PostRow {
                    post,
                    verdict,
                    topics,
                    origin: message.origin,
                });
            }
            // The window stage gives every post a verdict or a rejection.
            (Fate::Post { .. } | Fate::Filtered, _) => run.filtered += 1,
            (Fate::Late, _) => run.late += 1,
            (Fate::Deletion(deletion), _) => self.flush.deletions.push(DeletionRow {
                deletion,
                origin: message.origin,
            }),
            (Fate::Rejected(Reject { reason, detail }), _) => {
                run.rejected += 1;
                *self
                    .rejects
                    .entry(partition)
                    .or_default()
                    .entry(reason.as_str())
                    .or_default() += 1;
                self.letters.push(DeadLetter {
                    origin: message.origin,
                    timestamp: message.timestamp,
                    key: message.key,
                    payload: message.payload,
                    reason: reason.as_str(),
                    detail,
                });
            }
        }
        self.permits.push(message.permit);
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
        self.rejects.remove(&(Arc::clone(topic), *partition));
        // Runs have moved up; nothing is pushed after a partition is dropped, but a stale place must not be left.
        self.runs = self
            .flush
            .runs
            .iter()
            .enumerate()
            .map(|(place, run)| ((Arc::clone(&run.topic), run.partition), place))
            .collect();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flush.is_empty()
    }
}
