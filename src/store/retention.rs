//! How long posts and rollups are kept.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::{Date, Duration, OffsetDateTime};

use super::{
    Store,
    error::StoreError,
    lock,
    partition::{
        DAYS, HOURS, MINUTES, PARTITIONED, POSTS, Partition, Partitioned, Span, day_of, lock_partitions, partitions_of,
    },
};

/// Pages of `post_key` searched in one transaction: 8 MiB, some hundred thousand keys.
const PAGES_AT_ONCE: i64 = 1024;

/// How many whole UTC days before today are kept; `None` keeps everything.
///
/// Rollups must be kept at least as long as the posts that they count. Those by hour and by day go by whole months
/// and years, once all of it is past retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Of posts.
    pub days: Option<u32>,
    /// Of the rollups by minute.
    pub minute_days: Option<u32>,
    /// Of the rollups by hour.
    pub hour_days: Option<u32>,
    /// Of the rollups by day.
    pub day_days: Option<u32>,
}

impl Retention {
    /// Posts and their rollups by minute so many days, the coarser rollups for ever.
    #[must_use]
    pub const fn days(days: u32) -> Self {
        Self {
            days: Some(days),
            minute_days: Some(days),
            hour_days: None,
            day_days: None,
        }
    }

    /// Start of the oldest day whose posts are kept.
    #[must_use]
    pub fn cutoff(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        start_of_kept(self.days, now)
    }

    /// Whether a post is past retention: such a post is counted as late and not stored.
    #[must_use]
    pub fn is_late(&self, created_at: OffsetDateTime, now: OffsetDateTime) -> bool {
        self.cutoff(now).is_some_and(|cutoff| created_at < cutoff)
    }

    pub(super) fn of(&self, table: Partitioned) -> Option<u32> {
        match table {
            MINUTES => self.minute_days,
            HOURS => self.hour_days,
            DAYS => self.day_days,
            _ => self.days,
        }
    }
}

fn start_of_kept(days: Option<u32>, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let start = day_of(now).midnight().assume_utc();
    // More days than the calendar has keep everything.
    start.checked_sub(Duration::days(i64::from(days?)))
}

/// What was past retention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retired {
    /// The first days of the partitions of posts that were dropped.
    pub days: Vec<Date>,
    /// Partitions dropped, of posts and of rollups.
    pub partitions: usize,
    /// Keys forgotten: of posts of those days, and of deletions stored before the cutoff.
    pub keys: u64,
}

impl Store {
    /// Drops what is past retention: a partition at a time, posts and rollups of a day together, then the keys, piece by
    /// piece, unless this store has gone through them for the same cutoff. What it drops is marked as dropped for good:
    /// see [`Self::retired_until`]. May be called by several consumers at once. A partition that is in use for longer
    /// than a moment is an error of the kind [`super::Fault::Busy`]; the rest waits for the next call.
    pub async fn apply_retention(&self, retention: &Retention, now: OffsetDateTime) -> Result<Retired, StoreError> {
        let mut retired = Retired::default();
        let mut keys_cutoff = retention.cutoff(now);
        // The finer tables first: if a rollup were dropped before the posts that it counts, their deletion would find no row.
        let mut together: BTreeMap<(Span, Date), Vec<Partition>> = BTreeMap::new();
        for table in PARTITIONED {
            let Some(cutoff) = start_of_kept(retention.of(table), now) else {
                continue;
            };
            let cutoff = day_of(cutoff);
            for partition in self.partitions_before(table, cutoff).await? {
                // One that the cutoff cuts stays, and with it the keys of its posts: their deletions need them.
                if partition.until() > cutoff {
                    if table == POSTS {
                        keys_cutoff = keys_cutoff.min(Some(partition.from.midnight().assume_utc()));
                    }
                    continue;
                }
                together
                    .entry((partition.span, partition.from))
                    .or_default()
                    .push(partition);
            }
        }
        for partitions in together.values() {
            self.drop_partitions(partitions).await?;
            retired.partitions += partitions.len();
            retired
                .days
                .extend(partitions.iter().filter(|p| p.of == POSTS).map(|p| p.from));
        }
        if let Some(cutoff) = keys_cutoff {
            retired.keys = self.prune_keys_once(cutoff).await?;
        }
        Ok(retired)
    }

    /// The partitions that begin before the cutoff.
    async fn partitions_before(&self, table: Partitioned, cutoff: Date) -> Result<Vec<Partition>, StoreError> {
        const DOING: &str = "listing partitions";
        let mut partitions = self
            .with(DOING, async |connection| {
                partitions_of(connection, table).await.map_err(StoreError::when(DOING))
            })
            .await?;
        partitions.retain(|partition| partition.from < cutoff);
        Ok(partitions)
    }

    /// In one transaction, so that a day's rollups never differ from a recount of its posts.
    async fn drop_partitions(&self, partitions: &[Partition]) -> Result<(), StoreError> {
        const DOING: &str = "dropping partitions past retention";
        self.forget_days();
        self.with(DOING, async |connection| {
            drop_partitions(connection, partitions)
                .await
                .map_err(StoreError::when(DOING))
        })
        .await
    }

    /// As [`prune_keys`], unless this process has done so already for that cutoff: it moves once a day.
    async fn prune_keys_once(&self, cutoff: OffsetDateTime) -> Result<u64, StoreError> {
        if *lock(&self.state.pruned_until) >= Some(cutoff) {
            return Ok(0);
        }
        const DOING: &str = "pruning keys past retention";
        let pruned = self
            .with(DOING, async |connection| {
                prune_keys(connection, cutoff).await.map_err(StoreError::when(DOING))
            })
            .await?;
        let mut until = lock(&self.state.pruned_until);
        *until = until.max(Some(cutoff));
        Ok(pruned)
    }
}

async fn drop_partitions(connection: &mut PgConnection, partitions: &[Partition]) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    lock_partitions(&mut tx).await?;
    // Dropping waits for every reader, and everybody else then waits for it: so only for a moment, and
    // less than the deadlock detector's second.
    sqlx::raw_sql("SET LOCAL lock_timeout = '500ms'")
        .execute(&mut *tx)
        .await?;
    for partition in partitions {
        partition.drop(&mut tx).await?;
    }
    // Marked by what was dropped, not by the clock: one that is wrong must not make the future late. Last, as nobody who
    // waits here is waited for.
    let posts = partitions.iter().filter(|partition| partition.of == POSTS);
    if let Some(until) = posts.map(|partition| partition.until()).max() {
        sqlx::query("UPDATE retention_mark SET retired_until = greatest(retired_until, $1)")
            .bind(until.midnight().assume_utc())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// Walks through the whole table in pieces: once a day that costs less than an index that every insert
/// would have to keep. Keys that a flush is busy with are left for the next time, so it never waits while
/// it holds locks.
async fn prune_keys(connection: &mut PgConnection, cutoff: OffsetDateTime) -> Result<u64, sqlx::Error> {
    let pages: i64 = sqlx::query_scalar("SELECT pg_relation_size('post_key') / current_setting('block_size')::bigint")
        .fetch_one(&mut *connection)
        .await?;
    let mut pruned = 0;
    for first in (0..=pages).step_by(usize::try_from(PAGES_AT_ONCE).unwrap_or(1)) {
        // Deletions count from when they were stored: a post that is late anyway needs no tombstone.
        let sql = format!(
            "WITH gone AS (
                 DELETE FROM post_key WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM post_key
                     WHERE ctid >= '({first},0)' AND ctid < '({},0)' AND greatest(deleted_at, created_at) < $1
                     FOR UPDATE SKIP LOCKED))
                 RETURNING greatest(deleted_at, created_at) AS at),
             until AS (
                 SELECT date_trunc('day', max(at), 'UTC') + interval '24 hours' AS day FROM gone),
             marked AS (
                 UPDATE retention_mark m SET retired_until = until.day
                 FROM until WHERE until.day > coalesce(m.retired_until, '-infinity'))
             SELECT count(*) FROM gone",
            first + PAGES_AT_ONCE
        );
        let gone: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .persistent(false)
            .bind(cutoff)
            .fetch_one(&mut *connection)
            .await?;
        pruned += u64::try_from(gone).unwrap_or(0);
    }
    Ok(pruned)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn whole_days_are_kept() {
        let now = datetime!(2019-07-03 15:00 UTC);
        let week = Retention::days(7);
        assert_eq!(week.cutoff(now), Some(datetime!(2019-06-26 00:00 UTC)));
        assert!(week.is_late(datetime!(2019-06-25 23:59:59.999 UTC), now));
        assert!(!week.is_late(datetime!(2019-06-26 00:00 UTC), now));
        assert!(week.is_late(datetime!(2019-06-26 01:00 +02:00), now), "days are UTC");
        assert!(!Retention::default().is_late(datetime!(1970-01-01 00:00 UTC), now));
        assert_eq!(Retention::days(u32::MAX).cutoff(now), None);
    }
}
