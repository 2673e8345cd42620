//! The lab as its users run it, and what it exports in the runtime that serves it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod command;
mod compare;
mod export;
mod exporters;
mod recipe;
mod support;
