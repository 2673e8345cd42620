//! What the tests stand on.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod broker;
pub mod postgres;
pub mod proxy;
pub mod service;
