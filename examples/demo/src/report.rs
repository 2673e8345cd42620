//! The demo's summary, read as users would: by SQL and from `/metrics`.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use console::truncate_str;
use moodstream::telemetry::metric;
use moodstream_demo::{Counts, Intent};
use sqlx::{PgPool, Row};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    exposition,
    plot::{Screen, Series, Trend, colour_of, render, thousands},
};

/// The outcomes of all records, as the service counted them.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    records: u64,
    inserted: u64,
    duplicates: u64,
    deletions: u64,
    filtered: u64,
    late: u64,
    rejected: u64,
    removed: u64,
}

/// Emotions with their most frequent hashtags.
type Hashtags = Vec<(String, Vec<(String, u64)>)>;

struct Example {
    emotion: String,
    score: f64,
    lang: String,
    text: String,
}

/// By language: how many posts got the emotion that they were written to express, and how many posts there are.
type Agreement = BTreeMap<&'static str, (u64, u64)>;

/// The contents of the summary.
pub(super) struct Report {
    trend: Trend,
    tally: Tally,
    rows: u64,
    rejects: BTreeMap<String, u64>,
    dead_letters: u64,
    hashtags: Hashtags,
    examples: Vec<Example>,
    sources: Vec<(String, u64)>,
    languages: Vec<(String, u64)>,
    agreement: Agreement,
    model: String,
}

/// Times that the demo measured.
pub(super) struct Timing {
    /// From the start of the demo to the first committed posts.
    pub(super) first_results: Duration,
    /// From the service's readiness to the last record of the sample.
    pub(super) catch_up: Duration,
}

pub(super) async fn gather(
    pool: &PgPool,
    http: SocketAddr,
    since: OffsetDateTime,
    intents: &[Intent],
) -> Result<Report> {
    let metrics = http_get(http, "/metrics").await?;
    let trend = trend(pool, since).await.context("emotion_by_minute can't be read")?;
    let each = if trend.series.len() > 4 { 1 } else { 2 };
    Ok(Report {
        trend,
        tally: tally(pool).await.context("consumer_tally can't be read")?,
        rows: count(
            sqlx::query("SELECT count(*) FROM post")
                .fetch_one(pool)
                .await?
                .try_get(0)?,
        ),
        rejects: exposition::by_label(&metrics, metric::REJECTS, "reason")
            .into_iter()
            .filter(|(_, records)| *records > 0.0)
            .map(|(reason, records)| (reason, records as u64))
            .collect(),
        dead_letters: exposition::total(&metrics, metric::DEAD_LETTERS) as u64,
        hashtags: hashtags(pool).await.context("hashtags can't be read")?,
        examples: examples(pool, each).await.context("examples can't be read")?,
        sources: shares(pool, "SELECT source, count(*) FROM post GROUP BY 1 ORDER BY 2 DESC").await?,
        languages: shares(
            pool,
            "SELECT lang, count(*) FROM post GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8",
        )
        .await?,
        agreement: agreement(pool, intents)
            .await
            .context("emotions by text can't be read")?,
        model: sqlx::query("SELECT model_id FROM post LIMIT 1")
            .fetch_optional(pool)
            .await?
            .map_or(Ok(String::new()), |row| row.try_get(0))?,
    })
}

/// Returns the newest post as one line.
pub(super) async fn newest(pool: &PgPool, screen: Screen) -> Result<String> {
    let row = sqlx::query(
        "SELECT emotion, score, text FROM post WHERE created_at > now() - interval '10 minutes' ORDER BY created_at DESC LIMIT 1",
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(String::new()) };
    let (emotion, score, text): (String, f64, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(format!(
        "{} {score:.2}  {}",
        screen.paint(colour_of(&emotion), &emotion),
        one_line(&text)
    ))
}

async fn trend(pool: &PgPool, since: OffsetDateTime) -> Result<Trend, sqlx::Error> {
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

async fn tally(pool: &PgPool) -> Result<Tally, sqlx::Error> {
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

async fn hashtags(pool: &PgPool) -> Result<Hashtags, sqlx::Error> {
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
async fn agreement(pool: &PgPool, intents: &[Intent]) -> Result<Agreement, sqlx::Error> {
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
async fn examples(pool: &PgPool, each: i64) -> Result<Vec<Example>, sqlx::Error> {
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

async fn shares(pool: &PgPool, sql: &'static str) -> Result<Vec<(String, u64)>> {
    let rows = sqlx::query(sql).fetch_all(pool).await?;
    Ok(rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, count(row.try_get(1)?))))
        .collect::<Result<_, sqlx::Error>>()?)
}

fn count(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Returns the body of a page of the service.
pub(super) async fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: the body ends with the connection.
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("http://{address}{path}: no answer in {} s", PATIENCE.as_secs()))?
        .with_context(|| format!("http://{address}{path}"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => bail!(
            "http://{address}{path}: {}",
            answer.lines().next().unwrap_or("no answer")
        ),
    }
}

/// Returns the text without line breaks and other control characters.
fn one_line(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Report {
    pub(super) fn render(&self, fed: &Counts, timing: &Timing, screen: Screen) -> String {
        let mut out = String::new();
        self.plot(&mut out, screen);
        self.posts(&mut out, screen);
        self.accounts(&mut out, fed, timing, screen);
        out
    }

    fn plot(&self, out: &mut String, screen: Screen) {
        let _ = writeln!(out, "\n{}\n", screen.bold("  Emotions by minute, in posts"));
        out.push_str(&render(&self.trend, screen));
    }

    fn posts(&self, out: &mut String, screen: Screen) {
        let name = |emotion: &str| screen.paint(colour_of(emotion), &format!("{:<14}", truncate_str(emotion, 14, "…")));
        let line = |text: String| truncate_str(&text, screen.width, "…").into_owned();
        let _ = writeln!(out, "\n{}", screen.bold("  Hashtags"));
        for (emotion, tags) in self.hashtags.iter().take(8) {
            let tags: Vec<String> = tags
                .iter()
                .map(|(tag, posts)| format!("#{tag} {}", screen.dim(&posts.to_string())))
                .collect();
            let _ = writeln!(out, "{}", line(format!("  {} {}", name(emotion), tags.join("  "))));
        }
        let _ = writeln!(out, "\n{}", screen.bold("  Posts with the highest scores"));
        for Example {
            emotion,
            score,
            lang,
            text,
        } in &self.examples
        {
            let text = one_line(text);
            let _ = writeln!(
                out,
                "{}",
                line(format!("  {} {score:.2}  {}  {text}", name(emotion), screen.dim(lang)))
            );
        }
        let shares = |of: &[(String, u64)]| {
            let all = self.rows.max(1) as f64;
            of.iter()
                .map(|(name, posts)| format!("{name} {:.0} %", 100.0 * *posts as f64 / all))
                .collect::<Vec<_>>()
                .join(" · ")
        };
        let _ = writeln!(
            out,
            "\n{}",
            line(format!("  {}  {}", screen.bold("Sources  "), shares(&self.sources)))
        );
        let _ = writeln!(
            out,
            "{}",
            line(format!("  {}  {}", screen.bold("Languages"), shares(&self.languages)))
        );
        let percent = |&(right, all): &(u64, u64)| 100.0 * right as f64 / all.max(1) as f64;
        let total = self
            .agreement
            .values()
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let each = self
            .agreement
            .iter()
            .map(|(lang, one)| format!("{lang} {:.0} %", percent(one)));
        let _ = writeln!(
            out,
            "  {}  {:.0} % of the posts got the emotion that they were written to express\n             {}",
            screen.bold("Agreement"),
            percent(&total),
            each.collect::<Vec<_>>().join(" · ")
        );
    }

    fn accounts(&self, out: &mut String, fed: &Counts, timing: &Timing, screen: Screen) {
        let Tally {
            records,
            inserted,
            duplicates,
            deletions,
            filtered,
            late,
            rejected,
            removed,
        } = self.tally;
        let seconds = timing.catch_up.as_secs_f64();
        let _ = writeln!(out, "\n{}", screen.bold("  Every record accounted for"));
        let _ = writeln!(
            out,
            "  fed        {} records\n             {} posts · {} reposts · {} quotes, {} of these late\n             \
             {} duplicates · {} deletions · {} damaged",
            thousands(fed.records() as u64),
            thousands(fed.posts as u64),
            fed.reposts,
            fed.quotes,
            fed.late,
            fed.duplicates,
            fed.deletions,
            fed.damaged,
        );
        let _ = writeln!(
            out,
            "  committed  {} records\n             {} inserted · {duplicates} duplicates · {deletions} deletions · \
             {filtered} filtered · {late} too late · {rejected} rejected",
            thousands(records),
            thousands(inserted),
        );
        let _ = writeln!(
            out,
            "  stored     {} rows in post: inserted minus {removed} that deletions removed",
            thousands(self.rows),
        );
        let mut reasons: Vec<_> = self.rejects.iter().collect();
        reasons.sort_by_key(|(reason, posts)| (std::cmp::Reverse(**posts), (*reason).clone()));
        let reasons: Vec<String> = reasons
            .iter()
            .map(|(reason, posts)| format!("{reason} {posts}"))
            .collect();
        let _ = writeln!(
            out,
            "  rejected   {}\n             {} are in the dead-letter topic, each with its reason and origin in its headers",
            if reasons.is_empty() {
                "none".to_owned()
            } else {
                reasons.join(" · ")
            },
            self.dead_letters,
        );
        let _ = writeln!(
            out,
            "  speed      {} records in {seconds:.1} s ({} per second); first results {:.1} s after the start",
            thousands(records),
            thousands((records as f64 / seconds.max(0.001)) as u64),
            timing.first_results.as_secs_f64(),
        );
        if !self.model.is_empty() {
            let _ = writeln!(out, "  model      {}", self.model);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_removed_from_texts() {
        assert_eq!(one_line("a\x1b[2Jb\n\n c\r\td\u{7}"), "a [2Jb c d");
    }
}
