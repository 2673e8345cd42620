//! The changes of a flush to the rollups, combined to one change for each row.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fmt,
    ops::AddAssign,
};

use time::{Date, OffsetDateTime};

use super::{
    columns,
    flush::{Flush, PostRow},
    partition::{DAYS, HOURS, MINUTES, PartitionedTable, day_of, hour_of, minute_of},
};

/// The shard of merged rows.
pub(super) const MERGED: i32 = -1;

/// The rollups, from fine to coarse, which is also their lock order: first the shards' rows of all, then the merged rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolution {
    Minute,
    Hour,
    Day,
}

impl Resolution {
    pub(super) const fn partitioned(self) -> PartitionedTable {
        match self {
            Self::Minute => MINUTES,
            Self::Hour => HOURS,
            Self::Day => DAYS,
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        })
    }
}

/// The key of a rollup row. Its order is the lock order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RollupKey<'a> {
    pub(super) bucket: OffsetDateTime,
    pub(super) subject: Cow<'a, str>,
    pub(super) lang: Cow<'a, str>,
    pub(super) source: &'a str,
    pub(super) emotion: Cow<'a, str>,
    pub(super) model_id: Cow<'a, str>,
    pub(super) shard: i32,
}

/// The change to a rollup row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Delta {
    pub(super) posts: i64,
    pub(super) score_sum: f64,
    /// Those of `posts` that are reposts.
    pub(super) reposts: i64,
    pub(super) repost_score_sum: f64,
    /// Whether posts were removed, so that the row may be left empty.
    pub(super) taken: bool,
}

/// The columns of a row deleted from `post` that the rollups need.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct DeletedRow {
    pub(super) source: String,
    pub(super) post_id: String,
    pub(super) created_at: OffsetDateTime,
    pub(super) lang: String,
    pub(super) emotion: String,
    pub(super) score: f64,
    pub(super) is_repost: bool,
    pub(super) model_id: String,
    pub(super) subjects: Vec<String>,
    pub(super) kafka_partition: i32,
}

impl Delta {
    /// `sign` times one post.
    fn of(sign: i32, score: f64, is_repost: bool) -> Self {
        let repost = if is_repost { sign } else { 0 };
        Self {
            posts: sign.into(),
            score_sum: score * f64::from(sign),
            reposts: repost.into(),
            repost_score_sum: score * f64::from(repost),
            taken: sign < 0,
        }
    }
}

impl AddAssign for Delta {
    fn add_assign(&mut self, other: Self) {
        self.posts += other.posts;
        self.score_sum += other.score_sum;
        self.reposts += other.reposts;
        self.repost_score_sum += other.repost_score_sum;
        self.taken |= other.taken;
    }
}

/// A change to one row.
pub(super) type RowDelta<'a> = (RollupKey<'a>, Delta);

#[derive(Debug, Default)]
pub(super) struct Deltas<'a>(HashMap<RollupKey<'a>, Delta>);

impl<'a> Deltas<'a> {
    pub(super) fn add(&mut self, flush: &'a Flush, row: &'a PostRow) {
        let key = RollupKey {
            bucket: minute_of(row.created_at()),
            subject: Cow::Borrowed(""),
            lang: Cow::Borrowed(row.post.lang.as_str()),
            source: row.post.source.as_str(),
            emotion: columns::sql_text(&row.prediction.emotion),
            model_id: columns::sql_text(&flush.model.id),
            shard: row.origin.partition,
        };
        let delta = Delta::of(1, row.prediction.score, row.post.repost_of.is_some());
        self.apply(key, columns::subjects(row).into_iter().map(columns::sql_text), delta);
    }

    pub(super) fn subtract(&mut self, row: &'a DeletedRow) {
        let key = RollupKey {
            bucket: minute_of(row.created_at),
            subject: Cow::Borrowed(""),
            lang: Cow::Borrowed(&row.lang),
            source: &row.source,
            emotion: Cow::Borrowed(&row.emotion),
            model_id: Cow::Borrowed(&row.model_id),
            shard: row.kafka_partition,
        };
        let delta = Delta::of(-1, row.score, row.is_repost);
        self.apply(
            key,
            row.subjects.iter().map(|subject| Cow::Borrowed(subject.as_str())),
            delta,
        );
    }

    fn apply(&mut self, key: RollupKey<'a>, subjects: impl Iterator<Item = Cow<'a, str>>, delta: Delta) {
        for subject in subjects {
            self.change(RollupKey { subject, ..key.clone() }, delta);
        }
        self.change(key, delta);
    }

    fn change(&mut self, key: RollupKey<'a>, delta: Delta) {
        *self.0.entry(key).or_default() += delta;
    }

    /// The changed days, sorted.
    pub(super) fn days(&self) -> Vec<Date> {
        let days: BTreeSet<Date> = self.0.keys().map(|key| day_of(key.bucket)).collect();
        days.into_iter().collect()
    }

    /// The changes of each rollup, in lock order.
    pub(super) fn by_resolution(self) -> [(Resolution, Vec<RowDelta<'a>>); 3] {
        let minutes = self.sorted();
        let mut hours = Self::default();
        for (key, delta) in &minutes {
            let key = RollupKey {
                bucket: hour_of(key.bucket),
                ..key.clone()
            };
            // Totals over all languages and sources: most queries read nothing else.
            let (lang, source) = (Cow::Borrowed(""), "");
            hours.change(
                RollupKey {
                    lang,
                    source,
                    ..key.clone()
                },
                *delta,
            );
            hours.change(key, *delta);
        }
        let hours = hours.sorted();
        let mut days = Self::default();
        for (key, delta) in &hours {
            let bucket = day_of(key.bucket).midnight().assume_utc();
            days.change(RollupKey { bucket, ..key.clone() }, *delta);
        }
        let days = days.sorted();
        [
            (Resolution::Minute, minutes),
            (Resolution::Hour, hours),
            (Resolution::Day, days),
        ]
    }

    fn sorted(self) -> Vec<RowDelta<'a>> {
        let mut deltas: Vec<_> = self.0.into_iter().collect();
        deltas.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        deltas
    }
}
