//! The trait for whatever stores the offsets at which partitions start.

use std::{collections::HashMap, error::Error};

use futures::future::BoxFuture;

use crate::kafka::partition::Partition;
use crate::post::Fingerprint;

/// Why the offsets can't be read or written at the moment. The call is retried until it succeeds.
pub type OffsetStoreError = Box<dyn Error + Send + Sync>;

/// A partition's next offset, and what identifies the log to which it belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartOffset {
    /// The offset of the next record to read.
    pub next: i64,
    /// The id of the cluster to which the offset belongs, if known.
    pub cluster: Option<String>,
    /// The fingerprint of the record before `next`, if known.
    pub last: Option<Fingerprint>,
}

/// Stores the next offset to read of each partition.
///
/// Every call is retried with backoff until it succeeds or the partition is revoked; meanwhile the consumer stays in the
/// group, and the other partitions continue.
pub trait OffsetStore: Send + Sync + 'static {
    /// The stored offsets of the partitions. A partition that is absent was never read.
    fn start_offsets<'a>(
        &'a self,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<HashMap<Partition, StartOffset>, OffsetStoreError>>;

    /// The topics of which at least one partition has an offset.
    fn topics_with_offsets(&self) -> BoxFuture<'_, Result<Vec<String>, OffsetStoreError>>;

    /// Stores the start offsets, in this cluster, of partitions that were never read: all of them or none. Offsets that
    /// another consumer has stored in the meantime are kept.
    fn insert_start_offsets<'a>(
        &'a self,
        starts: &'a [(Partition, i64)],
        cluster: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>>;

    /// Replaces a partition's stored offset `from` by `to` in this cluster. Does nothing if the stored offset is no longer
    /// `from`.
    fn reset<'a>(
        &'a self,
        partition: &'a Partition,
        from: &'a StartOffset,
        to: i64,
        cluster: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>>;

    /// Marks the partitions' stored offsets as belonging to this cluster.
    fn adopt<'a>(
        &'a self,
        partitions: &'a [Partition],
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>>;
}
