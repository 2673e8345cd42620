//! Runs every PromQL query of the dashboards and alerts on a Prometheus that scrapes the running service.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::service::{Bench, end_of, root, terminate, wait_for};
use serde_json::Value;

/// A process that is killed when dropped.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn prometheus() -> Option<PathBuf> {
    let runtime = std::env::var_os("MOODSTREAM_RUNTIME").map_or_else(|| root().join(".runtime"), PathBuf::from);
    let mut places = vec![runtime.join("prometheus/bin")];
    places.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    places
        .into_iter()
        .map(|place| place.join("prometheus"))
        .find(|program| program.is_file())
}

/// Returns the series of an instant query. Fails if Prometheus can't be reached or refuses the query.
fn query(listen: &str, expr: &str) -> Result<Vec<Value>, String> {
    let encoded: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut socket = TcpStream::connect(listen).map_err(|error| error.to_string())?;
    write!(
        socket,
        "GET /api/v1/query?query={encoded} HTTP/1.0\r\nhost: prometheus\r\n\r\n"
    )
    .unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).map_err(|error| error.to_string())?;
    let body = page.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let answer: Value = serde_json::from_str(body).map_err(|_| page.clone())?;
    if answer["status"] != "success" {
        return Err(answer["error"].to_string());
    }
    Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
}

/// Returns the title and expression of every query, with `$__rate_interval` set to four scrape intervals, as Grafana does.
fn queries() -> Vec<(String, String)> {
    let read = |path: &Path| -> Value { serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap() };
    let mut found = Vec::new();
    let board = read(&root().join("grafana/dashboards/pipeline.json"));
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            found.push((panel["title"].to_string(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    let alerts = read(&root().join("grafana/provisioning/alerting/moodstream.json"));
    for rule in alerts["groups"][0]["rules"].as_array().unwrap() {
        if let Some(expr) = rule["data"][0]["model"]["expr"].as_str() {
            // The test has no data from a quarter of an hour ago.
            found.push((rule["title"].to_string(), expr.replace("offset 15m", "offset 2s")));
        }
    }
    for (_, expr) in &mut found {
        *expr = expr.replace("$__rate_interval", "4s");
        assert!(!expr.contains('$'), "{expr}");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promql_query_returns_data_from_a_running_service() {
    let Some(program) = prometheus() else {
        println!("skipped: no prometheus; deploy/setup installs it if apt-get is available");
        return;
    };
    let bench = Bench::start();
    let lines: Vec<Vec<u8>> = (0..400)
        .map(|n| match n % 40 {
            39 => b"{broken".to_vec(),
            _ => serde_json::json!({"id": n.to_string(), "text": format!("i am so happy, number {n}"), "created_at": "2026-03-01T12:00:00Z"})
                .to_string()
                .into_bytes(),
        })
        .collect();
    bench.feed(&lines, "posts", 1);
    let service = bench.service("posts");
    let mut running = service.command().spawn().unwrap();

    let listen = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let rules = root().join("deploy/prometheus/rules.yml");
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\nscrape_configs:\n  - job_name: moodstream\n    static_configs: [{{ targets: [\"{}\"] }}]\n",
        rules.display(),
        service.listen
    );
    let config = bench.write("prometheus.yml", config);
    let data = tempfile::tempdir().unwrap();
    let _prometheus = KillOnDrop(
        Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().display()))
            .arg(format!("--web.listen-address={listen}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    wait_for("posts in Prometheus", || {
        query(&listen, "moodstream_outcomes_total{outcome=\"inserted\"} > 0").is_ok_and(|series| !series.is_empty())
    });
    // Quantiles and ratios need new posts between two scrapes.
    let mut pending = queries();
    assert!(pending.len() > 12);
    let mut turn = 0;
    let mut last = String::new();
    wait_for("every query to return data", || {
        turn += 1;
        let line = format!(
            "{{\"id\":\"more-{turn}\",\"text\":\"so sad, number {turn}\",\"created_at\":\"2026-03-01T12:00:00Z\"}}"
        );
        bench.broker.produce("posts", [(0, line.as_bytes())]);
        pending.retain(|(place, expr)| match query(&listen, expr) {
            Ok(series) => series.is_empty(),
            Err(error) => panic!("{place}: {error}: {expr}"),
        });
        let now = format!("{pending:?}");
        if now != last {
            println!("no data yet: {now}");
            last = now;
        }
        pending.is_empty()
    });
    assert_eq!(
        query(&listen, "ALERTS{alertname=\"MoodstreamDown\"}").unwrap(),
        Vec::<Value>::new()
    );
    assert!(
        !query(&listen, "moodstream:records:rate5m").unwrap().is_empty(),
        "no data from the recording rules"
    );
    terminate(&running);
    assert!(end_of(&mut running).success());
}
