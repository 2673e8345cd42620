//! What is served, to whom, and to how many: the page in this process, without a pipeline behind it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusBuilder;
use moodstream::{
    http::{PageContent, page::Page, server},
    store::{Store, StoreOptions},
    telemetry::health::Health,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{postgres::Postgres, service::wait_for};

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    health: Health,
    postgres: Postgres,
    url: String,
}

/// Serves a page over a fresh, migrated database.
async fn serve(shows: PageContent) -> Served {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database().unwrap();
    let database = StoreOptions {
        url: url.as_str().into(),
        ..StoreOptions::default()
    };
    let store = Store::connect(&database).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    let (metrics, health) = (PrometheusBuilder::new().build_recorder().handle(), Health::default());
    let page = (shows != PageContent::Off).then(|| Page {
        shows,
        database,
        group: "g".to_owned(),
        health: health.clone(),
    });
    let stop = CancellationToken::new();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let (address, _) = server::serve(
        listen,
        metrics,
        health.clone(),
        Duration::from_secs(600),
        page,
        stop.clone(),
    )
    .await
    .unwrap();
    Served {
        address,
        stop,
        health,
        postgres,
        url,
    }
}

impl Served {
    /// Asks for a path and reads the head of the answer; what follows can be read on.
    fn ask(&self, path: &str, host: &str) -> (String, BufReader<TcpStream>) {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && answer.read_line(&mut head).unwrap() > 0 {}
        (head.to_ascii_lowercase(), answer)
    }
}

/// The next frame of an event stream.
fn frame(events: &mut impl std::io::BufRead) -> Value {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(events.read_line(&mut line).unwrap() > 0, "the stream has ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_comes_with_its_kind_and_the_headers_that_keep_a_browser_safe() {
    let served = serve(PageContent::Posts).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/licenses.txt", "text/plain; charset=utf-8"),
        ("/events", "text/event-stream"),
    ] {
        let (head, _) = served.ask(path, "localhost");
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        assert!(head.contains(&format!("content-type: {kind}\r\n")), "{path}: {head}");
        for header in [
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cross-origin-opener-policy: same-origin",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-store",
        ] {
            assert!(head.contains(&format!("{header}\r\n")), "{path} lacks {header}: {head}");
        }
        let policy = head
            .lines()
            .find(|line| line.starts_with("content-security-policy: "))
            .unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("require-trusted-types-for 'script'"));
        assert!(
            !policy.contains("unsafe") && !policy.contains("data:") && !policy.contains('*'),
            "{policy}"
        );
    }
    let (_, mut licenses) = served.ask("/licenses.txt", "localhost");
    let mut text = String::new();
    licenses.read_to_string(&mut text).unwrap();
    assert!(text.contains("chart.js") && text.contains("Permission is hereby granted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_are_served_only_where_asked_for_and_to_no_site_that_was_led_here() {
    let served = serve(PageContent::Posts).await;
    let (head, _) = served.ask("/events", "evil.example");
    assert!(head.starts_with("http/1.1 421"), "{head}");
    let (_, mut events) = served.ask("/events", "127.0.0.1:9464");
    assert_eq!(frame(&mut events)["figures"]["posts"], Value::Array(Vec::new()));

    let served = serve(PageContent::Figures).await;
    let (head, mut events) = served.ask("/events", "monitor.example");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let shown = frame(&mut events);
    assert_eq!(shown["figures"]["posts"], Value::Null);
    assert_eq!(shown["figures"]["tally"]["records"], 0);

    let served = serve(PageContent::Off).await;
    assert!(served.ask("/", "localhost").0.starts_with("http/1.1 200"));
    for path in ["/events", "/page.js"] {
        assert!(served.ask(path, "localhost").0.starts_with("http/1.1 404"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_process_knows_is_shown_as_it_reports_it() {
    let served = serve(PageContent::Figures).await;
    served.health.status().update(|status| {
        status.model = Some("test@0badcafe".to_owned());
        (status.partitions, status.lag) = (3, 70);
        status.rejects = [("id", 2), ("not_json", 5)].into();
        status.broker_delay.record(0.4);
    });
    let (_, mut events) = served.ask("/events", "localhost");
    let shown = &frame(&mut events)["process"];
    assert_eq!(shown["model"], "test@0badcafe");
    assert_eq!((&shown["partitions"], &shown["lag"]), (&json!(3), &json!(70)));
    assert_eq!(shown["rejects"], json!([["not_json", 5], ["id", 2]]));
    let delay = shown["delay"]["p95"].as_f64().unwrap();
    assert!((0.25..=0.5).contains(&delay), "{delay}: the bucket of 0.4 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_number_of_watchers_share_one_connection_that_ends_with_the_last() {
    let served = serve(PageContent::Figures).await;
    let mut watchers: Vec<_> = (0..32).map(|_| served.ask("/events", "localhost")).collect();
    for (head, events) in &mut watchers {
        assert!(head.starts_with("http/1.1 200"), "{head}");
        frame(events);
    }
    let (head, _) = served.ask("/events", "localhost");
    assert!(
        head.starts_with("http/1.1 503") && head.contains("retry-after: "),
        "{head}"
    );
    let connections = || {
        let count = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'moodstream-page'";
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(one(&served.url, count)))
    };
    assert_eq!(connections(), "1");
    // The connection reads, and reads alone.
    let writing = "SELECT current_setting('default_transaction_read_only')";
    assert_eq!(one(&served.url, writing).await, "off", "only the page's own");
    drop(watchers);
    wait_for("the last to leave", || connections() == "0");
    let (head, mut events) = served.ask("/events", "localhost");
    assert!(head.starts_with("http/1.1 200"), "a place is free again: {head}");
    frame(&mut events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_is_said_and_comes_back_by_itself() {
    let served = serve(PageContent::Figures).await;
    let (_, mut events) = served.ask("/events", "localhost");
    assert!(frame(&mut events)["figures"].is_object());
    let name = served.url.rsplit('/').next().unwrap();
    let away = |away: bool| {
        let word = if away { "false" } else { "true" };
        served
            .postgres
            .execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {word}"))
            .unwrap();
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        served.postgres.execute(&end).unwrap();
    };
    away(true);
    wait_for("the page to say so", || {
        let frame = frame(&mut events);
        frame["figures"].is_null() && frame["fault"].as_str().is_some_and(|fault| fault.contains("database"))
    });
    away(false);
    wait_for("the page to come back", || frame(&mut events)["figures"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_does_not_keep_the_service_from_stopping() {
    let served = serve(PageContent::Figures).await;
    let (_, mut events) = served.ask("/events", "localhost");
    frame(&mut events);
    served.stop.cancel();
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
}

async fn one(url: &str, sql: &str) -> String {
    use sqlx::Connection as _;
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut connection)
        .await
        .unwrap()
}
