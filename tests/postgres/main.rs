//! Tests that need only Postgres: the store, and the dashboards' queries.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod fences;
mod grafana;
mod keys;
mod maintenance;
mod merging;
mod odd_calls;
mod oracle;
mod refusals;
mod rolling;
mod rows;
mod scale;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod trends;
mod upgrades;
mod writers;
