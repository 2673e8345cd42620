//! Changes to rollup rows, in the transaction of a flush.
//!
//! A flush changes the row of its own partition's shard. If that row was merged into the row of [`MERGED`] in the meantime
//! (see [`super::merge`]), a deletion leaves the shard's row with a count of zero or less. That row is deleted, and what it
//! was short of is subtracted from the merged row. So the sum over the shards is right whatever was merged, and every
//! remaining row has posts.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection};
use time::{Date, OffsetDateTime};

use super::{
    error::{FlushError, StoreError},
    partition::{TablePartition, day_of},
    rollup::{Delta, MERGED, Resolution, RollupKey, RowDelta},
};

/// Changes the rows of all rollups, and records that the shards of these days, which must be sorted, are not merged.
pub(super) async fn apply_deltas(
    tx: &mut PgConnection,
    changes: &[(Resolution, Vec<RowDelta<'_>>)],
    days: &[Date],
) -> Result<(), FlushError> {
    add(tx, changes, days).await?;
    for (of, deltas) in changes {
        let short = take_empty(tx, *of, deltas).await?;
        if short.is_empty() {
            continue;
        }
        let merged = [(*of, in_merged_rows(&short))];
        add(tx, &merged, &[]).await?;
        let [(_, deltas)] = &merged;
        if let Some(row) = take_empty(tx, *of, deltas).await?.first() {
            return Err(FlushError::Inconsistent(format!("the {of} {}", row.bucket)));
        }
    }
    Ok(())
}

/// Adds the deltas to the rows, which are locked in the order of the deltas, in one statement: a round trip for each table would
/// take most of the time of a small flush.
async fn add(
    tx: &mut PgConnection,
    changes: &[(Resolution, Vec<RowDelta<'_>>)],
    days: &[Date],
) -> Result<(), StoreError> {
    let changes: Vec<_> = changes.iter().filter(|(_, deltas)| !deltas.is_empty()).collect();
    let mut inserts: Vec<String> = changes
        .iter()
        .enumerate()
        .map(|(place, (of, _))| insert_deltas(*of, place * DELTA_COLUMNS))
        .collect();
    if !days.is_empty() {
        inserts.push(format!(
            "INSERT INTO rollup_unmerged (day, claimed)
             SELECT day, false FROM unnest(${}::date[]) AS n (day) ON CONFLICT DO NOTHING",
            changes.len() * DELTA_COLUMNS + 1
        ));
    }
    if inserts.is_empty() {
        return Ok(());
    }
    // The manual leaves the order open, but Postgres runs the main statement first and then those of WITH from the last to the
    // first. So rows are locked from minutes to days, as by members that send one statement per table. Another order could only
    // cost a deadlock, after which the flush is retried.
    let first = inserts.remove(0);
    let with: Vec<String> = inserts
        .iter()
        .enumerate()
        .rev()
        .map(|(place, insert)| format!("i{place} AS ({insert})"))
        .collect();
    let sql = match with.is_empty() {
        true => first,
        false => format!("WITH {} {first}", with.join(", ")),
    };
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for (_, deltas) in changes {
        let columns = KeyColumns::new(deltas.iter().map(|(key, _)| key));
        query = query
            .bind(columns.buckets)
            .bind(columns.subjects)
            .bind(columns.langs)
            .bind(columns.sources)
            .bind(columns.emotions)
            .bind(columns.models)
            .bind(columns.shards)
            .bind(deltas.iter().map(|(_, delta)| delta.posts).collect::<Vec<_>>())
            .bind(deltas.iter().map(|(_, delta)| delta.score_sum).collect::<Vec<_>>())
            .bind(deltas.iter().map(|(_, delta)| delta.reposts).collect::<Vec<_>>())
            .bind(
                deltas
                    .iter()
                    .map(|(_, delta)| delta.repost_score_sum)
                    .collect::<Vec<_>>(),
            );
    }
    if !days.is_empty() {
        query = query.bind(days);
    }
    query.execute(tx).await.map_err(StoreError::when("writing rollups"))?;
    Ok(())
}

/// The number of parameters of [`insert_deltas`].
const DELTA_COLUMNS: usize = 11;

/// The statement that adds deltas to a rollup, with its parameters after the first `before`.
fn insert_deltas(of: Resolution, before: usize) -> String {
    const TYPES: [&str; DELTA_COLUMNS] = [
        "timestamptz",
        "text",
        "text",
        "text",
        "text",
        "text",
        "int",
        "bigint",
        "float8",
        "bigint",
        "float8",
    ];
    let columns: Vec<String> = TYPES
        .iter()
        .enumerate()
        .map(|(place, of)| format!("${}::{of}[]", before + place + 1))
        .collect();
    format!(
        "INSERT INTO {} AS r (bucket, subject, lang, source, emotion, model_id, shard,
                              posts, score_sum, reposts, repost_score_sum)
         SELECT * FROM unnest({})
         ON CONFLICT (bucket, subject, lang, source, emotion, model_id, shard)
         DO UPDATE SET posts = r.posts + excluded.posts, score_sum = r.score_sum + excluded.score_sum,
                       reposts = r.reposts + excluded.reposts,
                       repost_score_sum = r.repost_score_sum + excluded.repost_score_sum",
        of.partitioned().table,
        columns.join(", ")
    )
}

/// A deleted row whose count of posts was zero or negative.
#[derive(Debug, sqlx::FromRow)]
struct Short {
    bucket: OffsetDateTime,
    subject: String,
    lang: String,
    source: String,
    emotion: String,
    model_id: String,
    posts: i64,
    score_sum: f64,
    reposts: i64,
    repost_score_sum: f64,
}

impl Short {
    fn is_zero(&self) -> bool {
        self.posts == 0 && self.score_sum == 0.0 && self.reposts == 0 && self.repost_score_sum == 0.0
    }
}

/// Deletes the rows without posts, and returns those that were not all zero. They are locked since [`add`], so no other
/// transaction has changed them in the meantime.
async fn take_empty(tx: &mut PgConnection, of: Resolution, deltas: &[RowDelta<'_>]) -> Result<Vec<Short>, StoreError> {
    let mut by_partition: BTreeMap<TablePartition, Vec<&RollupKey<'_>>> = BTreeMap::new();
    for (key, _) in deltas.iter().filter(|(_, delta)| delta.taken) {
        let partition = of.partitioned().partition(day_of(key.bucket));
        by_partition.entry(partition).or_default().push(key);
    }
    let mut short = Vec::new();
    for (partition, keys) in by_partition {
        let columns = KeyColumns::new(keys.into_iter());
        let (from, until) = partition.bounds();
        let sql = format!(
            "DELETE FROM {} r
             USING unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[])
                   AS k (bucket, subject, lang, source, emotion, model_id, shard)
             WHERE r.bucket = k.bucket AND r.subject = k.subject AND r.lang = k.lang AND r.source = k.source
               AND r.emotion = k.emotion AND r.model_id = k.model_id AND r.shard = k.shard
               AND r.bucket >= {from} AND r.bucket < {until} AND r.posts <= 0
             RETURNING r.bucket, r.subject, r.lang, r.source, r.emotion, r.model_id,
                       r.posts, r.score_sum, r.reposts, r.repost_score_sum",
            of.partitioned().table
        );
        let gone: Vec<Short> = sqlx::query_as(AssertSqlSafe(sql))
            .persistent(false)
            .bind(columns.buckets)
            .bind(columns.subjects)
            .bind(columns.langs)
            .bind(columns.sources)
            .bind(columns.emotions)
            .bind(columns.models)
            .bind(columns.shards)
            .fetch_all(&mut *tx)
            .await
            .map_err(StoreError::when("deleting empty rows of rollups"))?;
        short.extend(gone.into_iter().filter(|row| !row.is_zero()));
    }
    Ok(short)
}

/// The same amounts as changes to the merged rows, in lock order.
fn in_merged_rows(short: &[Short]) -> Vec<RowDelta<'_>> {
    let mut changes: BTreeMap<RollupKey<'_>, Delta> = BTreeMap::new();
    for row in short {
        let key = RollupKey {
            bucket: row.bucket,
            subject: row.subject.as_str().into(),
            lang: row.lang.as_str().into(),
            source: &row.source,
            emotion: row.emotion.as_str().into(),
            model_id: row.model_id.as_str().into(),
            shard: MERGED,
        };
        *changes.entry(key).or_default() += Delta {
            posts: row.posts,
            score_sum: row.score_sum,
            reposts: row.reposts,
            repost_score_sum: row.repost_score_sum,
            taken: true,
        };
    }
    changes.into_iter().collect()
}

/// Rollup keys as arrays, to be bound as parameters.
struct KeyColumns<'a> {
    buckets: Vec<OffsetDateTime>,
    subjects: Vec<&'a str>,
    langs: Vec<&'a str>,
    sources: Vec<&'a str>,
    emotions: Vec<&'a str>,
    models: Vec<&'a str>,
    shards: Vec<i32>,
}

impl<'a> KeyColumns<'a> {
    fn new(keys: impl Iterator<Item = &'a RollupKey<'a>> + Clone) -> Self {
        Self {
            buckets: keys.clone().map(|key| key.bucket).collect(),
            subjects: keys.clone().map(|key| &*key.subject).collect(),
            langs: keys.clone().map(|key| &*key.lang).collect(),
            sources: keys.clone().map(|key| key.source).collect(),
            emotions: keys.clone().map(|key| &*key.emotion).collect(),
            models: keys.clone().map(|key| &*key.model_id).collect(),
            shards: keys.map(|key| key.shard).collect(),
        }
    }
}
