//! Metrics, logs, health, the live page.

pub mod connections;
pub mod exposition;
pub mod health;
pub mod http;
pub mod metric;
pub mod page;
pub(crate) mod quiet;

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogFormat, LogSettings, SettingsError};
use metric::Kind;

/// Starts logging to standard error.
///
/// # Errors
/// The level is no filter that `tracing` knows.
pub fn init_logs(settings: &LogSettings) -> Result<(), SettingsError> {
    // ONNX Runtime tells of every allocation at `info`: of interest only to who asks for it by name.
    let filter = EnvFilter::try_new(format!("ort=warn,{}", settings.level))
        .map_err(|error| SettingsError(format!("log.level {:?}: {error}", settings.level)))?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call (tests in one process) keeps the first subscriber.
    let _ = match settings.format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    Ok(())
}

/// Installs the metrics recorder with the names, help texts and buckets of [`metric::ALL`].
///
/// # Errors
/// Another recorder is installed already.
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

/// Registers help texts, and every metric whose labels are known at zero, so that a rate over it has a beginning.
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
                // Without an observation there is no series.
                Kind::Histogram(_) => {}
            }
        }
    }
}
