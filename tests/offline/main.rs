//! Tests that need neither a broker nor a database: parsing, settings, and the classifier with real sessions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code
)]

mod bad_input;
mod classify;
mod example_settings;
mod exposition;
mod gpu_deploy;
mod gpu_kit;
mod labelled_posts;
mod linear;
mod model_folders;
mod posts;
mod records_doc;
mod sessions;
