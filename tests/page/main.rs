//! The live page: in a real Chromium before a real service, over HTTP, and as it was built.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod browser;
mod build;
mod live;
mod serving;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::path::PathBuf;

/// A package that `deploy/setup --tests` has put under `.runtime/npm`.
fn installed(name: &str) -> Option<PathBuf> {
    let runtime =
        std::env::var_os("MOODSTREAM_RUNTIME").map_or_else(|| support::service::root().join(".runtime"), PathBuf::from);
    let folder = runtime.join("npm").join(name);
    folder.is_dir().then_some(folder)
}
