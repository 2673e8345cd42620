//! How far retention has ever come: the table `retention_mark`.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Store, error::StoreError};

impl Store {
    /// How far retention has ever come: posts before this moment are late for good, as the coarse rollups count what was
    /// dropped while nothing is left to tell a second copy by. `None` while nothing was dropped.
    pub async fn retired_until(&self) -> Result<Option<OffsetDateTime>, StoreError> {
        const DOING: &str = "reading how far retention has come";
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
