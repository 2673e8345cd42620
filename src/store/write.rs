//! The transaction of a flush.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::{Date, OffsetDateTime};

use super::{
    Store,
    columns::insert_posts,
    dedup::{DedupPlan, KeyChange, KeyPlan, Removal},
    error::{FencedRange, FlushError, StoreError, StoreErrorKind},
    flush::{Flush, Flushed, MAX_DAYS, Tally},
    partition::{POSTS, day_of},
    retention::RetentionCutoff,
    rollup::{DeletedRow, Deltas},
    rollup_rows::apply_deltas,
    schema::{SchemaError, schema_version},
};
use crate::{fail_point::fail_point, sync::lock};

/// Maximum number of unanswered commits remembered. A caller retries a flush until it knows its result, so if there are more
/// of them than callers, some were abandoned.
const MAX_UNANSWERED: usize = 256;

impl Store {
    /// Applies the whole flush in one transaction, or none of it.
    ///
    /// After an error that [`FlushError::is_transient`], flush the same value again. This is also safe if the connection
    /// broke during the commit: the next attempt finds out whether it took place.
    ///
    /// # Errors
    /// [`FlushError`]; nothing is stored then, except by a commit whose response was lost.
    pub async fn flush(&self, flush: &Flush) -> Result<Flushed, FlushError> {
        let plan = DedupPlan::new(flush, RetentionCutoff::default())?;
        self.ensure_days(&flush.days()?).await?;
        let result = self
            .with("storing a flush", async |connection| {
                self.transact(connection, flush, plan).await
            })
            .await
            .unwrap_or_else(|error| Err(error.into()));
        match &result {
            Ok(_) => {
                lock(&self.state.unanswered).remove(&flush.version());
            }
            Err(FlushError::Store(error)) if error.kind == StoreErrorKind::Busy => self.forget_days(),
            Err(_) => {}
        }
        result
    }

    async fn transact(
        &self,
        connection: &mut PgConnection,
        flush: &Flush,
        plan: DedupPlan<'_>,
    ) -> Result<Flushed, FlushError> {
        fail_point!("flush-begin");
        let mut tx = connection.begin().await.map_err(StoreError::when("starting a flush"))?;
        let Some(flushed) = self.write(&mut tx, flush, plan).await? else {
            let known = lock(&self.state.unanswered).remove(&flush.version());
            return Ok(Flushed {
                replayed: true,
                ..known.unwrap_or_default()
            });
        };
        self.remember(flush, &flushed);
        fail_point!("flush-commit-before");
        tx.commit().await.map_err(StoreError::when("committing a flush"))?;
        fail_point!("flush-commit-after");
        Ok(flushed)
    }

    /// Everything before the commit. `None` if this flush was committed before.
    pub(super) async fn write(
        &self,
        tx: &mut PgConnection,
        flush: &Flush,
        mut plan: DedupPlan<'_>,
    ) -> Result<Option<Flushed>, FlushError> {
        let Fence::Open { retention_mark } = lock_fences(tx, flush, &plan).await? else {
            return Ok(None);
        };
        // Rare: the decoder drops late posts, except those of days that were dropped since.
        if flush.posts.iter().any(|row| retention_mark.is_late(row.created_at())) {
            plan = DedupPlan::new(flush, retention_mark)?;
        }
        fail_point!("flush-fences-after");
        fail_point!("flush-keys-before");
        let changes = claim_keys(&mut *tx, &plan.keys)
            .await
            .map_err(StoreError::when("writing post_key"))?;
        fail_point!("flush-keys-after");
        let (written, removals) = plan.resolve(&changes);
        check_days(flush, &written, &removals)?;
        fail_point!("flush-insert-before");
        insert_posts(&mut *tx, flush, &written)
            .await
            .map_err(StoreError::when("writing post"))?;
        fail_point!("flush-insert-after");
        let (deleted, removed) = remove_posts(&mut *tx, &removals, flush.ranges.len())
            .await
            .map_err(StoreError::when("deleting from post"))?;
        fail_point!("flush-delete-after");
        let mut deltas = Deltas::default();
        for &place in &written {
            deltas.add(flush, &flush.posts[place]);
        }
        for row in &deleted {
            deltas.subtract(row);
        }
        fail_point!("flush-rollup-before");
        let days = deltas.days();
        let changes = deltas.by_resolution();
        apply_deltas(&mut *tx, &changes, &days).await?;
        let rollups = changes.iter().map(|(_, deltas)| deltas.len()).sum();
        fail_point!("flush-rollup-after");
        let order = plan.range_order.clone();
        let flushed = plan.finish(written, &removed, rollups);
        fail_point!("flush-offsets-before");
        advance_offsets(&mut *tx, flush, &order, &flushed.tallies).await?;
        fail_point!("flush-offsets-after");
        Ok(Some(flushed))
    }

    fn remember(&self, flush: &Flush, flushed: &Flushed) {
        let mut unanswered = lock(&self.state.unanswered);
        if unanswered.len() >= MAX_UNANSWERED {
            unanswered.clear();
        }
        unanswered.insert(flush.version(), flushed.clone());
    }
}

enum Fence {
    /// Every partition has the offset that the flush expects.
    Open { retention_mark: RetentionCutoff },
    /// This flush was committed before.
    AlreadyCommitted,
}

/// Locks the offsets of all ranges, in order, and compares them. No other transaction can move them until this one ends;
/// one that was about to has finished.
async fn lock_fences(tx: &mut PgConnection, flush: &Flush, plan: &DedupPlan<'_>) -> Result<Fence, FlushError> {
    const DOING: &str = "locking offsets";
    let (topics, partitions) = partition_columns(flush, &plan.range_order);
    let rows: Vec<(String, i32, i64, Option<OffsetDateTime>, i64)> = sqlx::query_as(
        "SELECT o.topic, o.partition, o.next_offset, (SELECT m.retired_until FROM retention_mark m),
                (SELECT max(c.min_writer) FROM schema_compat c)
         FROM consumer_offset o
         WHERE o.consumer_group = $1 AND (o.topic, o.partition) IN (SELECT * FROM unnest($2::text[], $3::int[]))
         ORDER BY o.topic COLLATE \"C\", o.partition FOR UPDATE",
    )
    .bind(&*flush.group)
    .bind(&topics)
    .bind(&partitions)
    .fetch_all(&mut *tx)
    .await
    .map_err(StoreError::when(DOING))?;
    let found: BTreeMap<(&str, i32), i64> = rows.iter().map(|(t, p, next, ..)| ((t.as_str(), *p), *next)).collect();
    if let Some(&min_writer) = rows.iter().map(|row| &row.4).max()
        && min_writer > schema_version()
    {
        return Err(FlushError::Outdated(SchemaError::Outdated(min_writer)));
    }
    let fenced: Vec<FencedRange> = flush
        .ranges
        .iter()
        .filter_map(|range| {
            let found = found.get(&(&*range.topic, range.partition)).copied();
            (found != Some(range.expected)).then(|| FencedRange {
                topic: range.topic.clone(),
                partition: range.partition,
                expected: range.expected,
                found,
            })
        })
        .collect();
    if fenced.is_empty() {
        let retention_mark = RetentionCutoff(rows.first().and_then(|row| row.3));
        return Ok(Fence::Open { retention_mark });
    }
    // A separate statement after the lock, so that it sees what the transaction that held the lock has written.
    // One partition is enough, because a flush is stored as a whole; others may have moved on since.
    let already_committed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM consumer_tally t
         WHERE t.consumer_group = $1 AND (t.topic, t.partition) IN (SELECT * FROM unnest($2::text[], $3::int[]))
           AND t.last_flush = $4::text::uuid)",
    )
    .bind(&*flush.group)
    .bind(&topics)
    .bind(&partitions)
    .bind(flush.id().to_string())
    .fetch_one(&mut *tx)
    .await
    .map_err(StoreError::when(DOING))?;
    if already_committed {
        Ok(Fence::AlreadyCommitted)
    } else {
        Err(FlushError::Fenced(fenced))
    }
}

/// Inserts new keys and marks deleted ones, each key once and in order. It is one statement, because two, each in order,
/// could deadlock with those of another consumer.
///
/// Returns the keys that changed, except deletions of posts never seen: they are three quarters of the real stream, and
/// need no further work.
async fn claim_keys(tx: &mut PgConnection, keys: &[KeyPlan<'_>]) -> Result<Vec<KeyChange>, sqlx::Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let sources: Vec<&str> = keys.iter().map(|key| key.source).collect();
    let ids: Vec<&str> = keys.iter().map(|key| key.id).collect();
    let created: Vec<Option<OffsetDateTime>> = keys.iter().map(|key| key.post.map(|(_, at)| at)).collect();
    let deleted: Vec<bool> = keys.iter().map(|key| key.deletion.is_some()).collect();
    // An existing row has an xmax, set by the row lock that ON CONFLICT took; in a new row it is 0.
    let rows: Vec<(String, String, OffsetDateTime, bool)> = sqlx::query_as(
        "WITH changed AS (
             INSERT INTO post_key AS k (source, post_id, created_at, deleted_at)
             SELECT source, post_id, created_at, CASE WHEN deleted THEN now() END
             FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bool[])
                  AS n (source, post_id, created_at, deleted)
             ON CONFLICT (source, post_id) DO UPDATE SET deleted_at = excluded.deleted_at
             WHERE excluded.deleted_at IS NOT NULL AND k.deleted_at IS NULL
             RETURNING k.source, k.post_id, k.created_at, k.xmax = 0 AS fresh)
         SELECT source, post_id, created_at, fresh FROM changed WHERE created_at IS NOT NULL",
    )
    .bind(sources)
    .bind(ids)
    .bind(created)
    .bind(deleted)
    .fetch_all(tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(source, id, created_at, fresh)| KeyChange {
            source,
            id,
            created_at,
            fresh,
        })
        .collect())
}

/// Checks [`MAX_DAYS`] again: the days of deletions are known only now, and each is a partition to lock as well.
fn check_days(flush: &Flush, written: &[usize], removals: &[Removal<'_>]) -> Result<(), FlushError> {
    let posts = written.iter().map(|&place| day_of(flush.posts[place].created_at()));
    let gone = removals.iter().map(|removal| day_of(removal.created_at));
    let found = posts.chain(gone).collect::<BTreeSet<Date>>().len();
    if found > MAX_DAYS {
        return Err(FlushError::TooManyDays { found, limit: MAX_DAYS });
    }
    Ok(())
}

/// Deletes posts, a day at a time: with the day as a constant in the statement's text, the planner prunes all other
/// partitions, so that they are not locked. Returns the deleted rows, and their number for each range.
async fn remove_posts(
    tx: &mut PgConnection,
    removals: &[Removal<'_>],
    ranges: usize,
) -> Result<(Vec<DeletedRow>, Vec<u64>), sqlx::Error> {
    let mut by_day: BTreeMap<Date, Vec<&Removal<'_>>> = BTreeMap::new();
    for removal in removals {
        by_day.entry(day_of(removal.created_at)).or_default().push(removal);
    }
    let mut deleted = Vec::with_capacity(removals.len());
    let mut removed = vec![0; ranges];
    for (day, mut removals) in by_day {
        removals.sort_unstable_by_key(|removal| (removal.source, removal.id));
        let (from, until) = POSTS.partition(day).bounds();
        let sql = format!(
            "DELETE FROM post p USING unnest($1::text[], $2::text[], $3::timestamptz[]) AS k (source, post_id, created_at)
             WHERE p.source = k.source AND p.post_id = k.post_id AND p.created_at = k.created_at
               AND p.created_at >= {from} AND p.created_at < {until}
             RETURNING p.source, p.post_id, p.created_at, p.lang, p.emotion, p.score,
                       p.repost_of IS NOT NULL AS is_repost, p.model_id, p.subjects, p.kafka_partition"
        );
        let rows: Vec<DeletedRow> = sqlx::query_as(AssertSqlSafe(sql))
            .persistent(false)
            .bind(removals.iter().map(|r| r.source).collect::<Vec<_>>())
            .bind(removals.iter().map(|r| r.id).collect::<Vec<_>>())
            .bind(removals.iter().map(|r| r.created_at).collect::<Vec<_>>())
            .fetch_all(&mut *tx)
            .await?;
        for row in &rows {
            let found = removals.binary_search_by(|r| (r.source, r.id).cmp(&(row.source.as_str(), &row.post_id)));
            if let Ok(place) = found {
                removed[removals[place].range] += 1;
            }
        }
        deleted.extend(rows);
    }
    Ok((deleted, removed))
}

fn partition_columns<'a>(flush: &'a Flush, order: &[usize]) -> (Vec<&'a str>, Vec<i32>) {
    order
        .iter()
        .map(|&place| (&*flush.ranges[place].topic, flush.ranges[place].partition))
        .unzip()
}

/// Advances the offsets, and adds to the counts of records by outcome, in one statement.
async fn advance_offsets(
    tx: &mut PgConnection,
    flush: &Flush,
    order: &[usize],
    tallies: &[Tally],
) -> Result<(), FlushError> {
    let (topics, partitions) = partition_columns(flush, order);
    let numbers = |of: fn(&Tally) -> u64| -> Vec<i64> {
        order
            .iter()
            .map(|&place| i64::try_from(of(&tallies[place])).unwrap_or(i64::MAX))
            .collect()
    };
    let last = order.iter().map(|&place| flush.ranges[place].last);
    let advanced = sqlx::query(
        "WITH tallied AS (
             INSERT INTO consumer_tally AS t (consumer_group, topic, partition, records, inserted, duplicates, deletions,
                 filtered, late, rejected, removed, last_flush)
             SELECT $1, n.*, $16::text::uuid
             FROM unnest($2::text[], $3::int[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
                         $13::bigint[], $14::bigint[], $15::bigint[]) AS n
             ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET
                 records = t.records + excluded.records, inserted = t.inserted + excluded.inserted,
                 duplicates = t.duplicates + excluded.duplicates, deletions = t.deletions + excluded.deletions,
                 filtered = t.filtered + excluded.filtered, late = t.late + excluded.late,
                 rejected = t.rejected + excluded.rejected, removed = t.removed + excluded.removed,
                 last_flush = excluded.last_flush)
         UPDATE consumer_offset o
         SET next_offset = r.next, record_offset = r.next - 1, record_timestamp = r.timestamp, record_hash = r.hash,
             updated_at = now()
         FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bigint[])
              AS r (topic, partition, expected, next, timestamp, hash)
         WHERE o.consumer_group = $1 AND o.topic = r.topic AND o.partition = r.partition
           AND o.next_offset = r.expected",
    )
    .bind(&*flush.group)
    .bind(&topics)
    .bind(&partitions)
    .bind(
        order
            .iter()
            .map(|&place| flush.ranges[place].expected)
            .collect::<Vec<_>>(),
    )
    .bind(order.iter().map(|&place| flush.ranges[place].next).collect::<Vec<_>>())
    .bind(last.clone().map(|last| last?.timestamp).collect::<Vec<_>>())
    .bind(last.map(|last| Some(last?.hash.cast_signed())).collect::<Vec<_>>())
    .bind(numbers(Tally::records))
    .bind(numbers(|t| t.inserted))
    .bind(numbers(|t| t.duplicates))
    .bind(numbers(|t| t.deletions))
    .bind(numbers(|t| t.filtered))
    .bind(numbers(|t| t.late))
    .bind(numbers(|t| t.rejected))
    .bind(numbers(|t| t.removed))
    .bind(flush.id().to_string())
    .execute(tx)
    .await
    .map_err(StoreError::when("advancing offsets"))?;
    if advanced.rows_affected() != order.len() as u64 {
        // They were locked and compared at the start, so only a trigger or a rule can have prevented it.
        let why = format!(
            "only {} of {} offsets were advanced",
            advanced.rows_affected(),
            order.len()
        );
        return Err(StoreError::new(StoreErrorKind::Other, "advancing offsets", why).into());
    }
    Ok(())
}
