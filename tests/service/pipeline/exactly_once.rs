//! The final contents of the tables after repeated kills, and for a slice of the real archive.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
};

use serde_json::Value;

use super::{PATIENCE, POSTS, TALLY, assert_rollups_equal_recount, lines, number, number_now, scores};
use crate::support::service::{Bench, Service, shared, wait_within};

/// A synthetic stream: posts, duplicates, deletions before and after their posts, and damaged records.
pub(super) fn synthetic_stream(posts: usize) -> Vec<Vec<u8>> {
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

/// Runs a group whose consumer is killed ten times, each time a little further on, and then lets it finish.
pub(super) fn run_killed_ten_times(service: &Service, total: i64) {
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

/// Asserts that an undisturbed group and one that was killed wrote the same tables, to the last digit. Only scores may differ,
/// by the classifier's tolerance.
pub(super) async fn assert_same_tables(calm: &Service, killed: &Service, total: i64) {
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
async fn a_killed_group_writes_the_same_tables() {
    let bench = Bench::start();
    let stream = synthetic_stream(3_000);
    let total = i64::try_from(stream.len()).unwrap();
    bench.feed(&stream, "posts", 4);

    let calm = bench.service("posts");
    let summary = calm.run_until_caught_up();
    assert_eq!(summary["records"].as_i64(), Some(total));
    let posts = number(&calm.url, "SELECT count(*) FROM post").await;
    assert!(posts > 2_000, "{posts} posts");

    // A group whose consumer is killed repeatedly writes the same topic to another database.
    let killed = bench.service("posts").with_group("killed");
    run_killed_ten_times(&killed, total);
    assert_same_tables(&calm, &killed, total).await;
}

/// Computes the expected outcome from the lines as plain JSON: the ids of the remaining posts, the number of deletions, and the
/// number of posts seen.
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

/// How many lines of the archive are fed: 8,000, or `MOODSTREAM_TEST_ARCHIVE_LINES`.
fn archive_lines() -> usize {
    std::env::var("MOODSTREAM_TEST_ARCHIVE_LINES").map_or(8_000, |lines| lines.parse().expect("a number of lines"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_of_the_real_archive_is_stored_exactly() {
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

    // A group whose consumer is killed repeatedly writes the same topic to another database.
    let killed = bench.service("archive").with_group("killed");
    let total = i64::try_from(slice.len()).unwrap();
    run_killed_ten_times(&killed, total);
    assert_same_tables(&service, &killed, total).await;

    // A second group reads everything again and changes nothing.
    let again = service.with_group("again").run_until_caught_up();
    assert_eq!(again["inserted"].as_u64(), Some(0));
    assert_rollups_equal_recount(&service.url).await;
}
