//! Metrics, logs, health.

pub mod metric;
