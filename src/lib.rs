//! A streaming monitor of emotions in social media posts.
//!
//! Posts are consumed from Kafka topics, cleaned, classified into emotions by an ONNX encoder or a
//! linear model, and written to Postgres together with rolling aggregates and the consumed
//! offsets in one transaction, so each post counts exactly once.
//!
//! The main modules (ARCHITECTURE.md lists all of them from bottom to top):
//!
//! - [`post`]: parses a Kafka record into a [`post::Post`], a [`post::Deletion`] or a
//!   [`post::Reject`] with its reason;
//! - [`filter`]: which posts are wanted, and which tracked subjects they match;
//! - [`clean`]: the cleaning profile that the model was trained with;
//! - [`model`]: model folders: manifest, labels, groups, thresholds, tokenizer;
//! - [`classify`]: tokenisation, micro-batching, ONNX sessions, decoding;
//! - [`store`]: rows, rollups, offsets, deletions, partitions and retention in Postgres;
//! - [`kafka`]: consuming in a group, dead letters; [`feed`]: filling a topic from a file;
//! - [`pipeline`]: the stages combined, and their shutdown;
//! - [`telemetry`]: metrics, logs, health; [`http`]: the live page, `/metrics`, `/live`, `/ready`;
//! - [`config`]: settings from file, environment and flags; [`cli`]: the subcommands;
//! - [`fail_point`]: steps at which tests make a flush crash, fail or wait.

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
