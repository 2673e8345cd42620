//! What SECURITY.md promises, black-box.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

#[path = "../support/mod.rs"]
mod support;

mod http;
mod roles;
mod sasl;
mod secrets;
mod shipped;
mod tls;
