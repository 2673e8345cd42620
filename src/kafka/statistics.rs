//! What is used of librdkafka's statistics.

use std::collections::HashMap;

use serde::Deserialize;

/// The part of librdkafka's statistics that is used here; see its STATISTICS.md.
#[derive(Debug, Deserialize)]
pub(super) struct Statistics {
    #[serde(default)]
    pub(super) topics: HashMap<String, TopicStatistics>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TopicStatistics {
    #[serde(default)]
    pub(super) partitions: HashMap<i32, PartitionStatistics>,
}

/// Offsets from the latest fetch response; negative before the first one.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct PartitionStatistics {
    pub(super) lo_offset: i64,
    pub(super) hi_offset: i64,
    pub(super) ls_offset: i64,
}

impl PartitionStatistics {
    /// The log start offset.
    pub(super) fn start(self) -> Option<i64> {
        (self.lo_offset >= 0).then_some(self.lo_offset)
    }

    /// The end for a consumer: the last stable offset with `read_committed`, else the high watermark.
    pub(super) fn end(self, read_committed: bool) -> Option<i64> {
        let end = if read_committed && self.ls_offset >= 0 {
            self.ls_offset
        } else {
            self.hi_offset
        };
        (end >= 0).then_some(end)
    }
}
