//! Where partitions start: asked of whoever keeps the offsets.

use std::{collections::HashMap, error::Error};

use futures::future::BoxFuture;

use super::partition::Partition;

/// Why an answer can't be had now. It is asked again until it can.
pub type OffsetStoreError = Box<dyn Error + Send + Sync>;

/// The keeper of the offsets: the next offset to be read of each partition.
///
/// Every call is repeated with growing pauses until it succeeds or the partition is taken away;
/// meanwhile the consumer keeps its place in the group, and the other partitions flow.
pub trait OffsetStore: Send + Sync + 'static {
    /// The next offsets of the partitions. A partition that is absent, or has `None`, was never read.
    fn start_offsets<'a>(
        &'a self,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<HashMap<Partition, Option<i64>>, OffsetStoreError>>;

    /// Writes down that a partition never read before starts at `offset`. Where another consumer
    /// was first, its offset stands. Returns what stands.
    fn begin<'a>(&'a self, topic: &'a str, partition: i32, offset: i64)
    -> BoxFuture<'a, Result<i64, OffsetStoreError>>;

    /// Writes down that a partition goes on at `to` because `from`, which stood, is no longer at
    /// the broker. Only where `from` still stands; returns what stands afterwards.
    fn reset<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        from: i64,
        to: i64,
    ) -> BoxFuture<'a, Result<i64, OffsetStoreError>>;
}
