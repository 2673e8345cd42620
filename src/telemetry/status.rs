//! What this process says of its own work, as values: the live page shows it beside what the tables say.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::{histogram::Histogram, metric};
use crate::sync::lock;

/// What the process does at a moment: the same as its metrics say. Partitions and lag are brought up to date twice a second.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessSnapshot {
    /// The id of the model in service; `None` until it is loaded.
    pub model: Option<String>,
    /// Partitions assigned to this process.
    pub partitions: usize,
    /// Records in them that are not committed yet.
    pub lag: i64,
    /// Seconds from a record's time at the broker to the commit of its row.
    pub broker_delay: Histogram,
    /// Rejected records by reason.
    pub rejects: BTreeMap<&'static str, u64>,
}

impl Default for ProcessSnapshot {
    fn default() -> Self {
        Self {
            model: None,
            partitions: 0,
            lag: 0,
            broker_delay: Histogram::new(metric::DELAY),
            rejects: BTreeMap::new(),
        }
    }
}

/// The current [`ProcessSnapshot`]. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct ProcessStatus(Arc<Mutex<ProcessSnapshot>>);

impl ProcessStatus {
    /// Changes it.
    pub fn update(&self, change: impl FnOnce(&mut ProcessSnapshot)) {
        change(&mut lock(&self.0));
    }

    /// As it is now.
    #[must_use]
    pub fn snapshot(&self) -> ProcessSnapshot {
        lock(&self.0).clone()
    }
}
