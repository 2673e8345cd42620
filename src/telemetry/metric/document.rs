//! `docs/metrics.md`, made from the list.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{ALL, Kind, Label, Metric};

const HEAD: &str = "\
# Metrics

`GET /metrics` in the text format of Prometheus, one prefix, base units. This page is made from the list in
`src/telemetry/metric/mod.rs`, to which a test holds a working service; `MOODSTREAM_RENEW=1 cargo test --test service metrics` renews it.

What has no labels, or only labels whose values are known, is there from the start, at zero; of the rest the last column says
what must have happened. Units are in UCUM. All of it is of one process: add up over the members of a group.
";

const QUESTIONS: &str = "
## What to ask

```promql
# Posts stored a second, and records by outcome
sum(rate(moodstream_outcomes_total{outcome=\"inserted\"}[5m]))
sum by (outcome) (rate(moodstream_outcomes_total[5m]))
# Lag of each topic, over all members of the group
sum by (topic) (moodstream_lag_records)
# From the broker to the row: the time that 95 of 100 posts stay below
histogram_quantile(0.95, sum by (le) (rate(moodstream_broker_delay_seconds_bucket[5m])))
# The share of computed tokens that is padding
rate(moodstream_padding_tokens_total[5m]) / (rate(moodstream_padding_tokens_total[5m]) + rate(moodstream_tokens_total[5m]))
# How busy the ONNX sessions are, in sessions
rate(moodstream_inference_seconds_sum[5m])
```
";

const OTEL: &str = "
## In OpenTelemetry's words

Names of its [semantic conventions](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/) that mean the same or
come closest, for who collects both. Of attributes, `messaging.destination.name` is our `topic`,
`messaging.destination.partition.id` our `partition`; `messaging.system` is always `kafka`, and the consumer group is
`messaging.consumer.group.name`. Lag has no name there; the collector's Kafka receiver calls it `kafka.consumer_group.lag`.

| here | there |
|---|---|
";

/// The text of `docs/metrics.md`.
#[must_use]
pub fn document() -> String {
    let mut out = HEAD.to_owned();
    let _ = write!(
        out,
        "\n{} metrics:\n\n| name | kind | unit | labels | meaning | there once |\n|---|---|---|---|---|---|\n",
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
    out.push_str("\n## Labels\n\nEvery label has a bound, so that no record and no topic's name can make series without end.\n\n");
    out.push_str("| label | of | values |\n|---|---|---|\n");
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

/// `name (attribute)` with the name as code.
fn attribute(otel: &str) -> String {
    match otel.split_once(' ') {
        Some((name, rest)) => format!("`{name}` {rest}"),
        None => format!("`{otel}`"),
    }
}

/// Each label with what its values are, and the metrics that have it.
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
