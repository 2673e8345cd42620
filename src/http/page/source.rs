//! Where the live page's figures come from.

use metrics_exporter_prometheus::PrometheusHandle;

use crate::{http::PageContent, store::StoreOptions, telemetry::health::Health};

/// The live page's settings and sources.
#[derive(Debug, Clone)]
pub struct Page {
    /// What it shows.
    pub shows: PageContent,
    /// The database that it reads.
    pub database: StoreOptions,
    /// The consumer group whose records it counts.
    pub group: String,
    /// The process's own metrics.
    pub metrics: PrometheusHandle,
    /// What keeps the process from being ready.
    pub health: Health,
}
