//! What a flush adds to the rollups and takes out of them, merged to one change a row.

use std::{borrow::Cow, collections::HashMap};

use time::OffsetDateTime;

use super::{
    columns,
    flush::{Flush, PostRow},
    partition::minute_of,
};

/// The key of a rollup row. Its order is the order in which rows are locked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RollupKey<'a> {
    pub(super) bucket: OffsetDateTime,
    pub(super) topic: Cow<'a, str>,
    pub(super) lang: Cow<'a, str>,
    pub(super) source: &'a str,
    pub(super) emotion: Cow<'a, str>,
    pub(super) model_id: Cow<'a, str>,
    pub(super) shard: i32,
}

/// The change of a rollup row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Delta {
    pub(super) posts: i64,
    pub(super) score_sum: f64,
    /// Posts were taken out: the row may be left empty.
    pub(super) taken: bool,
}

/// A row that was deleted from `post`, as far as the rollups need it.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Deleted {
    pub(super) source: String,
    pub(super) post_id: String,
    pub(super) created_at: OffsetDateTime,
    pub(super) lang: String,
    pub(super) emotion: String,
    pub(super) score: f64,
    pub(super) model_id: String,
    pub(super) topics: Vec<String>,
    pub(super) kafka_partition: i32,
}

#[derive(Debug, Default)]
pub(super) struct Deltas<'a>(HashMap<RollupKey<'a>, Delta>);

impl<'a> Deltas<'a> {
    pub(super) fn add(&mut self, flush: &'a Flush, row: &'a PostRow) {
        let key = RollupKey {
            bucket: minute_of(row.created_at()),
            topic: Cow::Borrowed(""),
            lang: columns::lang(row),
            source: row.post.source.as_str(),
            emotion: columns::sql_text(&row.verdict.emotion),
            model_id: columns::sql_text(&flush.model.id),
            shard: row.origin.partition,
        };
        let delta = Delta {
            posts: 1,
            score_sum: row.verdict.score,
            taken: false,
        };
        self.apply(key, columns::topics(row).into_iter().map(columns::sql_text), delta);
    }

    pub(super) fn take(&mut self, row: &'a Deleted) {
        let key = RollupKey {
            bucket: minute_of(row.created_at),
            topic: Cow::Borrowed(""),
            lang: Cow::Borrowed(&row.lang),
            source: &row.source,
            emotion: Cow::Borrowed(&row.emotion),
            model_id: Cow::Borrowed(&row.model_id),
            shard: row.kafka_partition,
        };
        let delta = Delta {
            posts: -1,
            score_sum: -row.score,
            taken: true,
        };
        self.apply(key, row.topics.iter().map(|topic| Cow::Borrowed(topic.as_str())), delta);
    }

    fn apply(&mut self, key: RollupKey<'a>, topics: impl Iterator<Item = Cow<'a, str>>, delta: Delta) {
        for topic in topics {
            self.change(RollupKey { topic, ..key.clone() }, delta);
        }
        self.change(key, delta);
    }

    fn change(&mut self, key: RollupKey<'a>, delta: Delta) {
        let sum = self.0.entry(key).or_default();
        sum.posts += delta.posts;
        sum.score_sum += delta.score_sum;
        sum.taken |= delta.taken;
    }

    /// The changes, in lock order.
    pub(super) fn sorted(self) -> Vec<(RollupKey<'a>, Delta)> {
        let mut deltas: Vec<_> = self.0.into_iter().collect();
        deltas.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        deltas
    }
}
