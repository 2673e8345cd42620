//! The contents of one transaction, and its result.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use serde::Serialize;
use time::OffsetDateTime;

use super::{error::FlushError, partition::day_of};
use crate::{
    model::{ModelInfo, Prediction},
    post::{Deletion, Fingerprint, Origin, Post},
};

/// Maximum length of the name of an emotion, tracked subject or model, in bytes: they are parts of one index entry.
pub const MAX_NAME_BYTES: usize = 256;
/// Maximum number of days that one flush may touch, by posts or by deletions of posts. Each is a partition with indexes
/// to lock, and the server's lock table has a fixed size.
pub const MAX_DAYS: usize = 256;

/// A post with its emotion, ready to be stored.
#[derive(Debug, Clone)]
pub struct PostRow {
    /// The post.
    pub post: Arc<Post>,
    /// Its emotion.
    pub prediction: Prediction,
    /// The tracked subjects that it matches.
    pub subjects: Vec<Arc<str>>,
    /// The record that brought it.
    pub origin: Origin,
    /// The record's timestamp at the broker. It is not stored; delays are measured from it.
    pub timestamp: Option<OffsetDateTime>,
}

/// A deletion notice, ready to be applied.
#[derive(Debug, Clone)]
pub struct DeletionRow {
    /// What to delete.
    pub deletion: Deletion,
    /// The record that brought it.
    pub origin: Origin,
}

/// A contiguous range of one partition's offsets. The flush accounts for every record in it.
#[derive(Debug, Clone)]
pub struct OffsetRange {
    /// Kafka topic.
    pub topic: Arc<str>,
    /// Kafka partition.
    pub partition: i32,
    /// The partition's `next_offset` as this consumer knows it: the fence.
    pub expected: i64,
    /// Its `next_offset` after this flush.
    pub next: i64,
    /// Posts in it that the filter for languages or subjects dropped.
    pub filtered: u64,
    /// Posts in it older than the retention.
    pub late: u64,
    /// Records in it that went to the dead-letter topic.
    pub rejected: u64,
    /// The record before `next`: stored with the offset, to recognise the log that it belongs to.
    pub last: Option<Fingerprint>,
}

/// Identifies a flush, so that a commit whose response was lost is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlushId(u128);

impl FlushId {
    fn fresh() -> Self {
        // Each `RandomState` has its own keys, seeded by the operating system.
        let half = || u128::from(RandomState::new().hash_one(0_u8));
        Self(half() << 64 | half())
    }
}

/// As a UUID.
impl fmt::Display for FlushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(
            f,
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }
}

impl fmt::Debug for FlushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Everything that one transaction writes: posts, deletions, and the offsets that they advance.
///
/// To retry after a transient failure, flush the same value again, unchanged.
#[derive(Debug)]
pub struct Flush {
    id: FlushId,
    /// How many times something was dropped from it.
    drops: u32,
    /// The consumer group.
    pub group: Arc<str>,
    /// The model that made the predictions.
    pub model: Arc<ModelInfo>,
    /// At most one range for each partition. Each post and deletion belongs to one.
    pub ranges: Vec<OffsetRange>,
    /// Posts, in any order.
    pub posts: Vec<PostRow>,
    /// Deletions, in any order.
    pub deletions: Vec<DeletionRow>,
}

impl Flush {
    /// An empty flush.
    #[must_use]
    pub fn new(group: Arc<str>, model: Arc<ModelInfo>) -> Self {
        Self {
            id: FlushId::fresh(),
            drops: 0,
            group,
            model,
            ranges: Vec::new(),
            posts: Vec::new(),
            deletions: Vec::new(),
        }
    }

    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> FlushId {
        self.id
    }

    /// Its identity and state: two flushes with the same version are equal.
    pub(super) const fn version(&self) -> (FlushId, u32) {
        (self.id, self.drops)
    }

    /// Drops the range of one partition, with its posts and deletions.
    pub fn drop_partition(&mut self, topic: &str, partition: i32) {
        let other = |other: &str, number: i32| other != topic || number != partition;
        self.ranges.retain(|range| other(&range.topic, range.partition));
        self.posts.retain(|row| other(&row.origin.topic, row.origin.partition));
        self.deletions
            .retain(|row| other(&row.origin.topic, row.origin.partition));
        // The identity stays: an earlier attempt may have been committed and its response lost, and then the rest of the
        // flush must still be recognised.
        self.drops += 1;
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Checks the flush for errors that the database would refuse. Returns the index of each partition's range in
    /// `ranges`.
    pub(super) fn validate(&self) -> Result<RangeIndex<'_>, FlushError> {
        let invalid = |why: String| Err(FlushError::Invalid(why));
        let mut index = RangeIndex(BTreeMap::new());
        for (place, range) in self.ranges.iter().enumerate() {
            if range.expected < 0 || range.next < range.expected {
                return invalid(format!(
                    "{}/{} goes from {} to {}",
                    range.topic, range.partition, range.expected, range.next
                ));
            }
            if index.0.insert((&range.topic, range.partition), place).is_some() {
                return invalid(format!("two ranges of {}/{}", range.topic, range.partition));
            }
        }
        let too_long = |name: &str| name.len() > MAX_NAME_BYTES;
        if too_long(&self.model.id) || self.model.labels.iter().any(|label| too_long(label)) {
            return invalid(format!(
                "the model's id or one of its labels is longer than {MAX_NAME_BYTES} bytes"
            ));
        }
        let check_range = |origin: &Origin| {
            let Some(range) = index.find(origin).map(|place| &self.ranges[place]) else {
                return Err(FlushError::Invalid(format!("{origin} belongs to no range")));
            };
            if !(range.expected..range.next).contains(&origin.offset) {
                return Err(FlushError::Invalid(format!("{origin} lies outside its range")));
            }
            Ok(())
        };
        for row in &self.posts {
            let origin = &row.origin;
            check_range(origin)?;
            if row.prediction.scores.len() != self.model.labels.len() {
                let (scores, labels) = (row.prediction.scores.len(), self.model.labels.len());
                return invalid(format!(
                    "{origin} has {scores} scores, but the model has {labels} labels"
                ));
            }
            if !is_exact(row.prediction.score) || !row.prediction.scores.iter().copied().all(is_exact) {
                return invalid(format!("{origin} has a score that is not a multiple of 2^-20 in 0..=1"));
            }
            if row
                .subjects
                .iter()
                .any(|subject| subject.is_empty() || too_long(subject))
                || too_long(&row.prediction.emotion)
            {
                return invalid(format!("{origin} has an empty or overlong subject or emotion"));
            }
        }
        for row in &self.deletions {
            check_range(&row.origin)?;
        }
        Ok(index)
    }

    /// The days of its posts.
    pub(super) fn days(&self) -> Result<Vec<time::Date>, FlushError> {
        let mut days: Vec<_> = self.posts.iter().map(|row| day_of(row.created_at())).collect();
        days.sort_unstable();
        days.dedup();
        if days.len() > MAX_DAYS {
            return Err(FlushError::TooManyDays {
                found: days.len(),
                limit: MAX_DAYS,
            });
        }
        Ok(days)
    }
}

impl PostRow {
    /// Event time.
    pub(super) fn created_at(&self) -> OffsetDateTime {
        self.post.created_at.get()
    }
}

/// Whether sums of such scores are exact: the contract of [`Prediction`].
fn is_exact(score: f64) -> bool {
    (0.0..=1.0).contains(&score) && (score * f64::from(1 << 20)).fract() == 0.0
}

/// Finds the range of a record.
#[derive(Debug)]
pub(super) struct RangeIndex<'a>(BTreeMap<(&'a str, i32), usize>);

impl RangeIndex<'_> {
    pub(super) fn find(&self, origin: &Origin) -> Option<usize> {
        self.0.get(&(&*origin.topic, origin.partition)).copied()
    }

    /// Indexes in `ranges`, by topic and partition: the order in which offsets are locked.
    pub(super) fn in_order(&self) -> impl Iterator<Item = usize> {
        self.0.values().copied()
    }
}

/// Counts of the records of one range by outcome. Every record is in exactly one of the first six.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Posts that were new.
    pub inserted: u64,
    /// Posts whose key existed already, from an earlier copy or from their deletion.
    pub duplicates: u64,
    /// Deletion notices.
    pub deletions: u64,
    /// Posts that the filter for languages or subjects dropped.
    pub filtered: u64,
    /// Posts older than the retention.
    pub late: u64,
    /// Records sent to the dead-letter topic.
    pub rejected: u64,
    /// Posts, of this flush or an earlier one, that the deletion notices removed.
    pub removed: u64,
}

impl Tally {
    /// All records.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.inserted + self.duplicates + self.deletions + self.filtered + self.late + self.rejected
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.duplicates += other.duplicates;
        self.deletions += other.deletions;
        self.filtered += other.filtered;
        self.late += other.late;
        self.rejected += other.rejected;
        self.removed += other.removed;
    }
}

/// A stored flush.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Counts for each range, in the order of [`Flush::ranges`].
    pub tallies: Vec<Tally>,
    /// The posts that were written, as indexes in [`Flush::posts`], ascending.
    pub written: Vec<usize>,
    /// Number of rollup rows changed.
    pub rollups: usize,
    /// An earlier attempt had been committed after all, and this one only found that out. If that attempt was made
    /// through another [`super::Store`], or ranges were dropped since, `tallies` and `written` are unknown and empty.
    pub replayed: bool,
}

impl Flushed {
    /// The sum over all ranges.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for tally in &self.tallies {
            total += *tally;
        }
        total
    }
}
