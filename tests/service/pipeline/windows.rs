//! When windows close. Their timer is set to ten minutes, longer than any test waits.

use std::process::Child;

use moodstream::telemetry::metric;
use sqlx::{Connection as _, PgConnection};

use super::number_now;
use crate::support::{
    exposition,
    service::{Bench, Service, wait_for},
};

const SETTINGS: &str = "[window]\nmax_delay_ms = 600000\nin_flight = 2\n[classify]\nsessions = 2\n";

struct Running {
    child: Child,
    service: Service,
    bench: Bench,
    next: usize,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(topic: &str, fail_points: &str) -> Self {
        let bench = Bench::start();
        bench.broker.create_topic(topic, 1);
        let service = bench.service(topic).with_config(&bench.write("windows.toml", SETTINGS));
        let child = service.command().env("FAILPOINTS", fail_points).spawn().unwrap();
        wait_for("readiness", || {
            service
                .get("/ready")
                .is_some_and(|page| page.starts_with("HTTP/1.1 200"))
        });
        Self {
            child,
            service,
            bench,
            next: 0,
        }
    }

    /// Sends a post with a unique text.
    fn send(&mut self, topic: &str) {
        let post = serde_json::json!({
            "id": self.next.to_string(), "text": format!("what a day, number {}", self.next),
            "created_at": "2026-03-01T12:00:00Z",
        });
        self.next += 1;
        self.bench.broker.produce(topic, [(0, post.to_string().as_bytes())]);
    }

    fn stored(&self) -> i64 {
        number_now(&self.service.url, "SELECT count(*) FROM post")
    }

    fn classified(&self) -> f64 {
        let page = self.service.get("/metrics").unwrap_or_default();
        exposition::by_label(&page, metric::STAGE_RECORDS, "stage")
            .get("classify")
            .copied()
            .unwrap_or(0.0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_closes_as_soon_as_a_session_is_idle() {
    let mut running = Running::start("idle", "");
    for sent in 1..=5 {
        running.send("idle");
        wait_for("the post", || running.stored() == sent);
    }
    let page = running.service.get("/metrics").unwrap();
    let count = |name: &str| exposition::total(&page, &format!("{name}_count"));
    assert_eq!(count(metric::WINDOW_RECORDS), 5.0, "each post must have its own window");
    assert_eq!(
        count(metric::STAGE_DELAY),
        20.0,
        "the delay of each post has four parts"
    );
}

/// A window once closed only when all sessions were idle, so a post waited for the one before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_does_not_wait_for_another_while_a_session_is_idle() {
    let mut running = Running::start("held", "window-before=1*sleep(600000)");
    running.send("held");
    wait_for("the first window to be held", || {
        let page = running.service.get("/metrics").unwrap_or_default();
        exposition::total(&page, &format!("{}_count", metric::WINDOW_RECORDS)) == 1.0
    });
    running.send("held");
    wait_for("the second post to be classified", || running.classified() == 1.0);
    assert_eq!(running.stored(), 0, "it must be stored after the first post");
}

/// Windows that waited for the database once counted as being classified, so that sessions stood idle.
#[tokio::test(flavor = "multi_thread")]
async fn windows_that_wait_for_the_database_occupy_no_session() {
    let mut running = Running::start("slow", "");
    let mut holder = PgConnection::connect(&running.service.url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE post IN EXCLUSIVE MODE")
        .execute(&mut holder)
        .await
        .unwrap();
    for sent in 1..=8 {
        running.send("slow");
        wait_for("the post to be classified", || running.classified() == f64::from(sent));
    }
    assert_eq!(running.stored(), 0, "a post was stored despite the lock");
}
