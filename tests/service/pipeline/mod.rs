//! The whole service, black-box: the real binary on a real broker and a real Postgres, with the real model.

mod database;
mod linear;
mod quarantine;
mod upgrades;
mod windows;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    time::Duration,
};

use crate::support::service::{Bench, Service, end_of, model, moodstream, shared, terminate, wait_for, wait_within};
use rdkafka::producer::Producer as _;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Rows of `post` without the time of ingestion, which no two runs share, and without what the model says, which
/// may differ in the last digits with the batch.
const POSTS: &str = "SELECT concat_ws('|', source, post_id, created_at, author_id, lang, text, repost_of, model_id,
    subjects, hashtags, kafka_partition, kafka_offset) FROM post ORDER BY source, post_id";
/// What the model says, in the order of [`POSTS`].
const SCORES: &str = "SELECT score FROM post ORDER BY source, post_id";
/// The whole archive takes longer than a test may otherwise.
const PATIENCE: Duration = Duration::from_secs(900);
const TALLY: &str = "SELECT coalesce(sum(records), 0)::bigint FROM consumer_tally";

async fn lines(url: &str, sql: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

async fn scores(url: &str) -> Vec<f64> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(SCORES).fetch_all(&mut connection).await.unwrap()
}

/// A count; 0 while the table is not there yet.
async fn number(url: &str, sql: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut connection)
        .await
        .unwrap_or(0)
}

fn number_now(url: &str, sql: &str) -> i64 {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(number(url, sql)))
}

/// By minute, hour and day.
async fn assert_rollups_equal_recount(url: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let differences: Vec<(String, String)> = sqlx::query_as(include_str!("../../support/recount.sql"))
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
    assert_ne!(number(url, "SELECT count(*) FROM emotion_rollup_day").await, 0);
}

/// A stream of the project's own making: posts, copies, deletions before and after their posts, and poison.
fn own_stream(posts: usize) -> Vec<Vec<u8>> {
    let moods = [
        "i am so happy today",
        "this makes me furious",
        "i miss her so much",
        "what a surprise!",
        "scared of the dark",
        "nothing to see",
    ];
    let mut out = Vec::new();
    for n in 0..posts {
        let (mood, minute) = (moods[n % moods.len()], 10 + n % 40);
        let number = if n % 3 == 0 {
            String::new()
        } else {
            format!(" number {n}")
        };
        let post = serde_json::json!({
            "id": n.to_string(), "text": format!("{mood}{number} #tag{}", n % 7), "lang": (["en", "es"][n % 2]),
            "created_at": format!("2026-03-01T12:{minute}:00Z"), "author_id": format!("a{}", n % 50),
        });
        let post = post.to_string().into_bytes();
        if n % 11 == 0 {
            out.push(post.clone());
        }
        out.push(post);
        let tweet = serde_json::json!({
            "created_at": format!("Sun Mar 01 12:{minute}:30 +0000 2026"), "id": n, "id_str": n.to_string(),
            "text": format!("tweet {n}, {mood}"), "user": {"id": 1, "id_str": "1"}, "lang": "en",
        });
        if n % 5 == 0 {
            out.push(tweet.to_string().into_bytes());
        }
        if n % 13 == 0 {
            let delete = serde_json::json!({"delete": {"status": {"id": n + 5, "id_str": (n + 5).to_string(), "user_id": 1, "user_id_str": "1"}}});
            out.push(delete.to_string().into_bytes());
        }
        if n % 29 == 0 {
            out.push(format!("{{\"id\":\"{n}\", broken").into_bytes());
        }
    }
    out
}

/// Runs a group whose consumer is killed ten times, each a little further on, and then lets it finish.
fn run_killed_ten_times(service: &Service, total: i64) {
    for kill in 1..=10 {
        let mut child = service.command().spawn().unwrap();
        wait_within(PATIENCE, "progress before the kill", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the service ended by itself: {ended:?}");
            number_now(&service.url, TALLY) >= total * kill / 12
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
    service.run_until_caught_up();
}

/// What a group read in peace and what another read under kills are the same to the last digit, but for scores,
/// which may differ by the classifier's own tolerance.
async fn assert_same_tables(calm: &Service, killed: &Service, total: i64) {
    assert_eq!(lines(&calm.url, POSTS).await, lines(&killed.url, POSTS).await);
    let apart = scores(&calm.url)
        .await
        .into_iter()
        .zip(scores(&killed.url).await)
        .map(|(calm, killed)| (calm - killed).abs());
    let apart = apart.fold(0.0, f64::max);
    assert!(apart <= 1e-3, "a post's score differs by {apart} between the runs");
    for service in [calm, killed] {
        assert_rollups_equal_recount(&service.url).await;
        assert_eq!(number(&service.url, TALLY).await, total);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_ends_in_the_same_tables() {
    let bench = Bench::start();
    let stream = own_stream(3_000);
    let total = i64::try_from(stream.len()).unwrap();
    bench.feed(&stream, "posts", 4);

    let calm = bench.service("posts");
    let summary = calm.run_until_caught_up();
    assert_eq!(summary["records"].as_i64(), Some(total));
    let posts = number(&calm.url, "SELECT count(*) FROM post").await;
    assert!(posts > 2_000, "{posts} posts");

    // The same topic into another database, by a group whose consumer is killed again and again.
    let killed = bench.service("posts").with_group("killed");
    run_killed_ten_times(&killed, total);
    assert_same_tables(&calm, &killed, total).await;
}

/// What the archive should come to, from its lines read as plain JSON: the posts that stand at the end,
/// the deletion notices, and the posts seen.
fn expect(lines: &[Vec<u8>]) -> (BTreeSet<String>, u64, u64) {
    let (mut posts, mut deleted, mut deletions, mut seen) = (BTreeSet::new(), BTreeSet::new(), 0, 0);
    for line in lines {
        let value: Value = serde_json::from_slice(line).unwrap();
        if let Some(status) = value.pointer("/delete/status") {
            deleted.insert(status["id_str"].as_str().unwrap().to_owned());
            deletions += 1;
        } else if let Some(id) = value["id_str"].as_str() {
            posts.insert(id.to_owned());
            seen += 1;
        }
    }
    (posts.difference(&deleted).cloned().collect(), deletions, seen)
}

/// How much of the archive is fed: 8,000 lines, or as `MOODSTREAM_TEST_ARCHIVE_LINES` says.
fn archive_lines() -> usize {
    std::env::var("MOODSTREAM_TEST_ARCHIVE_LINES").map_or(8_000, |lines| lines.parse().expect("a number of lines"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_of_the_real_archive_ends_exactly() {
    let Some(shared) = shared() else { return };
    let archive = std::fs::File::open(shared.join("stream/spritzer_2019-07-03_0629-0641.jsonl.zst")).unwrap();
    let slice: Vec<Vec<u8>> = BufReader::new(zstd::Decoder::new(archive).unwrap())
        .split(b'\n')
        .take(archive_lines())
        .map(|line| line.unwrap().trim_ascii_end().to_vec())
        .filter(|line| !line.is_empty())
        .collect();
    let (expected, deletions, seen) = expect(&slice);

    let bench = Bench::start();
    bench.feed(&slice, "archive", 4);
    let service = bench.service("archive");
    let summary = service.run_until_caught_up();
    println!("{summary}");
    let count = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!(count("records"), slice.len() as u64);
    let outcomes = ["inserted", "duplicates", "deletions", "filtered", "late", "rejected"];
    assert_eq!(count("records"), outcomes.iter().map(|name| count(name)).sum::<u64>());
    assert_eq!(count("deletions"), deletions);
    assert_eq!(count("inserted") + count("duplicates"), seen);

    let ids: BTreeSet<String> = lines(&service.url, "SELECT post_id FROM post")
        .await
        .into_iter()
        .collect();
    assert_eq!(ids, expected);
    assert_rollups_equal_recount(&service.url).await;

    // The same topic into another database, by a group whose consumer is killed again and again.
    let killed = bench.service("archive").with_group("killed");
    let total = i64::try_from(slice.len()).unwrap();
    run_killed_ten_times(&killed, total);
    assert_same_tables(&service, &killed, total).await;

    // A second group reads it all again: nothing is new, nothing changes.
    let again = service.with_group("again").run_until_caught_up();
    assert_eq!(again["inserted"].as_u64(), Some(0));
    assert_rollups_equal_recount(&service.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_in_languages_that_the_manifest_does_not_list_are_marked() {
    let bench = Bench::start();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("moodstream.toml"), "[languages]\nen = 0.63\n").unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx"] {
        std::os::unix::fs::symlink(model().join(file), folder.join(file)).unwrap();
    }
    let post = |id: usize, lang: &str| {
        format!(
            "{{\"id\":\"{id}\",\"text\":\"so happy today\",\"lang\":\"{lang}\",\"created_at\":\"2026-03-01T12:00:00Z\"}}"
        )
        .into_bytes()
    };
    let posts = [post(1, "en"), post(2, "th"), post(3, "zxx")];
    bench.feed(&posts, "languages", 1);
    let marks =
        "SELECT concat_ws(' ', lang, emotion, score > 0, lang_supported, scores ? 'joy') FROM post ORDER BY post_id";
    for (policy, thai) in [("keep", "th joy t f t"), ("replace", "th unsupported f f t")] {
        let config = format!(
            "[model]\npath = \"{}\"\nunsupported_languages = \"{policy}\"\n",
            folder.display()
        );
        let config = bench.write(&format!("{policy}.toml"), config);
        // Its own group and database: it reads all of the topic again.
        let service = bench.service("languages").with_group(policy).with_config(&config);
        let output = service
            .command()
            .env_remove("MOODSTREAM_MODEL__PATH")
            .arg("--until-caught-up")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(lines(&service.url, marks).await, ["en joy t t t", thai, "zxx joy t t"]);
        assert_eq!(lines(&service.url, "SELECT lang FROM model_language").await, ["en"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_handled_becomes_a_dead_letter_and_the_rest_goes_on() {
    let bench = Bench::start();
    let at = "\"created_at\":\"2026-03-01T12:00:00Z\"";
    let stream: Vec<(Vec<u8>, Option<&str>)> = vec![
        (format!("{{\"id\":\"1\",\"text\":\"fine\",{at}}}").into_bytes(), None),
        (vec![b'x'; 5 << 20], Some("too_large")),
        ([vec![b'['; 5_000], vec![b']'; 5_000]].concat(), Some("too_deep")),
        (b"\xff\xfe\xfd".to_vec(), Some("not_utf8")),
        (
            format!("{{\"id\":\"2\",\"text\":\"half a \\ud83d pair\",{at}}}").into_bytes(),
            None,
        ),
        (
            b"{\"id\":\"3\",\"text\":\"when?\",\"created_at\":\"9999-99-99\"}".to_vec(),
            Some("bad_time"),
        ),
        (
            format!("{{\"id\":\"4\",\"text\":\"{}\",{at}}}", "w".repeat(10_000)).into_bytes(),
            None,
        ),
        (
            format!("{{\"id\":\"5\",\"text\":\"nul \\u0000 in it\",{at}}}").into_bytes(),
            None,
        ),
        (
            format!(
                "{{\"did\":\"{0}\",\"time_us\":1790000000000000,\"kind\":\"commit\",\"commit\":{{\"operation\":\"delete\",\
                 \"collection\":\"app.bsky.feed.post\",\"rkey\":\"{0}\"}}}}",
                "d".repeat(400)
            )
            .into_bytes(),
            Some("bad_field"),
        ),
        (
            b"{\"id\":\"6\",\"text\":\"so far ahead\",\"created_at\":\"2199-01-01T00:00:00Z\"}".to_vec(),
            Some("future_time"),
        ),
        (
            format!("{{\"id\":\"7\",\"text\":\"no such language\",\"lang\":\"qzxwvk\",{at}}}").into_bytes(),
            None,
        ),
    ];
    bench.broker.create_topic("poison", 1);
    bench.broker.produce_with(
        &[("message.max.bytes", "20000000")],
        "poison",
        stream.iter().map(|(record, _)| (0, record.as_slice())),
    );
    // A tombstone of a compacted topic: counted, and no letter.
    let producer: rdkafka::producer::BaseProducer = bench.broker.config().create().unwrap();
    producer
        .send(
            rdkafka::producer::BaseRecord::<_, [u8]>::to("poison")
                .partition(0)
                .key("5"),
        )
        .unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
    let service = bench.service("poison");
    let summary = service.run_until_caught_up();
    let mut reasons: BTreeMap<&str, u64> = [("tombstone", 1)].into();
    for reason in stream.iter().filter_map(|(_, reason)| *reason) {
        *reasons.entry(reason).or_default() += 1;
    }
    assert_eq!(summary["rejected_by_reason"], serde_json::to_value(&reasons).unwrap());
    assert_eq!(number(&service.url, "SELECT count(*) FROM post").await, 5);
    assert_eq!(
        number(
            &service.url,
            "SELECT count(*) FROM post WHERE lang = 'und' OR lang_identified"
        )
        .await,
        5
    );
    assert_eq!(
        number(&service.url, "SELECT count(*) FROM post WHERE created_at > now()").await,
        0
    );

    let mut wanted: Vec<&[u8]> = stream
        .iter()
        .filter(|(_, reason)| reason.is_some())
        .map(|(record, _)| &**record)
        .collect();
    let letters = bench.letters("poison.dead-letter", wanted.len());
    let mut bytes: Vec<&[u8]> = letters.iter().map(|letter| &*letter.payload).collect();
    bytes.sort_unstable();
    wanted.sort_unstable();
    assert!(
        bytes == wanted,
        "the dead letters are not the rejected records, byte for byte"
    );
    for letter in &letters {
        assert!(
            reasons.contains_key(letter.headers["reason"].as_str()),
            "{:?}",
            letter.headers
        );
        assert_eq!(letter.headers["origin_topic"], "poison");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_metrics_and_health_and_stops_on_sigterm() {
    let bench = Bench::start();
    bench.feed(&own_stream(200), "served", 2);
    let service = bench.service("served");
    let mut child = service.command().stderr(Stdio::piped()).spawn().unwrap();
    wait_for("readiness", || {
        service
            .get("/ready")
            .is_some_and(|page| page.starts_with("HTTP/1.1 200"))
    });
    // The series are there from the start, at 0.
    wait_for("stored posts", || {
        service.get("/metrics").is_some_and(|page| {
            let mut lines = page.lines().filter(|line| line.contains("outcome=\"inserted\""));
            lines.any(|line| !line.ends_with(" 0"))
        })
    });
    // The lag comes with the broker's statistics, a moment later.
    for name in [
        "records_total",
        "batch_posts_bucket",
        "transactions_total",
        "event_delay_seconds_count",
        "lag_records",
    ] {
        wait_for(name, || {
            service
                .get("/metrics")
                .is_some_and(|page| page.contains(&format!("moodstream_{name}")))
        });
    }
    assert!(service.get("/live").unwrap().starts_with("HTTP/1.1 200"));
    terminate(&child);
    let status = end_of(&mut child);
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_languages_and_tracks_the_subjects_of_the_settings() {
    let bench = Bench::start();
    bench.feed(&own_stream(300), "filtered", 2);
    let settings = "[posts]\nlanguages = [\"en\"]\n
        [[subjects]]\nname = \"joyful\"\nkeywords = [\"happy\"]\n
        [[subjects]]\nname = \"tagged\"\nhashtags = [\"tag4\"]\n";
    let service = bench
        .service("filtered")
        .with_config(&bench.write("filter.toml", settings));
    let summary = service.run_until_caught_up();
    assert!(summary["filtered"].as_u64() > Some(0));
    assert_eq!(
        number(&service.url, "SELECT count(*) FROM post WHERE lang <> 'en'").await,
        0
    );
    assert!(
        number(
            &service.url,
            "SELECT count(*) FROM post WHERE subjects = '{joyful}' AND text LIKE '%happy%'"
        )
        .await
            > 0
    );
    assert!(
        number(
            &service.url,
            "SELECT sum(posts)::bigint FROM emotion_by_minute WHERE subject = 'tagged'"
        )
        .await
            > 0
    );
    assert_rollups_equal_recount(&service.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_while_posts_past_retention_are_read_goes_well() {
    let bench = Bench::start();
    bench.feed(&own_stream(20), "read", 1);
    let service = bench.service("read");
    service.run_until_caught_up();
    let count = "SELECT count(*) FROM post";
    let posts = number(&service.url, count).await;
    let short = bench.write("short.toml", "[store]\nretention_days = 1\n");
    let service = service.with_config(&short);
    let mut reader = PgConnection::connect(&service.url).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    sqlx::query("SELECT FROM post").execute(&mut *reading).await.unwrap();
    service.run_until_caught_up();
    assert_eq!(number(&service.url, count).await, posts);
    reading.rollback().await.unwrap();
    service.run_until_caught_up();
    assert_eq!(number(&service.url, count).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_or_of_another_cluster_is_read_whole_and_its_posts_are_of_their_own() {
    let texts = |count| -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| format!("nothing but the sea {n}").into_bytes())
            .collect()
    };
    let counts = |service: &Service| {
        let summary = service.run_until_caught_up();
        ["inserted", "duplicates"].map(|name| summary[name].as_u64().unwrap())
    };
    let mut bench = Bench::start();
    bench.feed(&texts(20), "anew", 1);
    let settings = bench.write("anew.toml", "[kafka]\non_offset_out_of_range = \"earliest\"\n");
    let service = bench.service("anew").with_config(&settings);
    assert_eq!(counts(&service), [20, 0]);

    // The broker forgets everything: the topic begins at offset 0 again, with the same texts.
    bench.broker.restart();
    bench.feed(&texts(10), "anew", 1);
    // By default it stops, rather than to say that it has caught up.
    let stopped = bench
        .service("anew")
        .with_url(&service.url)
        .command()
        .arg("--until-caught-up")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&stopped.stderr);
    assert!(
        !stopped.status.success() && words.contains("the topic was made anew") && words.contains("in quarantine"),
        "{words}"
    );
    assert_eq!(counts(&service), [10, 0], "they lie at offsets that others had");
    assert_eq!(counts(&service.with_group("again")), [0, 10], "the same, read again");

    let other = Bench::start();
    other.feed(&texts(10), "anew", 1);
    let elsewhere = other.service("anew").with_url(&service.url).with_group("elsewhere");
    assert_eq!(counts(&elsewhere), [10, 0], "another cluster's topic");
    assert_rollups_equal_recount(&service.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_that_is_raised_lets_nothing_count_twice() {
    let bench = Bench::start();
    let stream = own_stream(200);
    bench.feed(&stream, "raised", 2);
    let service = bench.service("raised");
    let posts = service.run_until_caught_up()["inserted"].as_u64().unwrap();
    let counted = "SELECT concat_ws('|', bucket, subject, lang, source, emotion, shard, posts) FROM emotion_rollup_day ORDER BY 1";
    let days = lines(&service.url, counted).await;
    // Dropped, and then read again by a service that keeps everything.
    let short = bench.write("short.toml", "[store]\nretention_days = 1\n");
    service.with_config(&short).run_until_caught_up();
    assert_eq!(number(&service.url, "SELECT count(*) FROM post").await, 0);
    let again = service.with_group("again").run_until_caught_up();
    assert_eq!(again["inserted"].as_u64(), Some(0), "{again}");
    assert!(again["late"].as_u64() >= Some(posts), "{again}");
    assert_eq!(
        again["texts"].as_u64(),
        Some(0),
        "what is late is not classified: {again}"
    );
    assert_eq!(lines(&service.url, counted).await, days);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_sent_back_to_where_they_came_from() {
    let bench = Bench::start();
    let records: [&[u8]; 4] = [
        b"{\"broken",
        br#"{"id":"1","text":"so happy","created_at":"27/11/2026"}"#,
        br#"{"id":"2","text":"so happy","created_at":"2026-03-01T12:00:00Z"}"#,
        b"}",
    ];
    bench.broker.create_topic("letters", 2);
    bench
        .broker
        .produce("letters", records.iter().map(|record| (1, *record)));
    let service = bench.service("letters");
    let summary = service.run_until_caught_up();
    assert_eq!(summary["rejected"], 3, "{summary}");

    let dead_letters = |arguments: &[&str]| {
        let output = moodstream()
            .arg("dead-letters")
            .args(arguments)
            .env("MOODSTREAM_KAFKA__BROKERS", bench.broker.address())
            .env("MOODSTREAM_KAFKA__TOPICS", "letters")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines, said)
    };
    let (all, _) = dead_letters(&["list"]);
    assert_eq!(all.len(), 3);
    let (bad_times, _) = dead_letters(&["list", "--reason", "bad_time", "--max-chars", "9"]);
    assert_eq!(bad_times.len(), 1);
    assert_eq!(
        (
            &bad_times[0]["origin"],
            &bad_times[0]["value"],
            &bad_times[0]["value_bytes"]
        ),
        (&"letters/1/1".into(), &r#"{"id":"1""#.into(), &records[1].len().into())
    );
    assert!(dead_letters(&["list", "--since", "2100-01-01T00:00:00Z"]).0.is_empty());
    assert_eq!(dead_letters(&["list", "--limit", "2"]).0.len(), 2);

    // Nothing is sent on trial. Read again as texts, the two that are no JSON are posts, in the partition that they came from.
    // Their order is that of the dead-letter topic's partitions.
    let chosen = ["--reason", "not_json", "--reason", "unknown_format"];
    let (_, said) = dead_letters(&[&["replay", "--dry-run"], &chosen[..]].concat());
    assert!(said.starts_with("would send 2 records back"), "{said}");
    let (_, said) = dead_letters(&[&["replay"], &chosen[..]].concat());
    assert!(said.starts_with("sent 2 records back"), "{said}");
    let output = service
        .command()
        .arg("--until-caught-up")
        .env("MOODSTREAM_POSTS__FORMAT", "text")
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(
        lines(
            &service.url,
            "SELECT concat_ws('|', text, kafka_partition) FROM post WHERE kafka_offset > 3 ORDER BY text COLLATE \"C\""
        )
        .await,
        ["{\"broken|1", "}|1"]
    );
}
