//! What a flush does to each key, worked out from all records of the key before the database is queried.
//!
//! A key's records take effect in the order of topic, partition and offset: the first copy of a post wins,
//! and a deletion is final. The result is the same however a stream is cut into flushes.

use std::cmp::Ordering;

use time::OffsetDateTime;

use super::{
    error::FlushError,
    flush::{Flush, Flushed, RangeIndex, Tally},
    retention::RetentionCutoff,
};

/// What the records of one key do.
#[derive(Debug)]
pub(super) struct KeyPlan<'a> {
    pub(super) source: &'static str,
    pub(super) id: &'a str,
    /// The first copy of the post, unless a deletion came before it: index in [`Flush::posts`], and event time.
    pub(super) post: Option<(usize, OffsetDateTime)>,
    /// The range of the first deletion.
    pub(super) deletion: Option<usize>,
}

/// A key that the database changed: one row returned by the key statement.
#[derive(Debug, Clone)]
pub(super) struct KeyChange {
    pub(super) source: String,
    pub(super) id: String,
    /// Event time of the key's post.
    pub(super) created_at: OffsetDateTime,
    /// The key was not known before.
    pub(super) fresh: bool,
}

/// A post to be deleted from the tables, and the range whose deletion notice does so.
#[derive(Debug, Clone)]
pub(super) struct Removal<'a> {
    pub(super) source: &'static str,
    pub(super) id: &'a str,
    pub(super) created_at: OffsetDateTime,
    pub(super) range: usize,
}

#[derive(Debug)]
pub(super) struct DedupPlan<'a> {
    /// In lock order: by source and id, bytewise.
    pub(super) keys: Vec<KeyPlan<'a>>,
    /// Ranges in the order in which their offsets are locked.
    pub(super) range_order: Vec<usize>,
    tallies: Vec<Tally>,
    post_ranges: Vec<usize>,
}

struct KeyEvent<'a> {
    source: &'static str,
    id: &'a str,
    /// Position of the topic and partition in lock order, and offset.
    order: (usize, i64),
    range: usize,
    post: Option<usize>,
}

impl<'a> DedupPlan<'a> {
    /// Late posts are counted and otherwise ignored.
    pub(super) fn new(flush: &'a Flush, retention_mark: RetentionCutoff) -> Result<Self, FlushError> {
        let index = flush.validate()?;
        let range_order: Vec<usize> = index.in_order().collect();
        let mut rank = vec![0; range_order.len()];
        for (place, &range) in range_order.iter().enumerate() {
            rank[range] = place;
        }
        let mut tallies: Vec<Tally> = flush
            .ranges
            .iter()
            .map(|range| Tally {
                filtered: range.filtered,
                late: range.late,
                rejected: range.rejected,
                ..Tally::default()
            })
            .collect();
        let mut post_ranges = Vec::with_capacity(flush.posts.len());
        let mut events = events(flush, &index, &rank, &mut post_ranges)?;
        events.retain(|event| {
            let late = event
                .post
                .is_some_and(|place| retention_mark.is_late(flush.posts[place].created_at()));
            tallies[event.range].late += u64::from(late);
            !late
        });
        for event in &events {
            // A post counts as a duplicate until the database reports its key as new.
            let tally = &mut tallies[event.range];
            *(if event.post.is_some() {
                &mut tally.duplicates
            } else {
                &mut tally.deletions
            }) += 1;
        }
        for (range, tally) in flush.ranges.iter().zip(&tallies) {
            let span = u64::try_from(range.next - range.expected).unwrap_or(0);
            if tally.records() > span {
                return Err(FlushError::Invalid(format!(
                    "{}/{} has {} records between offsets {} and {}",
                    range.topic,
                    range.partition,
                    tally.records(),
                    range.expected,
                    range.next
                )));
            }
        }
        events.sort_unstable_by(|a, b| (a.source, a.id, a.order).cmp(&(b.source, b.id, b.order)));
        let mut keys: Vec<KeyPlan<'a>> = Vec::with_capacity(events.len());
        for event in events {
            let deletion = if event.post.is_none() { Some(event.range) } else { None };
            match keys.last_mut() {
                Some(key) if key.source == event.source && key.id == event.id => {
                    key.deletion = key.deletion.or(deletion);
                }
                _ => {
                    let post = event.post.map(|place| (place, flush.posts[place].created_at()));
                    keys.push(KeyPlan {
                        source: event.source,
                        id: event.id,
                        post,
                        deletion,
                    });
                }
            }
        }
        Ok(Self {
            keys,
            range_order,
            tallies,
            post_ranges,
        })
    }

    /// Splits the changed keys into posts to write and posts to remove.
    pub(super) fn resolve(&mut self, changes: &[KeyChange]) -> (Vec<usize>, Vec<Removal<'_>>) {
        let mut written = Vec::with_capacity(changes.len());
        let mut removals = Vec::new();
        for change in changes {
            let Ok(found) = self
                .keys
                .binary_search_by(|key| compare(key, &change.source, &change.id))
            else {
                continue;
            };
            let key = &self.keys[found];
            match (change.fresh, key.post, key.deletion) {
                (true, Some((place, _)), None) => {
                    written.push(place);
                    inserted(&mut self.tallies[self.post_ranges[place]]);
                }
                // Inserted and deleted within the flush: counted as both, never written.
                (true, Some((place, _)), Some(range)) => {
                    inserted(&mut self.tallies[self.post_ranges[place]]);
                    self.tallies[range].removed += 1;
                }
                (false, _, Some(range)) => removals.push(Removal {
                    source: key.source,
                    id: key.id,
                    created_at: change.created_at,
                    range,
                }),
                _ => {}
            }
        }
        written.sort_unstable();
        (written, removals)
    }

    pub(super) fn finish(self, written: Vec<usize>, removed: &[u64], rollups: usize) -> Flushed {
        let mut tallies = self.tallies;
        for (tally, removed) in tallies.iter_mut().zip(removed) {
            tally.removed += removed;
        }
        Flushed {
            tallies,
            written,
            rollups,
            replayed: false,
        }
    }
}

fn inserted(tally: &mut Tally) {
    tally.inserted += 1;
    tally.duplicates -= 1;
}

fn compare(key: &KeyPlan<'_>, source: &str, id: &str) -> Ordering {
    (key.source, key.id).cmp(&(source, id))
}

fn events<'a>(
    flush: &'a Flush,
    index: &RangeIndex<'_>,
    rank: &[usize],
    post_ranges: &mut Vec<usize>,
) -> Result<Vec<KeyEvent<'a>>, FlushError> {
    let no_range = || FlushError::Invalid("a record belongs to no range".to_owned());
    let mut events = Vec::with_capacity(flush.posts.len() + flush.deletions.len());
    for (place, row) in flush.posts.iter().enumerate() {
        let range = index.find(&row.origin).ok_or_else(no_range)?;
        post_ranges.push(range);
        events.push(KeyEvent {
            source: row.post.source.as_str(),
            id: &row.post.id,
            order: (rank[range], row.origin.offset),
            range,
            post: Some(place),
        });
    }
    for row in &flush.deletions {
        let range = index.find(&row.origin).ok_or_else(no_range)?;
        events.push(KeyEvent {
            source: row.deletion.source.as_str(),
            id: &row.deletion.post_id,
            order: (rank[range], row.origin.offset),
            range,
            post: None,
        });
    }
    Ok(events)
}
