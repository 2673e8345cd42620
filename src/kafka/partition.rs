//! The name of a partition.

use std::sync::Arc;

/// A topic and the number of one of its partitions.
pub type Partition = (Arc<str>, i32);
