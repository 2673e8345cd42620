//! The consumer's start offsets, read from Postgres: the only place where `kafka` and `store` meet.

use std::{collections::HashMap, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};

use crate::{
    kafka::{OffsetStore, OffsetStoreError, Partition},
    store::Store,
};

/// The offsets of one consumer group in Postgres.
pub(super) struct GroupOffsets {
    pub(super) store: Store,
    pub(super) group: Arc<str>,
}

impl OffsetStore for GroupOffsets {
    fn start_offsets<'a>(
        &'a self,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<HashMap<Partition, Option<i64>>, OffsetStoreError>> {
        async move {
            let known = self.store.start_offsets(&self.group, partitions).await?;
            Ok(partitions
                .iter()
                .map(|partition| (partition.clone(), known.get(partition).copied()))
                .collect())
        }
        .boxed()
    }

    fn begin<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        offset: i64,
    ) -> BoxFuture<'a, Result<i64, OffsetStoreError>> {
        async move { Ok(self.store.begin_offset(&self.group, topic, partition, offset).await?) }.boxed()
    }

    fn reset<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        from: i64,
        to: i64,
    ) -> BoxFuture<'a, Result<i64, OffsetStoreError>> {
        async move { Ok(self.store.reset_offset(&self.group, topic, partition, from, to).await?) }.boxed()
    }
}
