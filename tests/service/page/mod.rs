//! The live page: in a real Chromium before a real service, over HTTP, and as it was built.

mod browser;
mod build;
mod harness;
mod live;
mod serving;

use std::path::PathBuf;

/// A package that `deploy/setup --tests` has put under `.runtime/npm`.
fn installed(name: &str) -> Option<PathBuf> {
    let runtime = std::env::var_os("MOODSTREAM_RUNTIME")
        .map_or_else(|| crate::support::service::root().join(".runtime"), PathBuf::from);
    let folder = runtime.join("npm").join(name);
    folder.is_dir().then_some(folder)
}
