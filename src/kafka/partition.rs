//! How a partition is named.

use std::sync::Arc;

/// A partition of a topic.
pub type Partition = (Arc<str>, i32);
