//! How long posts and rollups are kept.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::{Date, Duration, OffsetDateTime};

use super::{
    Store,
    error::StoreError,
    partition::{
        DAYS, HOURS, MINUTES, PARTITIONED, POSTS, PartitionedTable, Span, TablePartition, day_of, lock_partitions,
        partitions_of,
    },
};

/// Keys deleted in one transaction.
const KEYS_AT_ONCE: usize = 20_000;

/// The advisory lock for maintenance, which one member does for all. The number has no meaning.
const MAINTENANCE_LOCK: i64 = 0x6d6f_6f64_7570_6b65;

/// Posts dated before this moment are late: they are counted but not stored. `None`: no post is late. The greater of two
/// values covers both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RetentionCutoff(pub Option<OffsetDateTime>);

impl RetentionCutoff {
    /// Whether a post of this event time is late.
    #[must_use]
    pub fn is_late(self, created_at: OffsetDateTime) -> bool {
        self.0.is_some_and(|moment| created_at < moment)
    }
}

/// How many whole UTC days before today are kept; `None` keeps everything.
///
/// Rollups must be kept at least as long as the posts that they count. Those by hour and by day are dropped in whole months
/// and years, once all of the month or year is past retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Days of posts.
    pub days: Option<u32>,
    /// Days of the rollups by minute.
    pub minute_days: Option<u32>,
    /// Days of the rollups by hour.
    pub hour_days: Option<u32>,
    /// Days of the rollups by day.
    pub day_days: Option<u32>,
}

impl Retention {
    /// Keeps posts and their rollups by minute for `days`, and the coarser rollups forever.
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
    pub fn cutoff(&self, now: OffsetDateTime) -> RetentionCutoff {
        RetentionCutoff(start_of_kept(self.days, now))
    }

    pub(super) fn of(&self, table: PartitionedTable) -> Option<u32> {
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
    // More days than the calendar has: everything is kept.
    start.checked_sub(Duration::days(i64::from(days?)))
}

/// What was dropped as past retention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionOutcome {
    /// The first days of the partitions of `post` that were dropped.
    pub days: Vec<Date>,
    /// Number of partitions dropped, of posts and of rollups.
    pub partitions: usize,
    /// Number of keys deleted: of posts of those days, and of deletions stored before the cutoff.
    pub keys: u64,
}

impl Store {
    /// The moment up to which retention has ever dropped posts. Posts before it are late for good: the coarse
    /// rollups still count the dropped posts, but a second copy of one can no longer be recognised.
    pub async fn retention_mark(&self) -> Result<RetentionCutoff, StoreError> {
        self.run("reading retention_mark", async |connection| {
            retention_mark(connection).await
        })
        .await
    }

    /// Drops what is past retention: first the partitions, posts and rollups of a day together, then the keys in batches.
    /// How far it has come is recorded: see [`Self::retention_mark`]. Several consumers may call it at once: one of them
    /// deletes the keys.
    ///
    /// # Errors
    /// [`super::StoreErrorKind::Busy`] if a partition is in use for longer than a moment; the rest is left to the next call. Or the
    /// database fails.
    pub async fn apply_retention(
        &self,
        retention: &Retention,
        now: OffsetDateTime,
    ) -> Result<RetentionOutcome, StoreError> {
        let mut outcome = RetentionOutcome::default();
        let mut keys_cutoff = retention.cutoff(now).0;
        // Shorter spans first: if a rollup were dropped before the posts that it counts, deleting them would find no row.
        let mut together: BTreeMap<(Span, Date), Vec<TablePartition>> = BTreeMap::new();
        for table in PARTITIONED {
            let Some(cutoff) = start_of_kept(retention.of(table), now) else {
                continue;
            };
            let cutoff = day_of(cutoff);
            for partition in self.partitions_before(table, cutoff).await? {
                // A partition that contains the cutoff stays, and with it the keys of its posts: their deletions need them.
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
            outcome.partitions += partitions.len();
            outcome
                .days
                .extend(partitions.iter().filter(|p| p.of == POSTS).map(|p| p.from));
        }
        if let Some(cutoff) = keys_cutoff {
            for keys in [Keys::Seen, Keys::Unseen { late: true }] {
                outcome.keys += self.prune_keys(keys, cutoff).await?;
            }
        }
        Ok(outcome)
    }

    /// The partitions that begin before the cutoff.
    async fn partitions_before(
        &self,
        table: PartitionedTable,
        cutoff: Date,
    ) -> Result<Vec<TablePartition>, StoreError> {
        let mut partitions = self
            .run("listing partitions", async |connection| {
                partitions_of(connection, table).await
            })
            .await?;
        partitions.retain(|partition| partition.from < cutoff);
        Ok(partitions)
    }

    /// Drops them in one transaction, so that a day's rollups never differ from a recount of its posts.
    async fn drop_partitions(&self, partitions: &[TablePartition]) -> Result<(), StoreError> {
        self.forget_days();
        self.run("dropping partitions past retention", async |connection| {
            drop_partitions(connection, partitions).await
        })
        .await
    }

    /// Deletes the keys of deleted posts that were never seen, if the deletion was stored before this moment. Returns how
    /// many. If such a post arrives later, it is stored as if it had not been deleted. Several consumers may call this at
    /// once: one of them does the work.
    pub async fn forget_unseen_deletions(&self, before: OffsetDateTime) -> Result<u64, StoreError> {
        self.prune_keys(Keys::Unseen { late: false }, before).await
    }

    async fn prune_keys(&self, keys: Keys, cutoff: OffsetDateTime) -> Result<u64, StoreError> {
        self.run("deleting old keys", async |connection| {
            prune_keys(connection, keys, cutoff).await
        })
        .await
    }
}

/// Keys by what determines their age: each kind has its own partial index.
#[derive(Debug, Clone, Copy)]
enum Keys {
    /// Keys of posts: as old as the post or its deletion, whichever is later. Deleting them marks their days as dropped.
    Seen,
    /// Keys of posts never seen: as old as their deletion.
    Unseen {
        /// Whether posts of that age are late, so that deleting the keys marks their days as dropped.
        late: bool,
    },
}

impl Keys {
    /// The predicate of its index, and the expression for the age that the index is on.
    const fn index(self) -> (&'static str, &'static str) {
        match self {
            Self::Seen => (
                "created_at IS NOT NULL",
                "date_bin('1 minute', greatest(created_at, deleted_at), '2001-01-01 00:00:00+00')",
            ),
            Self::Unseen { .. } => ("created_at IS NULL", "deleted_at"),
        }
    }

    const fn marks(self) -> bool {
        matches!(self, Self::Seen | Self::Unseen { late: true })
    }
}

/// See [`Store::retention_mark`].
pub(super) async fn retention_mark(connection: &mut PgConnection) -> Result<RetentionCutoff, sqlx::Error> {
    let until = sqlx::query_scalar("SELECT max(retired_until) FROM retention_mark")
        .fetch_one(connection)
        .await?;
    Ok(RetentionCutoff(until))
}

/// Takes the lock for maintenance until the transaction ends; false if another member holds it.
pub(super) async fn try_lock_maintenance(tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(MAINTENANCE_LOCK)
        .fetch_one(tx)
        .await
}

async fn drop_partitions(connection: &mut PgConnection, partitions: &[TablePartition]) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    lock_partitions(&mut tx).await?;
    // Dropping waits for every reader, and other statements then queue behind it. So it waits only for a moment, which is
    // also shorter than deadlock_timeout (1 s).
    sqlx::raw_sql("SET LOCAL lock_timeout = '500ms'")
        .execute(&mut *tx)
        .await?;
    for partition in partitions {
        partition.drop(&mut tx).await?;
    }
    // The mark follows from what was dropped, not from the clock: a wrong clock must not make future posts late. It is
    // updated last, so that a transaction that has locked it never waits for another lock.
    let until = |table: PartitionedTable| {
        let dropped = partitions.iter().filter(|partition| partition.of == table);
        dropped.map(|partition| partition.until().midnight().assume_utc()).max()
    };
    let (posts, minutes) = (until(POSTS), until(MINUTES));
    if posts.is_some() || minutes.is_some() {
        sqlx::query(
            "UPDATE retention_mark SET retired_until = greatest(retired_until, $1),
                                       minutes_retired_until = greatest(minutes_retired_until, $2)",
        )
        .bind(posts)
        .bind(minutes)
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await
}

/// Deletes the keys older than the cutoff, oldest first, without reading others. Keys locked by a flush are skipped until
/// the next call, so it never waits while it holds locks.
async fn prune_keys(connection: &mut PgConnection, keys: Keys, cutoff: OffsetDateTime) -> Result<u64, sqlx::Error> {
    let (condition, age) = keys.index();
    // Dead entries stay in the index until vacuum, so each batch begins where the last one ended.
    let sql = format!(
        "WITH gone AS (
             DELETE FROM post_key WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM post_key WHERE {condition} AND {age} >= $1 AND {age} < $2
                 ORDER BY {age} LIMIT {KEYS_AT_ONCE} FOR UPDATE SKIP LOCKED))
             RETURNING {age} AS age),
         until AS (
             SELECT date_trunc('day', max(age), 'UTC') + interval '24 hours' AS day FROM gone),
         marked AS (
             UPDATE retention_mark m SET retired_until = until.day
             FROM until WHERE $3 AND until.day > coalesce(m.retired_until, '-infinity'))
         SELECT count(*), max(age) FROM gone"
    );
    let mut oldest = OffsetDateTime::UNIX_EPOCH;
    let mut pruned = 0;
    loop {
        let mut tx = connection.begin().await?;
        if !try_lock_maintenance(&mut tx).await? {
            return Ok(pruned);
        }
        let (gone, last): (i64, Option<OffsetDateTime>) = sqlx::query_as(AssertSqlSafe(sql.as_str()))
            .persistent(false)
            .bind(oldest)
            .bind(cutoff)
            .bind(keys.marks())
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        let gone = usize::try_from(gone).unwrap_or(0);
        pruned += gone as u64;
        match last {
            Some(last) if gone >= KEYS_AT_ONCE => oldest = last,
            _ => return Ok(pruned),
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn whole_days_are_kept() {
        let now = datetime!(2019-07-03 15:00 UTC);
        let week = Retention::days(7);
        let cutoff = week.cutoff(now);
        assert_eq!(cutoff, RetentionCutoff(Some(datetime!(2019-06-26 00:00 UTC))));
        assert!(cutoff.is_late(datetime!(2019-06-25 23:59:59.999 UTC)));
        assert!(!cutoff.is_late(datetime!(2019-06-26 00:00 UTC)));
        assert!(cutoff.is_late(datetime!(2019-06-26 01:00 +02:00)), "days are UTC");
        let never = Retention::default().cutoff(now);
        assert!(!never.is_late(datetime!(1970-01-01 00:00 UTC)));
        assert_eq!(never.max(cutoff), cutoff);
        assert_eq!(Retention::days(u32::MAX).cutoff(now), never);
    }
}
