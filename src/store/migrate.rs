//! The schema: numbered migrations, embedded in the program.

use std::collections::HashMap;

use sqlx::{Connection, PgConnection, migrate::Migrator};

use super::{
    Store,
    error::{Fault, StoreError},
};

static MIGRATOR: Migrator = sqlx::migrate!();

impl Store {
    /// Brings the schema up to date. Safe to call at any time, from several processes at once.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // A connection of its own: the migrator's lock belongs to the session and must end with it, also if a
        // migration fails; and migrations may take longer than a statement of a flush.
        let connect = self.options.connect_options()?;
        let mut connection = PgConnection::connect_with(&connect)
            .await
            .map_err(StoreError::when("connecting to migrate"))?;
        let result = MIGRATOR.run(&mut connection).await;
        let _ = connection.close().await;
        result.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(error) | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => {
                StoreError::sql("migrating", &error)
            }
            other => StoreError::new(Fault::Schema, "migrating", other),
        })
    }

    /// Whether every migration of this program, and no other, is applied.
    pub async fn schema_is_current(&self) -> Result<bool, StoreError> {
        const DOING: &str = "reading the schema's version";
        let applied = self
            .with(DOING, async |connection| {
                applied(connection).await.map_err(StoreError::when(DOING))
            })
            .await?;
        Ok(applied.len() == MIGRATOR.iter().count()
            && MIGRATOR
                .iter()
                .all(|m| applied.get(&m.version).is_some_and(|sum| **sum == *m.checksum)))
    }
}

/// The migrations that are applied, and their checksums.
async fn applied(connection: &mut PgConnection) -> Result<HashMap<i64, Vec<u8>>, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(HashMap::new());
    }
    let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success")
        .fetch_all(connection)
        .await?;
    Ok(applied.into_iter().collect())
}
