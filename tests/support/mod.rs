//! What the tests stand on.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod broker;
pub mod postgres;
pub mod service;
