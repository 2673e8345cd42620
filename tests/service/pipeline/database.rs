//! A database that is reachable, but slow, unresponsive, or refusing rows.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{TALLY, assert_rollups_equal_recount, number, number_now};
use crate::support::{
    proxy::{Cut, Proxy},
    service::{Bench, Service, end_of, moodstream, terminate, wait_for},
};

/// Posts with these ids, all of one minute.
fn posts(numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    let post = |n: String| {
        let post = serde_json::json!({
            "id": n, "text": format!("what a day, number {n}"), "created_at": "2026-03-01T12:00:00Z",
        });
        post.to_string().into_bytes()
    };
    numbers.map(|n| post(n.to_string())).collect()
}

/// Applies the migrations, then executes `sql`.
async fn migrate_and(service: &Service, sql: &str) {
    let migrated = moodstream()
        .arg("migrate")
        .env("MOODSTREAM_DATABASE__URL", &service.url)
        .output()
        .unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    let mut connection = PgConnection::connect(&service.url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut connection)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_exceeds_the_statement_timeout_is_halved_until_it_succeeds() {
    let bench = Bench::start();
    bench.feed(&posts(0..200), "slow", 1);
    // One window for all posts. Statements that store more than 60 of them exceed the timeout.
    let settings = "[database]\nstatement_timeout_seconds = 2\n[window]\nmax_posts = 200\nmax_delay_ms = 60000\n";
    let service = bench.service("slow").with_config(&bench.write("slow.toml", settings));
    let dawdle = "
        CREATE SEQUENCE too_large;
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT count(*) FROM fresh) > 60 THEN PERFORM nextval('too_large'), pg_sleep(3600); END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER dawdle AFTER INSERT ON post REFERENCING NEW TABLE AS fresh
            FOR EACH STATEMENT EXECUTE FUNCTION dawdle()";
    migrate_and(&service, dawdle).await;
    let summary = service.run_until_caught_up();
    assert_eq!(summary["inserted"].as_u64(), Some(200), "{summary}");
    assert_eq!(number(&service.url, "SELECT count(*) FROM post").await, 200);
    // Sequences don't roll back, so this shows that some flush was too large. The number of flushes depends on whether all
    // records came in time for one window.
    let tried = "SELECT count(*) FROM too_large WHERE is_called";
    assert_eq!(number(&service.url, tried).await, 1);
    let too_large = "SELECT count(*) FROM (SELECT FROM post GROUP BY ingested_at HAVING count(*) > 60) AS flush";
    assert_eq!(number(&service.url, too_large).await, 0);
    assert_rollups_equal_recount(&service.url).await;
}

/// The added constraints stand for anything that the parser accepts but the tables can't store.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_database_refuses_become_dead_letters_and_the_rest_is_stored() {
    let bench = Bench::start();
    let refused = [17, 18, 140];
    bench.feed(&posts(0..200), "refused", 1);
    let settings = "[window]\nmax_posts = 200\nmax_delay_ms = 60000\n";
    let service = bench
        .service("refused")
        .with_config(&bench.write("refused.toml", settings));
    let constraints = "
        ALTER TABLE post ADD CHECK (post_id <> '17');
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.post_id IN ('18', '140') THEN RAISE numeric_value_out_of_range; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON post FOR EACH ROW EXECUTE FUNCTION refuse()";
    migrate_and(&service, constraints).await;
    let summary = service.run_until_caught_up();
    assert_eq!(summary["inserted"].as_u64(), Some(197), "{summary}");
    assert_eq!(summary["rejected_by_reason"], serde_json::json!({"database": 3}));
    let mut letters: Vec<Vec<u8>> = bench
        .letters("refused.dead-letter", refused.len())
        .into_iter()
        .map(|letter| letter.payload)
        .collect();
    letters.sort_unstable();
    let mut expected: Vec<Vec<u8>> = refused.into_iter().flat_map(|n| posts(n..n + 1)).collect();
    expected.sort_unstable();
    assert_eq!(letters, expected);
    assert_rollups_equal_recount(&service.url).await;
}

/// Otherwise every record of the topic would become a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn no_record_is_rejected_while_the_database_refuses_every_row() {
    let bench = Bench::start();
    bench.feed(&posts(0..200), "every", 1);
    let service = bench.service("every");
    migrate_and(&service, "ALTER TABLE post ADD COLUMN reviewed_by text NOT NULL").await;
    let mut child = service.command().spawn().unwrap();
    let page = |path: &str| service.get(path).unwrap_or_default();
    wait_for("/ready to report that every row is refused", || {
        let ready = page("/ready");
        ready.starts_with("HTTP/1.1 503") && ready.contains("every row is refused") && ready.contains("reviewed_by")
    });
    // Every retry fails and changes nothing.
    let retries = |page: &str| page.contains("moodstream_retries_total{what=\"database\"} 4");
    wait_for("further retries", || retries(&page("/metrics")));
    assert_eq!(number(&service.url, TALLY).await, 0, "an offset moved");
    let left = "SELECT (SELECT count(*) FROM post) + (SELECT count(*) FROM post_key)
                     + (SELECT count(*) FROM emotion_rollup)";
    assert_eq!(number(&service.url, left).await, 0, "a failed flush left rows behind");
    assert!(page("/metrics").contains("moodstream_dead_letters_total 0"));

    let mut connection = PgConnection::connect(&service.url).await.unwrap();
    let repair = "ALTER TABLE post ALTER COLUMN reviewed_by DROP NOT NULL";
    sqlx::raw_sql(repair).execute(&mut connection).await.unwrap();
    wait_for("all posts", || {
        number_now(&service.url, "SELECT count(*) FROM post") == 200
    });
    wait_for("readiness", || page("/ready").starts_with("HTTP/1.1 200"));
    assert!(page("/metrics").contains("moodstream_dead_letters_total 0"));
    terminate(&child);
    assert!(end_of(&mut child).success());
    assert_rollups_equal_recount(&service.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unresponsive_database_makes_the_service_not_ready_and_loses_no_record() {
    let bench = Bench::start();
    let (first, second) = (posts(0..50), posts(50..100));
    bench.feed(&first, "silent", 1);
    let direct = bench.service("silent");
    let proxy = Proxy::start(bench.postgres.port()).await;
    let through = direct
        .url
        .replace(&bench.postgres.port().to_string(), &proxy.port.to_string());
    let settings = "[database]\nstatement_timeout_seconds = 2\nconnect_timeout_seconds = 2\n";
    let service = direct
        .with_url(&through)
        .with_config(&bench.write("silent.toml", settings));
    let mut child = service.command().spawn().unwrap();
    let ready = |word: &str| service.get("/ready").is_some_and(|page| page.contains(word));
    wait_for("the first posts", || {
        number_now(&direct.url, "SELECT count(*) FROM post") == 50
    });
    wait_for("readiness", || ready("HTTP/1.1 200"));
    // The database becomes unresponsive just before the commit of the second posts.
    proxy.cut(Cut::SilentBefore);
    bench.feed(&second, "silent", 1);
    wait_for("/ready to report the unresponsive database", || {
        ready("has been silent")
    });
    assert!(proxy.has_swallowed());
    proxy.speak();
    wait_for("all posts", || {
        number_now(&direct.url, "SELECT count(*) FROM post") == 100
    });
    wait_for("readiness", || ready("HTTP/1.1 200"));
    terminate(&child);
    assert!(end_of(&mut child).success());
    assert_eq!(
        number(&direct.url, TALLY).await,
        100,
        "every record must be counted once"
    );
    assert_rollups_equal_recount(&direct.url).await;
}
