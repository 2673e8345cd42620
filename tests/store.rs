//! The store against a real Postgres.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/proxy.rs"]
mod proxy;

#[path = "store/fences.rs"]
mod fences;
#[path = "store/reckoning.rs"]
mod reckoning;
#[path = "store/rows.rs"]
mod rows;
#[path = "store/trends.rs"]
mod trends;
#[path = "store/upkeep.rs"]
mod upkeep;
#[path = "store/world.rs"]
mod world;
