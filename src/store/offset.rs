//! Where each partition stands.

use std::{collections::HashMap, sync::Arc};

use super::{Store, error::StoreError};

const DOING: &str = "reading offsets";

impl Store {
    /// The next offset of each of these partitions that the group has one for.
    pub async fn start_offsets(
        &self,
        group: &str,
        partitions: &[(Arc<str>, i32)],
    ) -> Result<HashMap<(Arc<str>, i32), i64>, StoreError> {
        let topics: Vec<&str> = partitions.iter().map(|(topic, _)| &**topic).collect();
        let numbers: Vec<i32> = partitions.iter().map(|&(_, partition)| partition).collect();
        let query = sqlx::query_as(
            "SELECT topic, partition, next_offset FROM consumer_offset
             WHERE consumer_group = $1 AND (topic, partition) IN (SELECT * FROM unnest($2::text[], $3::int[]))",
        )
        .bind(group)
        .bind(topics)
        .bind(numbers);
        let rows: Vec<(String, i32, i64)> = self
            .with(DOING, async |connection| {
                query.fetch_all(connection).await.map_err(StoreError::when(DOING))
            })
            .await?;
        Ok(rows
            .into_iter()
            .map(|(topic, partition, next)| ((topic.into(), partition), next))
            .collect())
    }

    /// Writes down where the group starts with a partition, unless it has an offset already; returns the one
    /// that holds.
    pub async fn begin_offset(&self, group: &str, topic: &str, partition: i32, start: i64) -> Result<i64, StoreError> {
        let insert = sqlx::query(
            "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
        )
        .bind(group)
        .bind(topic)
        .bind(partition)
        .bind(start);
        let select = sqlx::query_scalar(
            "SELECT next_offset FROM consumer_offset WHERE consumer_group = $1 AND topic = $2 AND partition = $3",
        )
        .bind(group)
        .bind(topic)
        .bind(partition);
        self.with(DOING, async |connection| {
            insert
                .execute(&mut *connection)
                .await
                .map_err(StoreError::when("writing down a start offset"))?;
            select.fetch_one(connection).await.map_err(StoreError::when(DOING))
        })
        .await
    }

    /// Moves a group's offset of a partition from `from`, where it stands, to `to`; returns the one that holds.
    pub async fn reset_offset(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
        from: i64,
        to: i64,
    ) -> Result<i64, StoreError> {
        const DOING: &str = "resetting an offset";
        let update = sqlx::query(
            "UPDATE consumer_offset SET next_offset = $5, updated_at = now()
             WHERE consumer_group = $1 AND topic = $2 AND partition = $3 AND next_offset = $4",
        )
        .bind(group)
        .bind(topic)
        .bind(partition)
        .bind(from)
        .bind(to);
        self.with(DOING, async |connection| {
            update.execute(connection).await.map_err(StoreError::when(DOING))
        })
        .await?;
        self.begin_offset(group, topic, partition, to).await
    }
}
