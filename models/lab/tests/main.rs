//! The lab's integration tests, in one binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod command;
mod export;
mod exporters;
mod recipe;
mod support;
