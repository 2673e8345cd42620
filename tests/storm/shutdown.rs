//! Work abandoned at the shutdown deadline is done again after a restart: no record is skipped.

use rustix::process::Signal;
use serde_json::json;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    feed::{Line, Meaning, Post},
    storm::Storm,
};

/// A plain post from `days_ago`, in partition 0.
pub fn post(number: usize, days_ago: i64) -> Line {
    let created_at = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap() - Duration::days(days_ago);
    let (id, text) = (format!("d{number}"), format!("nothing but the sea {number}"));
    let payload = json!({"id": id, "source": "twitter", "text": text, "lang": "en",
        "created_at": created_at.format(&Rfc3339).unwrap()});
    Line {
        partition: 0,
        key: None,
        payload: payload.to_string().into_bytes(),
        meaning: Meaning::Post(Post {
            key: ("twitter", id),
            created_at,
            lang: "en",
            text,
            subjects: Vec::new(),
            hashtags: Vec::new(),
        }),
    }
}

/// The deletion of such a post.
pub fn deletion(number: usize) -> Line {
    let id = format!("d{number}");
    Line {
        partition: 0,
        key: None,
        payload: json!({"delete": {"status": {"id_str": id, "user_id_str": "7"}}})
            .to_string()
            .into_bytes(),
        meaning: Meaning::Deletion(("twitter", id)),
    }
}

/// Settings for one transaction of all available records: records that arrive while the first window is slow gather behind it.
pub const ALL_AT_ONCE: [(&str, &str); 7] = [
    ("FAILPOINTS", "window-before=1*sleep(2000)"),
    ("MOODSTREAM_STORE__RETENTION_DAYS", "366"),
    ("MOODSTREAM_STORE__MAX_FLUSH_RECORDS", "4000"),
    ("MOODSTREAM_WINDOW__MAX_POSTS", "2000"),
    ("MOODSTREAM_WINDOW__MAX_RECORDS", "4000"),
    ("MOODSTREAM_WINDOW__MAX_DELAY_MS", "5000"),
    ("MOODSTREAM_SHUTDOWN__DEADLINE_SECONDS", "1"),
];

/// A window too large for one transaction is committed in parts. If the first is abandoned, the second must not be
/// committed: its offset would pass the records of the first.
#[test]
fn the_part_after_one_abandoned_at_the_deadline_is_not_committed() {
    let mut storm = Storm::calm(21);
    let days = 270;
    // Creates the partitions first, so that a single one can be locked.
    let first = storm.member(&ALL_AT_ONCE);
    storm.send((0..days).map(|n| post(n, i64::try_from(n).unwrap())).collect());
    storm.wait("the partitions to be created", Storm::is_drained);
    storm.end_well(first);

    let mut holder = storm.harness.connect().unwrap();
    storm.harness.execute_on(
        &mut holder,
        "BEGIN; DO $$ BEGIN EXECUTE format('LOCK TABLE post_%s IN ACCESS EXCLUSIVE MODE', to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')); END $$",
    );
    // Today's post comes first, so the first part waits for the lock. The second part has the oldest days.
    storm.send((0..days).map(|n| post(1_000 + n, i64::try_from(n).unwrap())).collect());
    let member = storm.member(&ALL_AT_ONCE);
    storm.wait("the first part to time out", |_| member.log().contains("lock timeout"));
    storm.end_well(member);
    storm.harness.execute_on(&mut holder, "COMMIT");
    let member = storm.member(&ALL_AT_ONCE);
    storm.members.push(member);
    storm.drain_and_check();
}

/// Windows may finish out of order. If one is abandoned, none after it may be committed.
#[test]
fn the_window_after_one_abandoned_at_the_deadline_is_not_committed() {
    let mut storm = Storm::calm(22);
    let member = storm.member(&[
        ("FAILPOINTS", "window-before=1*sleep(30000)"),
        ("MOODSTREAM_SHUTDOWN__DEADLINE_SECONDS", "1"),
    ]);
    storm.feed(300);
    storm.wait("windows after the first to be classified", |_| {
        member
            .metric("moodstream_stage_records_total{stage=\"classify\"}")
            .unwrap_or(0.0)
            > 40.0
    });
    assert_eq!(storm.committed(), 0, "the first window is still being processed");
    member.signal(Signal::TERM);
    storm.end_well(member);
    storm.join();
    storm.drain_and_check();
}

/// A process that hangs, for example in its model, would hold its partitions for ever: `/live` must report it.
#[test]
fn a_process_that_is_stuck_is_not_live() {
    let mut storm = Storm::calm(24);
    let member = storm.member(&[
        ("FAILPOINTS", "window-before=1*sleep(20000)"),
        ("MOODSTREAM_HTTP__STALL_SECONDS", "2"),
        ("MOODSTREAM_SHUTDOWN__DEADLINE_SECONDS", "1"),
    ]);
    let live = |member: &crate::member::Member| member.get("/live").unwrap_or_default();
    storm.wait("the member to be live", |_| live(&member).contains("200 OK"));
    storm.feed(300);
    storm.wait("the member to be stuck", |_| {
        let answer = live(&member);
        answer.contains("503") && answer.contains("stuck: records are in flight")
    });
    storm.wait("the member to continue", |_| live(&member).contains("200 OK"));
    storm.end_well(member);
    storm.join();
    storm.drain_and_check();
}

/// Each day is a partition with its indexes to lock. If the server's lock table is too small for all days of the deletions,
/// they are applied in parts.
#[test]
fn deletions_of_more_days_than_the_server_can_lock_are_applied_in_parts() {
    let mut storm = Storm::with_postgres(23, &["max_connections=20"]);
    storm.harness.restart_with("SET max_locks_per_transaction = 10");
    let days = 250;
    storm.join_with(&ALL_AT_ONCE);
    for chunk in (0..days).collect::<Vec<usize>>().chunks(50) {
        storm.send(chunk.iter().map(|&n| post(n, i64::try_from(n).unwrap())).collect());
        storm.wait("the posts", Storm::is_drained);
    }
    for member in std::mem::take(&mut storm.members) {
        storm.end_well(member);
    }
    // The window of one post keeps the only session busy while all deletions gather in the next window.
    let mut one_window = ALL_AT_ONCE;
    one_window[0].1 = "window-before=1*sleep(5000)";
    storm.join_with(&one_window);
    storm.send(vec![post(days, 0)]);
    storm.wait("the window of the post", |storm| {
        storm.members[0].metric("moodstream_window_records_count") == Some(1.0)
    });
    storm.send((0..days).map(deletion).collect());
    storm.wait("the deletions", Storm::is_drained);
    let log = storm.members[0].log();
    assert!(log.contains("too large for one transaction"), "{log}");
    // The recount reads all days in one query.
    storm.harness.restart_with("RESET max_locks_per_transaction");
    storm.drain_and_check();
}
