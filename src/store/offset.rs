//! The stored offset of each partition.

use std::{collections::HashMap, sync::Arc};

use sqlx::FromRow;
use time::OffsetDateTime;

use super::{Store, error::StoreError};
use crate::post::Fingerprint;

const DOING: &str = "reading offsets";

/// A partition's offset, and what identifies the log that it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOffset {
    /// Offset of the first record that is not committed.
    pub next: i64,
    /// The id of the Kafka cluster that it was read from, if known.
    pub cluster: Option<String>,
    /// The record at the offset before `next`, if that is the last one committed.
    pub last: Option<Fingerprint>,
}

#[derive(FromRow)]
struct Row {
    topic: String,
    partition: i32,
    next_offset: i64,
    cluster_id: Option<String>,
    record_offset: Option<i64>,
    record_timestamp: Option<OffsetDateTime>,
    record_hash: Option<i64>,
}

impl From<Row> for StoredOffset {
    fn from(row: Row) -> Self {
        // The offset may have been moved by hand, or by a version without fingerprints.
        let is_last = row.record_offset.and_then(|offset| offset.checked_add(1)) == Some(row.next_offset);
        Self {
            next: row.next_offset,
            cluster: row.cluster_id,
            last: row.record_hash.filter(|_| is_last).map(|hash| Fingerprint {
                timestamp: row.record_timestamp,
                hash: hash.cast_unsigned(),
            }),
        }
    }
}

impl Store {
    /// The stored offsets of these partitions. Those without one are absent from the map.
    pub async fn stored_offsets(
        &self,
        group: &str,
        partitions: &[(Arc<str>, i32)],
    ) -> Result<HashMap<(Arc<str>, i32), StoredOffset>, StoreError> {
        let (topics, numbers) = columns(partitions);
        let query = sqlx::query_as(
            "SELECT topic, partition, next_offset, cluster_id, record_offset, record_timestamp, record_hash
             FROM consumer_offset
             WHERE consumer_group = $1 AND (topic, partition) IN (SELECT * FROM unnest($2::text[], $3::int[]))",
        )
        .bind(group)
        .bind(topics)
        .bind(numbers);
        let rows: Vec<Row> = self
            .run(DOING, async |connection| query.fetch_all(connection).await)
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| ((row.topic.as_str().into(), row.partition), row.into()))
            .collect())
    }

    /// The next offsets of these partitions. Those without one are absent from the map.
    pub async fn next_offsets(
        &self,
        group: &str,
        partitions: &[(Arc<str>, i32)],
    ) -> Result<HashMap<(Arc<str>, i32), i64>, StoreError> {
        let stored = self.stored_offsets(group, partitions).await?;
        Ok(stored
            .into_iter()
            .map(|(partition, stored)| (partition, stored.next))
            .collect())
    }

    /// The topics for which the group has offsets.
    pub async fn topics_with_offsets(&self, group: &str) -> Result<Vec<String>, StoreError> {
        let query =
            sqlx::query_scalar("SELECT DISTINCT topic FROM consumer_offset WHERE consumer_group = $1").bind(group);
        self.run(DOING, async |connection| query.fetch_all(connection).await)
            .await
    }

    /// Stores the group's start offsets for partitions of a cluster, in one statement. Partitions that have an offset
    /// already keep it.
    pub async fn insert_start_offsets(
        &self,
        group: &str,
        starts: &[((Arc<str>, i32), i64)],
        cluster: Option<&str>,
    ) -> Result<(), StoreError> {
        let mut starts: Vec<_> = starts.iter().collect();
        // Sorted, so that two members that start at the same time can't deadlock.
        starts.sort();
        let (topics, numbers) = columns(starts.iter().map(|(partition, _)| partition));
        let insert = sqlx::query(
            "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, cluster_id)
             SELECT $1, topic, partition, start, $5
             FROM unnest($2::text[], $3::int[], $4::bigint[]) AS n (topic, partition, start)
             ON CONFLICT DO NOTHING",
        )
        .bind(group)
        .bind(topics)
        .bind(numbers)
        .bind(starts.iter().map(|(_, start)| *start).collect::<Vec<_>>())
        .bind(cluster);
        self.run("writing start offsets", async |connection| {
            insert.execute(connection).await
        })
        .await?;
        Ok(())
    }

    /// Changes a group's offset of a partition from `from` to `to`, in this cluster, unless it was changed in the meantime.
    pub async fn reset_offset(
        &self,
        group: &str,
        (topic, partition): &(Arc<str>, i32),
        from: &StoredOffset,
        to: i64,
        cluster: Option<&str>,
    ) -> Result<(), StoreError> {
        let update = sqlx::query(
            "UPDATE consumer_offset
             SET next_offset = $5, cluster_id = $7, record_offset = NULL, record_timestamp = NULL, record_hash = NULL,
                 updated_at = now()
             WHERE consumer_group = $1 AND topic = $2 AND partition = $3 AND next_offset = $4
               AND cluster_id IS NOT DISTINCT FROM $6",
        )
        .bind(group)
        .bind(&**topic)
        .bind(partition)
        .bind(from.next)
        .bind(to)
        .bind(&from.cluster)
        .bind(cluster);
        self.run("resetting an offset", async |connection| {
            update.execute(connection).await
        })
        .await?;
        Ok(())
    }

    /// Records that the offsets of these partitions belong to this cluster.
    pub async fn adopt_offsets(
        &self,
        group: &str,
        partitions: &[(Arc<str>, i32)],
        cluster: &str,
    ) -> Result<(), StoreError> {
        let (topics, numbers) = columns(partitions);
        let update = sqlx::query(
            "UPDATE consumer_offset SET cluster_id = $4
             WHERE consumer_group = $1 AND (topic, partition) IN (SELECT * FROM unnest($2::text[], $3::int[]))",
        )
        .bind(group)
        .bind(topics)
        .bind(numbers)
        .bind(cluster);
        self.run("writing the cluster id of offsets", async |connection| {
            update.execute(connection).await
        })
        .await?;
        Ok(())
    }
}

/// Partitions as arrays, to be bound as parameters.
fn columns<'a>(partitions: impl IntoIterator<Item = &'a (Arc<str>, i32)>) -> (Vec<&'a str>, Vec<i32>) {
    partitions
        .into_iter()
        .map(|(topic, partition)| (&**topic, *partition))
        .unzip()
}
