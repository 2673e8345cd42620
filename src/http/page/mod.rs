//! The live page: `GET /` and the frames that it shows.
//!
//! Posts and records are counted in Postgres, by one query a frame for all clients ([`broadcast`]), so the figures equal those of
//! SQL and are the same for every member of the group. Lag, delay and reasons are the process's own
//! ([`crate::telemetry::ProcessStatus`]). The browser's code is in `web/`; `make page` builds it into `dist/`, which is compiled
//! into the binary. The page loads nothing from other hosts, and never interprets a post as markup.

mod broadcast;
mod frame;
mod source;

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::get,
};
use futures::stream;
use tokio_util::sync::CancellationToken;

use self::broadcast::Broadcast;
pub use self::source::Page;

const INDEX: &str = include_str!("dist/index.html");
const SCRIPT: &str = include_str!("dist/page.js");
const STYLE: &str = include_str!("dist/page.css");
const ICON: &str = include_str!("dist/icon.svg");
const LICENSES: &str = include_str!("dist/licenses.txt");

/// Only this service's own files and frames; no inline scripts or styles, no markup made from strings.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 8] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    (header::CACHE_CONTROL, "no-store"),
];

#[derive(Clone)]
struct AppState {
    broadcast: Broadcast,
    /// Whether only requests whose `Host` is this machine are answered.
    local_only: bool,
}

impl Page {
    /// The page's routes; the task behind them ends with `stop`. `listen` is where they are served.
    pub fn router(self, listen: SocketAddr, stop: CancellationToken) -> Router {
        let local_only = listen.ip().is_loopback() && self.shows.posts();
        let state = AppState {
            broadcast: Broadcast::start(self, stop),
            local_only,
        };
        Router::new()
            .route("/", get(|| file("text/html; charset=utf-8", INDEX)))
            .route("/page.js", get(|| file("text/javascript; charset=utf-8", SCRIPT)))
            .route("/page.css", get(|| file("text/css; charset=utf-8", STYLE)))
            .route("/icon.svg", get(|| file("image/svg+xml", ICON)))
            .route("/licenses.txt", get(|| file("text/plain; charset=utf-8", LICENSES)))
            .route("/events", get(events))
            .with_state(state)
            .layer(middleware::map_response(secure))
    }
}

async fn file(kind: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], content).into_response()
}

async fn secure(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        let value = axum::http::HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// Frames as server-sent events.
async fn events(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if state.local_only && !host.is_some_and(names_this_machine) {
        // DNS rebinding: another site could otherwise read the posts through a visitor's browser.
        let message = "this page is served only under localhost or an IP address\n";
        return (StatusCode::MISDIRECTED_REQUEST, message).into_response();
    }
    let Some(frames) = state.broadcast.subscribe() else {
        let message = "too many clients\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], message).into_response();
    };
    let frames = stream::unfold(frames, |mut frames| async move {
        let frame = frames.recv().await?;
        Some((Ok::<_, Infallible>(Event::default().data(&*frame)), frames))
    });
    Sse::new(frames).keep_alive(KeepAlive::default()).into_response()
}

/// Whether the value of `Host` is `localhost` or an address, with or without a port.
fn names_this_machine(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let name = host
        .split_once(':')
        .map_or(host, |(name, _)| name)
        .trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_named() {
        for host in [
            "localhost",
            "LocalHost:9464",
            "127.0.0.1:9464",
            "[::1]:9464",
            "::1",
            "[::1]",
            "a.localhost:1",
        ] {
            assert!(names_this_machine(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org:9464",
            "127.0.0.1.example.org",
            ":9464",
        ] {
            assert!(!names_this_machine(host), "{host}");
        }
    }

    #[test]
    fn the_page_names_no_other_host_and_has_no_inline_script_or_style() {
        // The icon is not checked: its one URL names the XML namespace, and is not loaded.
        for (name, file) in [("index.html", INDEX), ("page.css", STYLE)] {
            assert!(!file.contains("://"), "{name}");
        }
        for inline in ["<style", "style=", "onload=", "onclick=", "javascript:"] {
            assert!(!INDEX.contains(inline), "{inline}");
        }
        assert_eq!(
            INDEX.matches("<script").count(),
            INDEX.matches("<script type=\"module\" src=").count()
        );
    }
}
