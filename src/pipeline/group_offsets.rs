//! The consumer's [`OffsetStore`], backed by Postgres. It lets `kafka` and `store` stay independent of each other.

use std::{collections::HashMap, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};

use crate::{
    kafka::{OffsetStore, OffsetStoreError, Partition, StartOffset},
    store::{self, Store},
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
    ) -> BoxFuture<'a, Result<HashMap<Partition, StartOffset>, OffsetStoreError>> {
        async move {
            let stored = self.store.stored_offsets(&self.group, partitions).await?;
            Ok(stored
                .into_iter()
                .map(|(partition, store::StoredOffset { next, cluster, last })| {
                    (partition, StartOffset { next, cluster, last })
                })
                .collect())
        }
        .boxed()
    }

    fn begun_topics(&self) -> BoxFuture<'_, Result<Vec<String>, OffsetStoreError>> {
        async move { Ok(self.store.begun_topics(&self.group).await?) }.boxed()
    }

    fn begin<'a>(
        &'a self,
        starts: &'a [(Partition, i64)],
        cluster: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
        async move { Ok(self.store.begin_offsets(&self.group, starts, cluster).await?) }.boxed()
    }

    fn reset<'a>(
        &'a self,
        partition: &'a Partition,
        from: &'a StartOffset,
        to: i64,
        cluster: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), OffsetStoreError>> {
        async move {
            let StartOffset {
                next,
                cluster: of,
                last,
            } = from.clone();
            let from = store::StoredOffset {
                next,
                cluster: of,
                last,
            };
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
