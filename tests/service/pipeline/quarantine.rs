//! An error in a partition stops only that partition and is reported.

use super::*;

/// A running service; killed when dropped.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn page(service: &Service, path: &str) -> String {
    service.get(path).unwrap_or_default()
}

fn produce(bench: &Bench, partition: i32, records: &[&str]) {
    let records = records.iter().map(|record| (partition, record.as_bytes()));
    bench.broker.produce("posts", records);
}

fn tweet(id: u32, hour: u32) -> String {
    let tweet = serde_json::json!({
        "created_at": format!("Sun Nov 01 {hour}:00:00 +0000 2026"), "id": id, "id_str": id.to_string(),
        "text": format!("nothing but the sea {id}"), "user": {"id": 1, "id_str": "1"}, "lang": "en",
    });
    tweet.to_string()
}

async fn execute(url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

const NEXT_OFFSET: &str = "SELECT next_offset FROM consumer_offset WHERE partition = 0";

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_contradicts_the_rollups_stops_only_its_partition() {
    let bench = Bench::start();
    bench.broker.create_topic("posts", 2);
    produce(&bench, 0, &[&tweet(1, 10), &tweet(2, 11)]);
    let settings = bench.write("retry.toml", "[kafka]\nquarantine_retry_seconds = 1\n");
    let service = bench.service("posts").with_config(&settings);
    service.run_until_caught_up();
    // Someone empties a rollup by hand; then a post that it no longer contains is deleted.
    execute(
        &service.url,
        "CREATE TABLE kept AS SELECT * FROM emotion_rollup; TRUNCATE emotion_rollup",
    )
    .await;
    let deletion = r#"{"delete":{"status":{"id":1,"id_str":"1","user_id":1,"user_id_str":"1"}}}"#;
    produce(&bench, 0, &[&tweet(3, 12), deletion, &tweet(4, 13)]);
    let _running = Running(service.command().spawn().unwrap());
    wait_for("the partition to be quarantined", || {
        page(&service, "/ready").contains("quarantined: posts/0: record_refused")
    });
    let ready = page(&service, "/ready");
    assert!(ready.starts_with("HTTP/1.1 200"), "the member must stay ready: {ready}");
    assert!(ready.contains("the record at offset 3 can't be stored"), "{ready}");
    assert_eq!(
        number(&service.url, NEXT_OFFSET).await,
        3,
        "the offset must be that of the refused record"
    );
    let metrics = page(&service, "/metrics");
    let sample = r#"moodstream_partition_quarantined{topic="posts",partition="0",reason="record_refused"} 1"#;
    assert!(metrics.contains(sample), "{metrics}");

    produce(&bench, 1, &[&tweet(5, 14)]);
    let stored = "SELECT count(*) FROM post WHERE kafka_partition = 1";
    wait_for("the other partition to continue", || {
        number_now(&service.url, stored) == 1
    });

    // Once the table is repaired, the partition continues by itself; no record is lost or counted twice.
    execute(&service.url, "INSERT INTO emotion_rollup SELECT * FROM kept").await;
    wait_for("the partition to continue", || {
        number_now(&service.url, NEXT_OFFSET) == 5
    });
    wait_for("the quarantine to end", || {
        !page(&service, "/ready").contains("quarantined")
    });
    assert!(page(&service, "/metrics").contains(&sample.replace("} 1", "} 0")));
    assert_eq!(number(&service.url, "SELECT count(*) FROM post").await, 4);
    execute(&service.url, "DROP TABLE kept").await;
    assert_rollups_equal_recount(&service.url).await;
}

/// An operator has corrected an offset and doesn't want to wait for a retry.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_partition_is_retried_on_request_but_not_for_a_foreign_page() {
    let bench = Bench::start();
    bench.broker.create_topic("posts", 1);
    let service = bench.service("posts");
    produce(&bench, 0, &[&tweet(1, 10), &tweet(2, 11)]);
    service.run_until_caught_up();
    produce(&bench, 0, &[&tweet(3, 12)]);
    execute(
        &service.url,
        "UPDATE consumer_offset SET next_offset = 5000, record_hash = NULL",
    )
    .await;
    let settings = bench.write("never.toml", "[kafka]\nquarantine_retry_seconds = 0\n");
    let service = service.with_config(&settings);
    let _running = Running(service.command().spawn().unwrap());
    wait_for("the partition to be quarantined", || {
        page(&service, "/ready").contains("quarantined: posts/0: offset_out_of_range")
    });
    execute(&service.url, "UPDATE consumer_offset SET next_offset = 2").await;
    let retry = |headers: &str| service.ask("POST", "/quarantine/retry", headers).unwrap_or_default();
    let foreign = retry("origin: https://elsewhere.example\r\n");
    assert!(foreign.starts_with("HTTP/1.1 403"), "{foreign}");
    assert!(
        page(&service, "/quarantine/retry").starts_with("HTTP/1.1 405"),
        "GET must not request a retry"
    );
    let asked = retry("content-length: 0\r\n");
    assert!(
        asked.starts_with("HTTP/1.1 202") && asked.contains("retrying: posts/0: offset_out_of_range"),
        "{asked}"
    );
    wait_for("the partition to continue", || {
        number_now(&service.url, NEXT_OFFSET) == 3
    });
    wait_for("the quarantine to end", || {
        !page(&service, "/ready").contains("quarantined")
    });
    assert!(retry("").contains("no partition of this member is quarantined"));
    assert_eq!(number(&service.url, "SELECT count(*) FROM post").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_recreated_topic_is_reported_and_restarted_if_the_settings_say_so() {
    let texts = |count: usize, of: &str| -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| format!("nothing but the {of} {n}").into_bytes())
            .collect()
    };
    let mut bench = Bench::start();
    bench.feed(&texts(10, "sea"), "anew", 1);
    let service = bench.service("anew");
    service.run_until_caught_up();
    bench.broker.restart();
    bench.feed(&texts(30, "sky"), "anew", 1);

    let output = service
        .command()
        .arg("--until-caught-up")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "the run claims to have caught up");
    let last = words.lines().find(|line| line.starts_with("moodstream: ")).unwrap();
    for expected in ["offset 9 of anew/0", "recreated", "kafka.on_topic_changed"] {
        assert!(last.contains(expected), "{words}");
    }
    assert_eq!(number(&service.url, "SELECT count(*) FROM post").await, 10);

    let settings = bench.write("restart.toml", "[kafka]\non_topic_changed = \"restart\"\n");
    let summary = service.with_config(&settings).run_until_caught_up();
    assert_eq!(summary["inserted"], 30);
    assert_rollups_equal_recount(&service.url).await;
}
