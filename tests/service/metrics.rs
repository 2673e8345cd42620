//! `/metrics` exports exactly the metrics of the list from which `docs/metrics.md` is generated.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{
    exposition::{self, Sample},
    service::{Bench, Service, root, wait_for},
};
use moodstream::telemetry::metric::{self, ALL, Kind, Metric};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

#[test]
fn the_document_is_up_to_date() {
    let path = root().join("docs/metrics.md");
    let text = metric::document();
    if std::env::var_os("MOODSTREAM_RENEW").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == text,
        "docs/metrics.md is stale: MOODSTREAM_RENEW=1 cargo test --test service metrics"
    );
}

/// Posts, a duplicate, a deletion and records that are rejected.
fn stream() -> Vec<Vec<u8>> {
    let at = "\"created_at\":\"2026-03-01T12:00:00Z\"";
    let mut lines: Vec<String> = (0..60)
        .map(|n| {
            format!(
                "{{\"id\":\"{n}\",\"text\":\"what a day, number {}\",\"lang\":\"en\",{at}}}",
                n % 50
            )
        })
        .collect();
    lines.push(lines[0].clone());
    lines.push("{\"delete\":{\"status\":{\"id\":1,\"id_str\":\"1\",\"user_id\":1,\"user_id_str\":\"1\"}}}".to_owned());
    lines.push("{\"id\":\"61\", broken".to_owned());
    lines.push("{\"id\":\"62\",\"text\":\"when?\",\"created_at\":\"9999-99-99\"}".to_owned());
    lines.into_iter().map(String::into_bytes).collect()
}

struct Running {
    child: Child,
    service: Service,
    _bench: Bench,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(bench: Bench, service: Service) -> Self {
        let child = service.command().spawn().unwrap();
        Self {
            child,
            service,
            _bench: bench,
        }
    }

    fn page(&self) -> Option<String> {
        let answer = self.service.get("/metrics")?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }
}

fn listed(name: &str) -> Option<&'static Metric> {
    ALL.iter().find(|metric| metric.name == name)
}

/// The listed metric that a sample belongs to.
fn metric_of(sample: &Sample<'_>) -> Option<&'static Metric> {
    let of_histogram = ["_bucket", "_sum", "_count"]
        .into_iter()
        .filter_map(|suffix| listed(sample.name.strip_suffix(suffix)?))
        .find(|metric| matches!(metric.kind, Kind::Histogram(_)));
    of_histogram.or_else(|| listed(sample.name).filter(|metric| !matches!(metric.kind, Kind::Histogram(_))))
}

fn assert_samples_are_listed(page: &str) {
    let mut bounds: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sample in exposition::samples(page) {
        let metric = metric_of(&sample).unwrap_or_else(|| panic!("{} is not in the list", sample.name));
        let labels: Vec<&str> = sample
            .labels
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| *name != "le")
            .collect();
        let expected: Vec<&str> = metric.labels.iter().map(|label| label.name).collect();
        assert_eq!(labels, expected, "labels of {}", sample.name);
        for label in metric.labels {
            let value = sample.label(label.name).unwrap();
            let known = label.values.is_empty() || label.values.contains(&value);
            assert!(
                known,
                "{}: {}={value:?} is not one of its values",
                sample.name, label.name
            );
        }
        if let Some(bound) = sample.label("le") {
            bounds
                .entry(metric.name.to_owned())
                .or_default()
                .insert(bound.to_owned());
        }
    }
    for (name, bounds) in bounds {
        let Some(Metric {
            kind: Kind::Histogram(buckets),
            ..
        }) = listed(&name)
        else {
            panic!("{name}")
        };
        let expected = buckets.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        assert_eq!(bounds, expected.collect(), "buckets of {name}");
    }
    for line in page.lines().filter_map(|line| line.strip_prefix("# ")) {
        let (what, rest) = line.split_once(' ').unwrap();
        let (name, said) = rest.split_once(' ').unwrap();
        let metric = listed(name).unwrap_or_else(|| panic!("{name} is described but not in the list"));
        let expected = match (what, metric.kind) {
            ("HELP", _) => metric.help,
            (_, Kind::Counter) => "counter",
            (_, Kind::Gauge) => "gauge",
            (_, Kind::Histogram(_)) => "histogram",
        };
        assert_eq!(said, expected, "{what} of {name}");
    }
}

fn shown(page: &str) -> BTreeSet<&'static str> {
    exposition::samples(page)
        .filter_map(|sample| metric_of(&sample))
        .map(|metric| metric.name)
        .collect()
}

#[test]
fn a_working_service_exports_every_listed_metric() {
    let bench = Bench::start();
    bench.feed(&stream(), "measured", 2);
    let service = bench.service("measured");
    let running = Running::start(bench, service);

    // Before any record: the metrics that are listed as present from the start.
    let mut page = String::new();
    wait_for("the first answer", || {
        page = running.page().unwrap_or_default();
        !page.is_empty()
    });
    assert_samples_are_listed(&page);
    let first = shown(&page);
    for metric in ALL.iter().filter(|metric| metric.once.is_empty()) {
        assert!(first.contains(metric.name), "{} is missing at the start", metric.name);
        for label in metric.labels.iter().filter(|_| metric.labels.len() == 1) {
            let values = exposition::by_label(&page, metric.name, label.name);
            for value in label.values {
                assert!(
                    values.contains_key(*value),
                    "{}: {value} is missing at the start",
                    metric.name
                );
            }
        }
    }

    let records = stream().len() as f64;
    wait_for("all records and their lag", || {
        page = running.page().unwrap_or_default();
        exposition::total(&page, metric::OUTCOMES) >= records && page.contains(metric::LAG)
    });
    assert_samples_are_listed(&page);
    let missing: Vec<&str> = ALL
        .iter()
        .map(|metric| metric.name)
        .filter(|name| !shown(&page).contains(name))
        .collect();
    // No partition is in quarantine.
    assert_eq!(
        missing,
        [metric::QUARANTINED],
        "listed but not exported by a working service"
    );

    // The counts match what was fed.
    let outcomes = exposition::by_label(&page, metric::OUTCOMES, "outcome");
    let of = |outcome: &str| outcomes[outcome];
    assert_eq!(
        (of("inserted"), of("duplicate"), of("deletion"), of("rejected")),
        (60.0, 1.0, 1.0, 2.0)
    );
    let rejects = exposition::by_label(&page, metric::REJECTS, "reason");
    assert_eq!((rejects["not_json"], rejects["bad_time"]), (1.0, 1.0));
    assert_eq!(exposition::total(&page, metric::EMOTIONS), 60.0);
    assert_eq!(exposition::total(&page, metric::DEAD_LETTERS), 2.0);
    assert_promtool_accepts(&page);
}

/// Checks names, units and help texts with Prometheus's own tool.
fn assert_promtool_accepts(page: &str) {
    let runtime = std::env::var_os("MOODSTREAM_RUNTIME").map_or_else(|| root().join(".runtime"), PathBuf::from);
    let installed = runtime.join("bin/promtool");
    let program = if installed.exists() {
        installed
    } else {
        PathBuf::from("promtool")
    };
    let started = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = started else {
        return println!("skipped: no promtool in .runtime/bin or PATH");
    };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim().is_empty(),
        "promtool check metrics: {said}"
    );
}

/// The pattern matches more topics than may have their own series.
#[test]
fn the_number_of_series_is_bounded_for_any_number_of_topics() {
    const TOPICS: usize = metric::MAX_TOPICS + 40;
    let bench = Bench::start();
    let names: Vec<String> = (0..TOPICS).map(|number| format!("many.{number}")).collect();
    let topics: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1)))
        .collect();
    let admin: AdminClient<DefaultClientContext> = bench.broker.config().create().unwrap();
    let made = futures::executor::block_on(admin.create_topics(&topics, &AdminOptions::new())).unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let producer: BaseProducer = bench.broker.config().create().unwrap();
    for (number, name) in names.iter().enumerate() {
        let post = format!("{{\"id\":\"{number}\",\"text\":\"the same\",\"created_at\":\"2026-03-01T12:00:00Z\"}}");
        let record = BaseRecord::<(), String>::to(name).partition(0).payload(&post);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    let service = bench.service("^many\\..*");
    let running = Running::start(bench, service);
    let mut page = String::new();
    wait_for("all topics to be read", || {
        page = running.page().unwrap_or_default();
        exposition::total(&page, metric::OUTCOMES) >= TOPICS as f64
    });
    assert_samples_are_listed(&page);
    let records = exposition::by_label(&page, metric::RECORDS, "topic");
    assert_eq!(records.len(), metric::MAX_TOPICS + 1);
    assert_eq!(records[metric::OTHER_TOPICS], 40.0);
    assert_eq!(records.values().sum::<f64>(), TOPICS as f64);
    wait_for("the lag of all topics to be 0", || {
        page = running.page().unwrap_or_default();
        let lag = exposition::by_label(&page, metric::LAG, "topic");
        lag.len() <= metric::MAX_TOPICS + 1 && lag.values().all(|lag| *lag == 0.0)
    });
}
