//! Where partitions start: a trait for whatever stores the offsets.

use std::{collections::HashMap, error::Error};

use futures::future::BoxFuture;

use super::partition::Partition;
use crate::post::Fingerprint;

/// Why the offsets can't be read or written now. The call is repeated until it succeeds.
pub type OffsetStoreError = Box<dyn Error + Send + Sync>;

/// A partition's next offset, and what tells the log that it is of from another one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredOffset {
    /// The offset of the record that is read next.
    pub next: i64,
    /// The id of the cluster that it was read from, where known.
    pub cluster: Option<String>,
    /// The record before it, where known.
    pub last: Option<Fingerprint>,
}

/// Stores the next offset to be read of each partition.
///
/// Every call is repeated with growing pauses until it succeeds or the partition is revoked; meanwhile the consumer keeps
/// its place in the group, and the other partitions go on.
pub trait OffsetStore: Send + Sync + 'static {
    /// What is stored of the partitions. A partition that is absent was never read.
    fn start_offsets<'a>(
        &'a self,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<HashMap<Partition, StoredOffset>, OffsetStoreError>>;

    /// The topics of which any partition has an offset.
    fn begun_topics(&self) -> BoxFuture<'_, Result<Vec<String>, OffsetStoreError>>;

    /// Stores that partitions which were never read start at these offsets of this cluster, all or none of them. Those that
    /// another consumer has begun meanwhile stay as they are.
    fn begin<'a>(
        &'a self,
        starts: &'a [(Partition, i64)],
        cluster: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>>;

    /// Stores that a partition goes on at `to` of this cluster, unless what is stored is no longer `from`.
    fn reset<'a>(
        &'a self,
        partition: &'a Partition,
        from: &'a StoredOffset,
        to: i64,
        cluster: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>>;

    /// Stores that the partitions' offsets are of this cluster.
    fn adopt<'a>(
        &'a self,
        partitions: &'a [Partition],
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>>;
}
