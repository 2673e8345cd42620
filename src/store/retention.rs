//! How long posts are kept.

use sqlx::{AssertSqlSafe, Connection};
use time::{Date, Duration, OffsetDateTime};

use super::{
    Store,
    error::StoreError,
    lock,
    partition::{day_name, day_of, lock_partitions},
};

/// Pages of `post_key` searched in one transaction: 8 MiB, some hundred thousand keys.
const PAGES_AT_ONCE: i64 = 1024;

/// How many days posts are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Whole UTC days kept before today; `None` keeps everything.
    pub days: Option<u32>,
}

impl Retention {
    /// Start of the oldest day kept.
    #[must_use]
    pub fn cutoff(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let start = day_of(now).midnight().assume_utc();
        // More days than the calendar has keep everything.
        start.checked_sub(Duration::days(i64::from(self.days?)))
    }

    /// Whether a post is past retention: such a post is counted as late and not stored.
    #[must_use]
    pub fn is_late(&self, created_at: OffsetDateTime, now: OffsetDateTime) -> bool {
        self.cutoff(now).is_some_and(|cutoff| created_at < cutoff)
    }
}

/// What was past retention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retired {
    /// Days whose partitions were dropped.
    pub days: Vec<Date>,
    /// Keys forgotten: of posts of those days, and of deletions stored before the cutoff.
    pub keys: u64,
}

impl Store {
    /// Drops what is past retention: a day at a time, posts and rollups together, then the keys, piece by
    /// piece. May be called by several consumers at once. A day whose partition is in use for longer than a
    /// moment is an error of the kind [`super::Fault::Busy`]; the rest waits for the next call.
    pub async fn apply_retention(&self, retention: &Retention, now: OffsetDateTime) -> Result<Retired, StoreError> {
        let mut retired = Retired::default();
        let Some(cutoff) = retention.cutoff(now) else {
            return Ok(retired);
        };
        for day in self.days_before(day_of(cutoff)).await? {
            self.drop_day(day).await?;
            retired.days.push(day);
        }
        retired.keys = self.prune_keys(cutoff).await?;
        Ok(retired)
    }

    async fn days_before(&self, cutoff: Date) -> Result<Vec<Date>, StoreError> {
        const DOING: &str = "listing day partitions";
        let mut connection = self.acquire(DOING).await?;
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'post'::regclass AND c.relname < $1 AND c.relname ~ '^post_[0-9]{8}$'
             ORDER BY c.relname",
        )
        .bind(format!("post_{}", day_name(cutoff)))
        .fetch_all(&mut *connection)
        .await
        .map_err(StoreError::when(DOING))?;
        Ok(names
            .iter()
            .filter_map(|name| parse_day(name.strip_prefix("post_")?))
            .collect())
    }

    /// Posts and rollups go in one transaction, so that the one never differs from a recount of the other.
    async fn drop_day(&self, day: Date) -> Result<(), StoreError> {
        const DOING: &str = "dropping a day past retention";
        lock(&self.state.days).remove(&day);
        let mut connection = self.acquire(DOING).await?;
        let drop_day = async {
            let mut tx = connection.begin().await?;
            lock_partitions(&mut tx).await?;
            let name = day_name(day);
            // Dropping waits for every reader, and everybody else then waits for it: so only for a moment, and
            // less than the deadlock detector's second.
            let sql = format!(
                "SET LOCAL lock_timeout = '500ms';
                 DROP TABLE IF EXISTS post_{name}; DROP TABLE IF EXISTS emotion_rollup_{name}"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await?;
            tx.commit().await
        };
        drop_day.await.map_err(StoreError::when(DOING))
    }

    /// Walks through the whole table in pieces: once a day that costs less than an index that every insert
    /// would have to keep. Keys that a flush is busy with are left for the next time, so it never waits while
    /// it holds locks.
    async fn prune_keys(&self, cutoff: OffsetDateTime) -> Result<u64, StoreError> {
        const DOING: &str = "pruning keys past retention";
        let mut connection = self.acquire(DOING).await?;
        let pages: i64 =
            sqlx::query_scalar("SELECT pg_relation_size('post_key') / current_setting('block_size')::bigint")
                .fetch_one(&mut *connection)
                .await
                .map_err(StoreError::when(DOING))?;
        let mut pruned = 0;
        for first in (0..=pages).step_by(usize::try_from(PAGES_AT_ONCE).unwrap_or(1)) {
            // Deletions count from when they were stored: a post that is late anyway needs no tombstone.
            let sql = format!(
                "DELETE FROM post_key WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM post_key
                     WHERE ctid >= '({first},0)' AND ctid < '({},0)' AND greatest(deleted_at, created_at) < $1
                     FOR UPDATE SKIP LOCKED))",
                first + PAGES_AT_ONCE
            );
            let done = sqlx::query(AssertSqlSafe(sql))
                .persistent(false)
                .bind(cutoff)
                .execute(&mut *connection)
                .await
                .map_err(StoreError::when(DOING))?;
            pruned += done.rows_affected();
        }
        Ok(pruned)
    }
}

fn parse_day(digits: &str) -> Option<Date> {
    let part = |range: std::ops::Range<usize>| digits.get(range)?.parse::<u16>().ok();
    let month = time::Month::try_from(u8::try_from(part(4..6)?).ok()?).ok()?;
    Date::from_calendar_date(i32::from(part(0..4)?), month, u8::try_from(part(6..8)?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use time::macros::{date, datetime};

    use super::*;

    #[test]
    fn whole_days_are_kept() {
        let now = datetime!(2019-07-03 15:00 UTC);
        let week = Retention { days: Some(7) };
        assert_eq!(week.cutoff(now), Some(datetime!(2019-06-26 00:00 UTC)));
        assert!(week.is_late(datetime!(2019-06-25 23:59:59.999 UTC), now));
        assert!(!week.is_late(datetime!(2019-06-26 00:00 UTC), now));
        assert!(week.is_late(datetime!(2019-06-26 01:00 +02:00), now), "days are UTC");
        assert!(!Retention::default().is_late(datetime!(1970-01-01 00:00 UTC), now));
        assert_eq!(Retention { days: Some(u32::MAX) }.cutoff(now), None);
    }

    #[test]
    fn partition_names_are_read_back() {
        let day = date!(2019 - 07 - 03);
        assert_eq!(parse_day(&day_name(day)).unwrap(), day);
        for odd in ["2019", "20191301", "20190230", "2019070x", "ä2019070"] {
            assert_eq!(parse_day(odd), None, "{odd}");
        }
    }
}
