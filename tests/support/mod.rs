//! Shared by the tests: a broker, a Postgres, a proxy, the service, and a store on a fresh database.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod broker;
pub mod exposition;
pub mod linear;
pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod service;
pub mod store;
