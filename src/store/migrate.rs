//! The schema: numbered migrations, embedded in the program.

use std::{collections::HashMap, sync::LazyLock};

use sqlx::{
    Connection, PgConnection,
    migrate::{MigrateError, Migrator},
};

use super::{
    Store,
    error::{Fault, StoreError},
};

/// Without the migrator's own lock, which belongs to the session: [`Store::migrate`] takes one that ends with its
/// transaction.
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false);
    migrator
});

/// The advisory lock for migrating. The number has no meaning.
const MIGRATION_LOCK: i64 = 0x6d6f_6f64_6d69_6772;

impl Store {
    /// Brings the schema up to date. Safe to call at any time, from several processes at once.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        const DOING: &str = "migrating";
        // A connection of its own: migrations may take longer than a statement of a flush.
        let connect = self.options.connect_options()?;
        let mut connection = PgConnection::connect_with(&connect)
            .await
            .map_err(StoreError::when("connecting to migrate"))?;
        let result = migrate(&mut connection).await;
        let _ = connection.close().await;
        result.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => StoreError::sql(DOING, &error),
            other => StoreError::new(Fault::Schema, DOING, other),
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

/// All of them or none: what fails leaves the schema as it was.
async fn migrate(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *transaction)
        .await?;
    MIGRATOR.run(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
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
