//! The summary's queries.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use moodstream_demo::Intent;
use sqlx::{PgPool, Row};
use time::OffsetDateTime;

use super::{Agreement, Example, Hashtags, Tally};
use crate::plot::{Series, Trend};

pub(super) async fn trend(pool: &PgPool, since: OffsetDateTime) -> Result<Trend, sqlx::Error> {
    // The first whole minute.
    let start = since + time::Duration::seconds(60 - since.unix_timestamp().rem_euclid(60));
    let start = start.replace_nanosecond(0).unwrap_or(start);
    let rows = sqlx::query(
        "SELECT bucket, emotion, sum(posts)::bigint AS posts, sum(mean_score * posts) AS score_sum \
         FROM emotion_by_minute WHERE subject = '' AND bucket >= $1 AND bucket <= now() GROUP BY 1, 2",
    )
    .bind(start)
    .fetch_all(pool)
    .await?;
    let mut cells: BTreeMap<String, (BTreeMap<usize, u64>, f64)> = BTreeMap::new();
    let mut minutes = 0;
    for row in rows {
        let bucket: OffsetDateTime = row.try_get("bucket")?;
        let minute = usize::try_from((bucket - start).whole_minutes()).unwrap_or(0);
        let (by_minute, score_sum) = cells.entry(row.try_get("emotion")?).or_default();
        *by_minute.entry(minute).or_default() += count(row.try_get("posts")?);
        *score_sum += row.try_get::<f64, _>("score_sum")?;
        minutes = minutes.max(minute + 1);
    }
    let mut series: Vec<Series> = cells
        .into_iter()
        .map(|(emotion, (cells, score_sum))| {
            let by_minute: Vec<u64> = (0..minutes)
                .map(|minute| cells.get(&minute).copied().unwrap_or(0))
                .collect();
            let posts: u64 = by_minute.iter().sum();
            Series {
                emotion,
                by_minute,
                mean_score: score_sum / posts.max(1) as f64,
            }
        })
        .collect();
    series.sort_by_key(|series| std::cmp::Reverse(series.posts()));
    Ok(Trend { start, series })
}

pub(super) async fn tally(pool: &PgPool) -> Result<Tally, sqlx::Error> {
    let row = sqlx::query(
        "SELECT coalesce(sum(records), 0)::bigint AS records, coalesce(sum(inserted), 0)::bigint AS inserted, \
         coalesce(sum(duplicates), 0)::bigint AS duplicates, coalesce(sum(deletions), 0)::bigint AS deletions, \
         coalesce(sum(filtered), 0)::bigint AS filtered, coalesce(sum(late), 0)::bigint AS late, \
         coalesce(sum(rejected), 0)::bigint AS rejected, coalesce(sum(removed), 0)::bigint AS removed \
         FROM consumer_tally",
    )
    .fetch_one(pool)
    .await?;
    let of = |column: &str| row.try_get::<i64, _>(column).map(count);
    Ok(Tally {
        records: of("records")?,
        inserted: of("inserted")?,
        duplicates: of("duplicates")?,
        deletions: of("deletions")?,
        filtered: of("filtered")?,
        late: of("late")?,
        rejected: of("rejected")?,
        removed: of("removed")?,
    })
}

pub(super) async fn hashtags(pool: &PgPool) -> Result<Hashtags, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT emotion, hashtag, posts FROM ( \
             SELECT emotion, hashtag, count(*) AS posts, \
                    row_number() OVER (PARTITION BY emotion ORDER BY count(*) DESC, hashtag) AS place, \
                    sum(count(*)) OVER (PARTITION BY emotion) AS weight \
             FROM post, unnest(hashtags) AS hashtag GROUP BY emotion, hashtag \
         ) AS ranked WHERE place <= 4 ORDER BY weight DESC, emotion, place",
    )
    .fetch_all(pool)
    .await?;
    let mut hashtags: Hashtags = Vec::new();
    for row in rows {
        let emotion: String = row.try_get("emotion")?;
        let tag = (row.try_get("hashtag")?, count(row.try_get("posts")?));
        match hashtags.last_mut() {
            Some((last, tags)) if *last == emotion => tags.push(tag),
            _ => hashtags.push((emotion, vec![tag])),
        }
    }
    Ok(hashtags)
}

/// Compares the emotions that posts were written to express with the model's predictions. Leaves out posts without a language
/// (plain texts).
pub(super) async fn agreement(pool: &PgPool, intents: &[Intent]) -> Result<Agreement, sqlx::Error> {
    let rows = sqlx::query("SELECT text, emotion FROM post WHERE repost_of IS NULL")
        .fetch_all(pool)
        .await?;
    let mut given: HashMap<String, String> = HashMap::new();
    for row in rows {
        let text: String = row.try_get("text")?;
        let words: Vec<&str> = text.split_whitespace().collect();
        given.insert(words.join(" "), row.try_get("emotion")?);
    }
    let mut agreement = Agreement::new();
    for intent in intents.iter().filter(|intent| intent.lang != "und") {
        // The post may have been deleted.
        let Some(emotion) = given.get(&intent.text) else {
            continue;
        };
        let (right, all) = agreement.entry(intent.lang).or_default();
        *right += u64::from(emotion == intent.emotion);
        *all += 1;
    }
    Ok(agreement)
}

/// Returns the `each` posts with the highest scores of each emotion, each text once.
pub(super) async fn examples(pool: &PgPool, each: i64) -> Result<Vec<Example>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT emotion, score, lang, text FROM ( \
             SELECT emotion, score, lang, text, \
                    row_number() OVER (PARTITION BY emotion ORDER BY score DESC, post_id) AS place, \
                    count(*) OVER (PARTITION BY emotion) AS weight \
             FROM (SELECT DISTINCT ON (text) * FROM post WHERE repost_of IS NULL AND length(text) BETWEEN 25 AND 90 \
                   ORDER BY text, post_id) AS different \
         ) AS ranked WHERE place <= $1 ORDER BY weight DESC, emotion, place LIMIT 9",
    )
    .bind(each)
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Example {
                emotion: row.try_get("emotion")?,
                score: row.try_get("score")?,
                lang: row.try_get("lang")?,
                text: row.try_get("text")?,
            })
        })
        .collect()
}

pub(super) async fn shares(pool: &PgPool, sql: &'static str) -> Result<Vec<(String, u64)>> {
    let rows = sqlx::query(sql).fetch_all(pool).await?;
    Ok(rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, count(row.try_get(1)?))))
        .collect::<Result<_, sqlx::Error>>()?)
}

pub(super) fn count(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
