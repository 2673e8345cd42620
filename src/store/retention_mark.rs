//! The table `retention_mark`: up to which day posts were ever dropped.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Store, error::StoreError};

impl Store {
    /// The moment up to which retention has ever dropped posts. Posts before it are late for good: the coarse
    /// rollups still count the dropped posts, but a second copy of one can no longer be recognised. `None` if nothing was
    /// dropped yet.
    pub async fn retired_until(&self) -> Result<Option<OffsetDateTime>, StoreError> {
        const DOING: &str = "reading retention_mark";
        self.with(DOING, async |connection| {
            retired_until(connection).await.map_err(StoreError::when(DOING))
        })
        .await
    }
}

/// See [`Store::retired_until`].
pub(super) async fn retired_until(connection: &mut PgConnection) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    sqlx::query_scalar("SELECT max(retired_until) FROM retention_mark")
        .fetch_one(connection)
        .await
}
