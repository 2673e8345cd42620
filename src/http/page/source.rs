//! What the live page shows, and from where.

use crate::{http::PageContent, store::StoreOptions, telemetry::health::Health};

/// The live page's settings and data sources.
#[derive(Debug, Clone)]
pub struct Page {
    /// What it shows.
    pub shows: PageContent,
    /// The database that it reads.
    pub database: StoreOptions,
    /// The consumer group whose records it counts.
    pub group: String,
    /// The state of this process.
    pub health: Health,
}
