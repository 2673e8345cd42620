//! Settings of the HTTP server.

use std::net::SocketAddr;

use serde::Deserialize;

/// What the live page shows. Anyone who reaches the address sees it, so posts are shown only if asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PageContent {
    /// There is no live page.
    Off,
    /// Counts, shares, rates, lag and delay.
    #[default]
    Figures,
    /// The newest posts as well.
    Posts,
}

impl PageContent {
    /// Whether posts are shown.
    #[must_use]
    pub const fn posts(self) -> bool {
        matches!(self, Self::Posts)
    }
}

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpOptions {
    /// The address of the live page, `/metrics`, `/live` and `/ready`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Serve at all.
    pub enabled: bool,
    /// What the live page at `/` shows.
    pub page: PageContent,
    /// Seconds after which `/live` fails if records are held and nothing is done or tried. Longer than a window takes to
    /// classify and the longest statement to the database.
    pub stall_seconds: u32,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            enabled: true,
            page: PageContent::Figures,
            stall_seconds: 600,
        }
    }
}
