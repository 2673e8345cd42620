//! The live page: in Chromium with a running service, over HTTP, and its build.

mod browser;
mod build;
mod harness;
mod live;
mod serving;

use std::path::PathBuf;

/// Returns the folder of a package that `deploy/setup --tests` installed under `.runtime/npm`.
fn installed(name: &str) -> Option<PathBuf> {
    let runtime = std::env::var_os("MOODSTREAM_RUNTIME")
        .map_or_else(|| crate::support::service::root().join(".runtime"), PathBuf::from);
    let folder = runtime.join("npm").join(name);
    folder.is_dir().then_some(folder)
}
