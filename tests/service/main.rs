//! Tests that need a broker, and most of them Postgres and the model too: the Kafka stage, and the service's own binary
//! from outside.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod cli;
mod grafana_live;
mod kafka;
mod metrics;
mod page;
mod pipeline;
mod security;
#[path = "../support/mod.rs"]
mod support;
