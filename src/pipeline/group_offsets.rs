//! The consumer's [`OffsetStore`], backed by Postgres. It lets `kafka` and `store` stay independent of each other.

use std::{collections::HashMap, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};

use crate::{
    kafka::{OffsetStore, OffsetStoreError, Partition, StartOffset},
    store::{Store, StoredOffset},
};

impl From<StoredOffset> for StartOffset {
    fn from(StoredOffset { next, cluster, last }: StoredOffset) -> Self {
        Self { next, cluster, last }
    }
}

impl From<StartOffset> for StoredOffset {
    fn from(StartOffset { next, cluster, last }: StartOffset) -> Self {
        Self { next, cluster, last }
    }
}

/// The offsets of one consumer group in Postgres.
pub(super) struct GroupOffsets {
    pub(super) store: Store,
    pub(super) group: Arc<str>,
}

impl OffsetStore for GroupOffsets {
    fn start_offsets<'a>(
        &'a self,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<HashMap<Partition, StartOffset>, OffsetStoreError>> {
        async move {
            let stored = self.store.stored_offsets(&self.group, partitions).await?;
            Ok(stored
                .into_iter()
                .map(|(partition, stored)| (partition, stored.into()))
                .collect())
        }
        .boxed()
    }

    fn topics_with_offsets(&self) -> BoxFuture<'_, Result<Vec<String>, OffsetStoreError>> {
        async move { Ok(self.store.topics_with_offsets(&self.group).await?) }.boxed()
    }

    fn insert_start_offsets<'a>(
        &'a self,
        starts: &'a [(Partition, i64)],
        cluster: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
        async move { Ok(self.store.insert_start_offsets(&self.group, starts, cluster).await?) }.boxed()
    }

    fn reset<'a>(
        &'a self,
        partition: &'a Partition,
        from: &'a StartOffset,
        to: i64,
        cluster: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
        async move {
            let from: StoredOffset = from.clone().into();
            Ok(self
                .store
                .reset_offset(&self.group, partition, &from, to, cluster)
                .await?)
        }
        .boxed()
    }

    fn adopt<'a>(
        &'a self,
        partitions: &'a [Partition],
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
        async move { Ok(self.store.adopt_offsets(&self.group, partitions, cluster).await?) }.boxed()
    }
}
