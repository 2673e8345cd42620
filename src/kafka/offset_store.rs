//! Where partitions start: a trait for whatever stores the offsets.

use std::{collections::HashMap, error::Error};

use futures::future::BoxFuture;

use super::partition::Partition;

/// Why the offsets can't be read or written now. The call is repeated until it succeeds.
pub type OffsetStoreError = Box<dyn Error + Send + Sync>;

/// Stores the next offset to be read of each partition.
///
/// Every call is repeated with growing pauses until it succeeds or the partition is revoked; meanwhile the consumer keeps
/// its place in the group, and the other partitions go on.
pub trait OffsetStore: Send + Sync + 'static {
    /// The next offsets of the partitions. A partition that is absent, or has `None`, was never read.
    fn start_offsets<'a>(
        &'a self,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<HashMap<Partition, Option<i64>>, OffsetStoreError>>;

    /// Stores that a partition which was never read starts at `offset`, unless another consumer was first. Returns the
    /// stored offset.
    fn begin<'a>(&'a self, topic: &'a str, partition: i32, offset: i64)
    -> BoxFuture<'a, Result<i64, OffsetStoreError>>;

    /// Stores that a partition goes on at `to` because the stored `from` is no longer at the broker, unless the stored
    /// offset has changed in the meantime. Returns the stored offset.
    fn reset<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        from: i64,
        to: i64,
    ) -> BoxFuture<'a, Result<i64, OffsetStoreError>>;
}
