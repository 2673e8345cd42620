//! How long the dashboards' queries take on a year of posts.

use std::time::Instant;

use sqlx::{AssertSqlSafe, PgPool};
use time::{Duration, OffsetDateTime};

use super::{dashboards, expand, list, text};

/// The length of a dashboard's range that ends now, such as `now-6h`.
fn span(from: &str) -> Duration {
    let (count, unit) = from
        .strip_prefix("now-")
        .and_then(|span| span.split_at_checked(span.len() - 1))
        .unwrap();
    let unit = match unit {
        "h" => Duration::HOUR,
        "d" => Duration::DAY,
        _ => panic!("{from}: a range in hours or days"),
    };
    unit * count.parse::<i32>().unwrap()
}

/// Milliseconds until the last row: the median of five runs.
async fn median_ms(pool: &PgPool, place: &str, sql: &str) -> f64 {
    let mut took = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .fetch_all(pool)
            .await
            .unwrap_or_else(|error| panic!("{place}: {error}\n{sql}"));
        took.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    took[2]
}

/// Times every query of the dashboards, on their own range and others, with all data and with narrow selections. Prints a
/// table for docs/sql.md. Runs only if MOODSTREAM_TEST_GRAFANA_SCALE is the URL of a database filled by benches/trends.sql.
#[tokio::test]
async fn every_sql_query_is_quick_on_a_year_of_posts() {
    const LIMIT_MS: f64 = 200.0;
    let Ok(url) = std::env::var("MOODSTREAM_TEST_GRAFANA_SCALE") else {
        println!("skipped: MOODSTREAM_TEST_GRAFANA_SCALE is not set to a database filled by benches/trends.sql");
        return;
    };
    let pool = PgPool::connect(&url).await.unwrap();
    let now = OffsetDateTime::now_utc();
    let all = [
        ("subject", "''"),
        ("lang", "'*'"),
        ("source", "'*'"),
        ("model", "'*'"),
        ("reposts", "true"),
        ("reference", "'9 days'"),
    ];
    let mut choices = vec![("all", all.map(|(name, value)| (name, value.to_owned())))];
    for (label, index, value) in [
        ("a subject", 0, "'football'"),
        ("two languages", 1, "'en','ja'"),
        ("a rare language", 1, "'ca'"),
        ("a source", 2, "'mastodon'"),
        ("a model", 3, "'bench@00000000'"),
        ("no reposts", 4, "false"),
    ] {
        let mut choice = choices[0].1.clone();
        value.clone_into(&mut choice[index].1);
        choices.push((label, choice));
    }
    let rare = [
        ("subject", "'food'"),
        ("lang", "'ca'"),
        ("source", "'mastodon'"),
        ("model", "'*'"),
        ("reposts", "false"),
        ("reference", "'84 days'"),
    ];
    choices.push((
        "a rare subject, language, source",
        rare.map(|(name, value)| (name, value.to_owned())),
    ));
    let mut slow = Vec::new();
    println!("| query | its own range, all, ms | slowest, ms | of |\n|---|---|---|---|");
    for (name, board) in dashboards() {
        let own = text(&board, "/time/from");
        let mut queries = Vec::new();
        for variable in list(&board, "/templating/list").iter().filter(|v| v["type"] == "query") {
            queries.push((
                format!("variable {}", text(variable, "/name")),
                text(variable, "/query"),
            ));
        }
        for panel in list(&board, "/panels") {
            for target in list(panel, "/targets").iter().filter(|t| t["rawSql"].is_string()) {
                queries.push((text(panel, "/title").to_owned(), text(target, "/rawSql")));
            }
        }
        for (title, sql) in queries {
            let place = format!("{}: {title}", name.trim_end_matches(".json"));
            let (mut first, mut worst) = (None, (0.0, String::new()));
            for from in [own, "now-24h", "now-7d", "now-30d", "now-365d"] {
                for (label, choice) in &choices {
                    let ms = median_ms(&pool, &place, &expand(sql, choice, now - span(from), now)).await;
                    first.get_or_insert(ms);
                    if ms > LIMIT_MS {
                        slow.push(format!("{place}, {from}, {label}: {ms:.0} ms"));
                    }
                    if ms > worst.0 {
                        worst = (ms, format!("{from}, {label}"));
                    }
                }
                if !sql.contains('$') {
                    break;
                }
            }
            println!("| {place} | {:.0} | {:.0} | {} |", first.unwrap(), worst.0, worst.1);
        }
    }
    assert!(slow.is_empty(), "over {LIMIT_MS} ms:\n{}", slow.join("\n"));
}
