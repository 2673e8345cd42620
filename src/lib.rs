//! A streaming monitor of what people feel on social media.
//!
//! Posts arrive on Kafka topics, are cleaned, classified into emotions by an ONNX encoder and
//! written to Postgres together with rolling aggregates and the offsets they came from, in one
//! transaction: each post counts exactly once.
//!
//! The modules, along the path of a record:
//!
//! - [`post`]: a Kafka record's bytes become a [`post::Post`], a [`post::Deletion`] or a
//!   [`post::Reject`] with its reason;
//! - [`filter`]: which posts are wanted, and which tracked topics they touch;
//! - [`clean`]: the cleaning profile that the model was trained with;
//! - [`model`]: a model folder: manifest, labels, groups, thresholds, tokenizer;
//! - [`classify`]: tokenising, micro-batching, ONNX sessions, decoding;
//! - [`store`]: rows, rollups, offsets, deletions, partitions and retention in Postgres;
//! - [`kafka`]: consuming in a group, dead letters; [`feed`]: filling a topic from a file;
//! - [`pipeline`]: the stages joined; shutdown;
//! - [`telemetry`]: metrics, logs, health; [`http`]: the live page, `/metrics`, `/live`, `/ready`;
//! - [`config`]: settings from file, environment and flags; [`cli`]: one file a subcommand;
//! - [`fail_point`]: where tests make a flush crash, fail or wait.

mod backoff;
pub mod classify;
pub mod clean;
pub mod cli;
pub mod config;
pub mod fail_point;
pub mod feed;
pub mod filter;
pub mod http;
pub mod kafka;
pub mod model;
#[cfg(test)]
mod module_order;
pub mod pipeline;
pub mod post;
pub mod store;
mod sync;
pub mod telemetry;
