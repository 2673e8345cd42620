//! Partitions are revoked from a member that can't process their records: the member then recovers.
//!
//! One member reads two topics. A second one joins that reads only one of them, so that the test knows which partition the
//! group moves.

use std::process::{Child, Command};

use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::support::service::{Bench, Service, end_of, root, terminate, wait_for};

const TAKEN: &str = "taken";
const KEPT: &str = "kept";

/// A member; killed when dropped.
struct Member {
    service: Service,
    child: Child,
}

impl Member {
    fn start(service: Service, topics: &[&str], set: impl FnOnce(&mut Command)) -> Self {
        let mut command = service.command();
        command
            .env("MOODSTREAM_KAFKA__TOPICS", topics.join(","))
            .env("MOODSTREAM_MODEL__PATH", root().join("tests/fixtures/tiny-roberta"));
        set(&mut command);
        let child = command.spawn().unwrap();
        Self { service, child }
    }

    fn is_ready(&self) -> bool {
        let page = self.service.get("/ready");
        page.is_some_and(|page| page.starts_with("HTTP/1.1 200"))
    }

    /// Whether consumption is paused; `None` while `/metrics` does not answer.
    fn is_paused(&self) -> Option<bool> {
        let page = self.service.get("/metrics")?;
        let value = page.lines().find_map(|line| line.strip_prefix("moodstream_paused "))?;
        Some(value == "1")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bench() -> (Bench, Service) {
    let bench = Bench::start();
    for topic in [TAKEN, KEPT] {
        bench.broker.create_topic(topic, 1);
    }
    let service = bench.service(TAKEN);
    (bench, service)
}

fn produce(bench: &Bench, topic: &str, records: &[String]) {
    bench
        .broker
        .produce(topic, records.iter().map(|record| (0, record.as_bytes())));
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("nothing but the sea {n}")).collect()
}

/// Number of committed records of a topic.
async fn committed(url: &str, topic: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar("SELECT coalesce(sum(records), 0)::bigint FROM consumer_tally WHERE topic = $1")
        .bind(topic)
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

fn committed_now(url: &str, topic: &str) -> i64 {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(committed(url, topic)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_ready_again_once_records_with_failed_dead_letters_are_revoked() {
    let (bench, service) = bench();
    produce(&bench, TAKEN, &["{\"id\":\"1\", broken".to_owned()]);
    let first = Member::start(service.clone(), &[TAKEN, KEPT], |command| {
        command.env("FAILPOINTS", "dead-letters-before=return(error)");
    });
    wait_for("writing the dead letter to fail", || {
        let page = first.service.get("/ready");
        page.is_some_and(|page| page.contains("dead letters"))
    });
    produce(&bench, KEPT, &texts(10));
    wait_for("the other topic's records to be read", || {
        let page = first.service.get("/metrics").unwrap_or_default();
        page.contains("moodstream_records_total{topic=\"kept\"} 10")
    });
    assert_eq!(
        committed(&service.url, KEPT).await,
        0,
        "later records wait for the dead letter"
    );

    let _second = Member::start(service.another_member(), &[TAKEN], |_| {});
    wait_for("the other member to write the dead letter", || {
        committed_now(&service.url, TAKEN) == 1
    });
    wait_for("the rest to be committed", || committed_now(&service.url, KEPT) == 10);
    wait_for("readiness", || first.is_ready());
    let letters = bench.letters("taken.dead-letter", 1);
    assert_eq!(letters[0].headers["reason"], "not_json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_not_paused_once_its_waiting_record_is_revoked_or_abandoned() {
    let (bench, service) = bench();
    let narrow = |command: &mut Command| {
        command.env("MOODSTREAM_KAFKA__MAX_IN_FLIGHT_RECORDS", "100");
    };
    let first = Member::start(service.clone(), &[TAKEN, KEPT], narrow);
    wait_for("readiness", || first.is_ready());
    let mut holder = PgConnection::connect(&service.url).await.unwrap();
    holder
        .execute("BEGIN; LOCK TABLE post IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    produce(&bench, TAKEN, &texts(1_000));
    wait_for("back pressure", || first.is_paused() == Some(true));

    let mut second = Member::start(service.another_member(), &[TAKEN], narrow);
    wait_for("back pressure in the other member", || second.is_paused() == Some(true));
    wait_for("the first member to have no waiting record", || {
        first.is_paused() == Some(false)
    });

    // After SIGTERM it stops reading, although it still waits for the database.
    terminate(&second.child);
    wait_for("reading to stop", || {
        let ended = second.child.try_wait().unwrap();
        assert!(ended.is_none(), "it exited before it was seen not to be paused");
        second.is_paused() == Some(false)
    });
    holder.execute("COMMIT").await.unwrap();
    assert!(end_of(&mut second.child).success());
    wait_for("all to be committed", || committed_now(&service.url, TAKEN) == 1_000);
    wait_for("the back pressure to end", || first.is_paused() == Some(false));
}
