//! The state of this process as values, which the live page shows beside figures from the database.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::{histogram::Histogram, metric};
use crate::sync::lock;

/// The state of the process, with the same values as its metrics. Partitions and lag are updated twice a second.
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
    /// Updates the state.
    pub fn update(&self, change: impl FnOnce(&mut ProcessSnapshot)) {
        change(&mut lock(&self.0));
    }

    /// Returns a copy of the current state.
    #[must_use]
    pub fn snapshot(&self) -> ProcessSnapshot {
        lock(&self.0).clone()
    }
}
