//! A member that has lost a partition writes nothing for it. A partition whose stored offset no longer exists is quarantined.

use std::time::Duration;

use rdkafka::{
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
};
use rustix::process::Signal;

use crate::{
    harness::{GROUP, PATIENCE, TOPIC},
    storm::Storm,
};

/// Longer than these tests take: a lock that a test holds must not time out.
const PATIENT: [(&str, &str); 2] = [
    ("MOODSTREAM_DATABASE__LOCK_TIMEOUT_SECONDS", "100"),
    ("MOODSTREAM_DATABASE__STATEMENT_TIMEOUT_SECONDS", "100"),
];

/// A hash of every row with the transaction that wrote it, so that every write is noticed, even one that changes nothing.
const EVERYTHING: &str = "
    SELECT count(*)::bigint, coalesce(sum(hashtextextended(concat(t, x, d), 0)), 0)::text FROM (
        SELECT 'post' t, xmin::text x, row(p.*)::text d FROM post p
        UNION ALL SELECT 'rollup', xmin::text, row(r.*)::text FROM emotion_rollup r
        UNION ALL SELECT 'key', xmin::text, row(k.*)::text FROM post_key k
        UNION ALL SELECT 'offset', xmin::text, row(o.*)::text FROM consumer_offset o
        UNION ALL SELECT 'tally', xmin::text, row(c.*)::text FROM consumer_tally c) AS every";

fn waiting(storm: &mut Storm) -> bool {
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'moodstream' AND wait_event_type = 'Lock'";
    storm.harness.number(sql).unwrap_or(0) > 0
}

#[test]
fn a_frozen_consumer_is_fenced_when_it_resumes_and_writes_nothing() {
    let mut storm = Storm::calm(11);
    // It is frozen during a flush, while it waits for the lock on its offsets.
    storm.join();
    storm.feed(50);
    storm.wait("the first records", Storm::is_drained);
    let mut holder = storm.harness.connect().unwrap();
    storm.harness.execute_on(
        &mut holder,
        "BEGIN; LOCK TABLE consumer_offset IN ACCESS EXCLUSIVE MODE",
    );
    storm.feed(300);
    storm.wait("a flush that waits for the offsets", waiting);
    let frozen = storm.members.pop().unwrap();
    frozen.signal(Signal::STOP);
    storm.harness.execute_on(&mut holder, "COMMIT");

    storm.join();
    storm.wait("another member to commit all partitions", Storm::is_drained);
    let before: Vec<(i64, String)> = storm.harness.rows(EVERYTHING);
    frozen.signal(Signal::CONT);
    storm.wait("the frozen member to rejoin the group", |_| {
        let log = frozen.log();
        let woken = log.matches("partitions revoked").count() > 0;
        woken && log.rfind("partitions assigned") > log.rfind("partitions revoked") && frozen.is_ready()
    });
    let after: Vec<(i64, String)> = storm.harness.rows(EVERYTHING);
    assert_eq!(before, after, "the resumed member has written\n{}", frozen.log());

    storm.members.push(frozen);
    storm.feed(300);
    storm.drain_and_check();
}

/// A partition that is lost and reassigned during its flush is read again from the offset before that flush: the old flush's
/// commit must not count for the new assignment.
#[test]
fn a_partition_reassigned_during_its_flush_is_fenced_and_read_again() {
    let mut storm = Storm::calm(12);
    storm.join_with(&PATIENT);
    storm.feed(50);
    storm.wait("the first records", Storm::is_drained);
    let mut holder = storm.harness.connect().unwrap();
    storm
        .harness
        .execute_on(&mut holder, "BEGIN; LOCK TABLE post IN ACCESS EXCLUSIVE MODE");
    storm.feed(300);
    storm.wait("a flush that waits for a table", waiting);
    storm.members[0].signal(Signal::STOP);

    // Once another consumer is assigned the partitions, the group has removed the frozen member.
    let stranger: BaseConsumer = storm
        .broker()
        .config()
        .set("group.id", GROUP)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "6000")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    stranger.subscribe(&[TOPIC]).unwrap();
    storm.wait("another consumer to be assigned all partitions", |_| {
        let _ = stranger.poll(Duration::from_millis(50));
        stranger.assignment().is_ok_and(|list| list.count() == 4)
    });
    drop(stranger);
    let reads = storm.members[0].log().matches(" partition started ").count();
    storm.members[0].signal(Signal::CONT);
    storm.wait("the partitions to be read again", |storm| {
        storm.members[0].log().matches(" partition started ").count() > reads + 3
    });
    storm.harness.execute_on(&mut holder, "COMMIT");
    storm.feed(300);
    storm.drain_and_check();
}

fn recreate(storm: &Storm) {
    let admin: AdminClient<DefaultClientContext> = storm.broker().config().create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let deleted = storm
        .harness
        .runtime
        .block_on(admin.delete_topics(&[TOPIC], &options))
        .unwrap();
    deleted.into_iter().next().unwrap().unwrap();
    storm.broker().create_topic(TOPIC, crate::feed::PARTITIONS);
}

/// The topic is recreated between two runs: librdkafka 2.12 crashes if this broker deletes a topic that it reads, because
/// the broker's response names a leader for a topic without a name (in `rd_kafka_metadata_update_op`).
#[test]
fn a_recreated_topic_is_handled_as_configured() {
    let mut storm = Storm::calm(13);
    let member = storm.member(&[]);
    storm.feed(600);
    storm.wait("the topic to be committed", Storm::is_drained);
    storm.end_well(member);
    recreate(&storm);

    // By default its partitions are quarantined, with the cause and the remedy in the log, and nothing is written.
    let before: Vec<(i64, String)> = storm.harness.rows(EVERYTHING);
    let member = storm.member(&[]);
    storm.wait("the partitions to be quarantined", |_| {
        member.log().matches("partition quarantined").count() == usize::try_from(crate::feed::PARTITIONS).unwrap()
    });
    let log = member.log();
    let line = log.lines().find(|line| line.contains("partition quarantined")).unwrap();
    for words in [
        "is out of range",
        "the topic was recreated",
        "kafka.on_offset_out_of_range",
    ] {
        assert!(line.contains(words), "{line}");
    }
    storm.end_well(member);
    assert_eq!(before, storm.harness.rows::<(i64, String)>(EVERYTHING));

    // With `earliest` it reads the new topic from its start.
    let rows = storm.harness.number("SELECT count(*) FROM post").unwrap();
    storm.forget_lines();
    let going_on = storm.member(&[("MOODSTREAM_KAFKA__ON_OFFSET_OUT_OF_RANGE", "earliest")]);
    storm.feed(300);
    storm.wait("the new topic to be committed", Storm::is_drained);
    assert!(storm.harness.number("SELECT count(*) FROM post").unwrap() > rows);
    assert!(going_on.log().contains("the stored offset is out of range"));
    storm.end_well(going_on);
    let differences: Vec<(String, String)> = storm.harness.rows(include_str!("../support/recount.sql"));
    assert!(differences.is_empty(), "{differences:#?}");
}
