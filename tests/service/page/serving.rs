//! The page's HTTP server, in this process and without a pipeline: files, headers, hosts and the number of clients.

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

/// Serves the page with a fresh, migrated database.
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
    /// Requests a path. Returns the response's head in lower case, and a reader of its body.
    fn request(&self, path: &str, host: &str) -> (String, BufReader<TcpStream>) {
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

/// Reads the next frame of an event stream.
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
async fn every_file_has_its_content_type_and_the_security_headers() {
    let served = serve(PageContent::Posts).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/licenses.txt", "text/plain; charset=utf-8"),
        ("/events", "text/event-stream"),
    ] {
        let (head, _) = served.request(path, "localhost");
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
    let (_, mut licenses) = served.request("/licenses.txt", "localhost");
    let mut text = String::new();
    licenses.read_to_string(&mut text).unwrap();
    assert!(text.contains("chart.js") && text.contains("Permission is hereby granted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_are_served_only_if_enabled_and_not_under_foreign_host_names() {
    let served = serve(PageContent::Posts).await;
    let (head, _) = served.request("/events", "evil.example");
    assert!(head.starts_with("http/1.1 421"), "{head}");
    let (_, mut events) = served.request("/events", "127.0.0.1:9464");
    assert_eq!(frame(&mut events)["figures"]["posts"], Value::Array(Vec::new()));

    let served = serve(PageContent::Figures).await;
    let (head, mut events) = served.request("/events", "monitor.example");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let shown = frame(&mut events);
    assert_eq!(shown["figures"]["posts"], Value::Null);
    assert_eq!(shown["figures"]["tally"]["records"], 0);

    let served = serve(PageContent::Off).await;
    assert!(served.request("/", "localhost").0.starts_with("http/1.1 200"));
    for path in ["/events", "/page.js"] {
        assert!(
            served.request(path, "localhost").0.starts_with("http/1.1 404"),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_contain_the_state_of_the_process() {
    let served = serve(PageContent::Figures).await;
    served.health.status().update(|status| {
        status.model = Some("test@0badcafe".to_owned());
        (status.partitions, status.lag) = (3, 70);
        status.rejects = [("id", 2), ("not_json", 5)].into();
        status.broker_delay.record(0.4);
    });
    let (_, mut events) = served.request("/events", "localhost");
    let shown = &frame(&mut events)["process"];
    assert_eq!(shown["model"], "test@0badcafe");
    assert_eq!((&shown["partitions"], &shown["lag"]), (&json!(3), &json!(70)));
    assert_eq!(shown["rejects"], json!([["not_json", 5], ["id", 2]]));
    let delay = shown["delay"]["p95"].as_f64().unwrap();
    assert!((0.25..=0.5).contains(&delay), "{delay} is not in the bucket of 0.4 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_number_of_clients_share_one_connection_that_closes_with_the_last() {
    let served = serve(PageContent::Figures).await;
    let mut clients: Vec<_> = (0..32).map(|_| served.request("/events", "localhost")).collect();
    for (head, events) in &mut clients {
        assert!(head.starts_with("http/1.1 200"), "{head}");
        frame(events);
    }
    let (head, _) = served.request("/events", "localhost");
    assert!(
        head.starts_with("http/1.1 503") && head.contains("retry-after: "),
        "{head}"
    );
    let connections = || {
        let count = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'moodstream-page'";
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(query_text(&served.url, count)))
    };
    assert_eq!(connections(), "1");
    drop(clients);
    wait_for("the connection to close", || connections() == "0");
    let (head, mut events) = served.request("/events", "localhost");
    assert!(
        head.starts_with("http/1.1 200"),
        "no client was accepted after the others left: {head}"
    );
    frame(&mut events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_is_reported_and_reconnected() {
    let served = serve(PageContent::Figures).await;
    let (_, mut events) = served.request("/events", "localhost");
    assert!(frame(&mut events)["figures"].is_object());
    let name = served.url.rsplit('/').next().unwrap();
    let block_connections = |block: bool| {
        let word = if block { "false" } else { "true" };
        served
            .postgres
            .execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {word}"))
            .unwrap();
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        served.postgres.execute(&end).unwrap();
    };
    block_connections(true);
    wait_for("the page to report the lost database", || {
        let frame = frame(&mut events);
        frame["figures"].is_null() && frame["fault"].as_str().is_some_and(|fault| fault.contains("database"))
    });
    block_connections(false);
    wait_for("the page to recover", || frame(&mut events)["figures"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_event_stream_does_not_delay_the_shutdown() {
    let served = serve(PageContent::Figures).await;
    let (_, mut events) = served.request("/events", "localhost");
    frame(&mut events);
    served.stop.cancel();
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
}

async fn query_text(url: &str, sql: &str) -> String {
    use sqlx::Connection as _;
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut connection)
        .await
        .unwrap()
}
