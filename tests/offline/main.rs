//! Tests that need no broker and no database: parsing, settings, and the classifier on real sessions.

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
mod gpu_kit;
mod irony;
mod linear;
mod model_folders;
mod posts;
mod records_doc;
