//! Where the live page's figures come from.

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
    /// What the process says of itself.
    pub health: Health,
}
