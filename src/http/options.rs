//! Settings of the HTTP server.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, de::Error as _};

/// What the live page shows. Anyone who can reach the address sees it, so posts are shown only if configured.
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
    /// The address of the live page, `/metrics`, `/live` and `/ready`; port 0 uses a free one.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Whether to serve anything.
    pub enabled: bool,
    /// What the live page at `/` shows.
    pub page: PageContent,
    /// Seconds after which `/live` fails if records are in flight and no work is done or attempted. It must be longer than
    /// the classification of a window and the longest statement take.
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

/// `127.0.0.1:9464`, `[::]:9464` or `localhost:9464`.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.clone(),
    };
    numeric.parse().map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is not an IP address with a port, such as 127.0.0.1:9464 for this machine only or 0.0.0.0:9464 for all networks"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_is_refused_with_an_example() {
        for (text, address) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::]:9464", "[::]:9464"),
            ("localhost:9464", "127.0.0.1:9464"),
        ] {
            let options: HttpOptions = toml::from_str(&format!("listen = '{text}'")).expect("an address");
            assert_eq!(options.listen.to_string(), address);
        }
        for text in ["0.0.0.0", "9464", ":9464", "example.org:80", "localhost", ""] {
            let error = toml::from_str::<HttpOptions>(&format!("listen = '{text}'")).expect_err(text);
            assert!(error.to_string().contains("such as 127.0.0.1:9464"), "{error}");
        }
    }
}
