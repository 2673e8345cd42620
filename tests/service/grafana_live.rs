//! Every PromQL query of dashboards and alerts, asked of a Prometheus that scrapes the running service.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::service::{Bench, end_of, root, terminate, wait_for};
use serde_json::Value;

/// Ends with the test, however that ends.
struct Ends(Child);

impl Drop for Ends {
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

/// The answer's series; none while Prometheus does not answer.
fn ask(listen: &str, expr: &str) -> Result<Vec<Value>, String> {
    let coded: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut socket = TcpStream::connect(listen).map_err(|error| error.to_string())?;
    write!(
        socket,
        "GET /api/v1/query?query={coded} HTTP/1.0\r\nhost: prometheus\r\n\r\n"
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

/// Place and expression of every query, `$__rate_interval` as Grafana fills it in for the scrape interval here: four of them.
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
            // There is no quarter of an hour to look back on.
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
async fn every_promql_query_answers_from_the_running_service() {
    let Some(program) = prometheus() else {
        println!("skipped: no prometheus; deploy/setup installs it where there is apt-get");
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
    let _prometheus = Ends(
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
        ask(&listen, "moodstream_outcomes_total{outcome=\"inserted\"} > 0").is_ok_and(|series| !series.is_empty())
    });
    // Quantiles and ratios need something that happens between two scrapes.
    let mut left = queries();
    assert!(left.len() > 12);
    let mut turn = 0;
    let mut last = String::new();
    wait_for("an answer to every query", || {
        turn += 1;
        let line = format!(
            "{{\"id\":\"more-{turn}\",\"text\":\"so sad, number {turn}\",\"created_at\":\"2026-03-01T12:00:00Z\"}}"
        );
        bench.broker.produce("posts", [(0, line.as_bytes())]);
        left.retain(|(place, expr)| match ask(&listen, expr) {
            Ok(series) => series.is_empty(),
            Err(error) => panic!("{place}: {error}: {expr}"),
        });
        let now = format!("{left:?}");
        if now != last {
            println!("without an answer yet: {now}");
            last = now;
        }
        left.is_empty()
    });
    assert_eq!(
        ask(&listen, "ALERTS{alertname=\"MoodstreamDown\"}").unwrap(),
        Vec::<Value>::new()
    );
    assert!(
        !ask(&listen, "moodstream:records:rate5m").unwrap().is_empty(),
        "the recording rules run"
    );
    terminate(&running);
    assert!(end_of(&mut running).success());
}
