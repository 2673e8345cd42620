//! Metrics, logs and health, reported by every stage. Of the other modules it uses only `post`, for the reasons of rejects,
//! and `sync`.

pub mod health;
mod histogram;
pub(crate) mod log_limiter;
mod logs;
pub mod metric;
mod status;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use self::metric::Kind;
pub use self::{
    histogram::Histogram,
    logs::{LogFormat, LogLevelError, LogOptions, check_logs, init_logs},
    status::{ProcessSnapshot, ProcessStatus},
};

/// Installs the metrics recorder with the names, help texts and buckets of [`metric::ALL`].
///
/// # Errors
/// Returns an error if a recorder is already installed.
pub fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for metric in metric::ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let handle = builder.install_recorder()?;
    describe();
    metrics::gauge!(metric::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Registers help texts, and initialises to zero every metric whose label values are known, so that rates have a start.
fn describe() {
    for metric in metric::ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
        let Some((label, values)) = metric::known_values(metric) else {
            continue;
        };
        let series = values.iter().map(|value| vec![metrics::Label::new(label, *value)]);
        let bare = values.is_empty().then(Vec::new);
        for labels in series.chain(bare) {
            match metric.kind {
                Kind::Counter => metrics::counter!(metric.name, labels).absolute(0),
                Kind::Gauge => metrics::gauge!(metric.name, labels).set(0.0),
                // A histogram has no series before its first observation.
                Kind::Histogram(_) => {}
            }
        }
    }
}
