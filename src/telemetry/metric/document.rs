//! Generates `docs/metrics.md`.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{ALL, Kind, Label, Metric};

const HEAD: &str = "\
# Metrics

`GET /metrics` serves these in the Prometheus text format, with one prefix and in base units. This page is generated from the list
in `src/telemetry/metric/mod.rs`. A test compares the list with a running service;
`MOODSTREAM_RENEW=1 cargo test --test service metrics` updates this page.

Metrics without labels, or whose label values are known, are exported as zero from the start. For the others, the last column says
when they first appear. Units are in UCUM. All values are those of one process: sum them over the members of a group.
";

const QUESTIONS: &str = "
## Useful queries

```promql
# Posts stored per second, and records by outcome
sum(rate(moodstream_outcomes_total{outcome=\"inserted\"}[5m]))
sum by (outcome) (rate(moodstream_outcomes_total[5m]))
# Lag of each topic, over all members of the group
sum by (topic) (moodstream_lag_records)
# The 95th percentile of the delay from the broker to the row
histogram_quantile(0.95, sum by (le) (rate(moodstream_broker_delay_seconds_bucket[5m])))
# The share of padding among computed tokens
rate(moodstream_padding_tokens_total[5m]) / (rate(moodstream_padding_tokens_total[5m]) + rate(moodstream_tokens_total[5m]))
# The number of busy ONNX sessions
rate(moodstream_inference_seconds_sum[5m])
```
";

const OTEL: &str = "
## OpenTelemetry names

The equivalent or closest names in its
[semantic conventions](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/). As for attributes,
`messaging.destination.name` is our `topic` and `messaging.destination.partition.id` our `partition`; `messaging.system` is always
`kafka`, and the consumer group is `messaging.consumer.group.name`. The conventions have no name for lag; the collector's Kafka
receiver calls it `kafka.consumer_group.lag`.

| moodstream | OpenTelemetry |
|---|---|
";

/// Returns the content of `docs/metrics.md`.
#[must_use]
pub fn document() -> String {
    let mut out = HEAD.to_owned();
    let _ = write!(
        out,
        "\n{} metrics:\n\n| name | kind | unit | labels | meaning | exported once |\n|---|---|---|---|---|---|\n",
        ALL.len()
    );
    for Metric {
        name,
        kind,
        unit,
        labels,
        once,
        help,
        ..
    } in ALL
    {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let once = if once.is_empty() { "always" } else { once };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{}`", label.name)).collect();
        let _ = writeln!(
            out,
            "| `{name}` | {kind} | `{unit}` | {} | {help} | {once} |",
            labels.join(", ")
        );
    }
    out.push_str("\n## Labels\n\nThe values of every label are bounded, so that neither records nor topic names can create unlimited series.\n\n");
    out.push_str("| label | metrics | values |\n|---|---|---|\n");
    for ((name, values), metrics) in labels() {
        let metrics: Vec<String> = metrics.iter().map(|metric| format!("`{metric}`")).collect();
        let _ = writeln!(out, "| `{name}` | {} | {values} |", metrics.join(", "));
    }
    out.push_str("\n## Buckets\n\nUpper bounds, in the metric's unit.\n\n| histogram | bounds |\n|---|---|\n");
    for metric in ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            let bounds: Vec<String> = buckets.iter().map(ToString::to_string).collect();
            let _ = writeln!(out, "| `{}` | {} |", metric.name, bounds.join(" "));
        }
    }
    out.push_str(OTEL);
    for metric in ALL.iter().filter(|metric| !metric.otel.is_empty()) {
        let _ = writeln!(out, "| `{}` | {} |", metric.name, attribute(metric.otel));
    }
    out.push_str(QUESTIONS);
    out
}

/// Formats `name (attribute)` with the name as code.
fn attribute(otel: &str) -> String {
    match otel.split_once(' ') {
        Some((name, rest)) => format!("`{name}` {rest}"),
        None => format!("`{otel}`"),
    }
}

/// Returns each label and its values, with the metrics that have it.
fn labels() -> BTreeMap<(&'static str, String), Vec<&'static str>> {
    let mut labels: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for metric in ALL {
        for Label { name, values, bound } in metric.labels {
            let known: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            let words = if known.is_empty() {
                (*bound).to_owned()
            } else {
                known.join(" ")
            };
            labels.entry((name, words)).or_default().push(metric.name);
        }
    }
    labels
}
