//! The schema: numbered migrations, embedded in the program, and which programs may write to which schema version.
//!
//! A schema's version is the number of its last migration, and a program's that of the last migration that it has. Each
//! migration from 14 on states in `schema_compat` which programs may continue to write once it is applied. If a migration
//! is additive, a new version is rolled out by migrating first and then replacing the members one by one. Other migrations
//! stop members that are too old, at their start and at their next flush.

use std::collections::BTreeMap;

use sqlx::{Connection, PgConnection, migrate::MigrateError};

use super::{
    Store,
    error::{StoreError, StoreErrorKind},
    partition::lock_partitions,
    schema::{MIGRATOR, Schema, SchemaError, schema_version},
};

/// The advisory lock for migrating. The number has no meaning.
const MIGRATION_LOCK: i64 = 0x6d6f_6f64_6d69_6772;

/// An applied migration.
#[derive(Debug, Clone)]
struct Applied {
    checksum: Vec<u8>,
    /// Its value in `schema_compat`.
    min_writer: Option<i64>,
}

impl Store {
    /// Brings the schema up to date. A newer schema that lets this program write is left as it is. Safe to call at any
    /// time, from several processes at once. Returns the state found before.
    ///
    /// # Errors
    /// As [`Self::schema`]; or a migration fails, and then none is applied.
    pub async fn migrate(&self) -> Result<Schema, StoreError> {
        // A separate connection without timeouts: migrations may take longer than a statement of a flush.
        let connect = self.options.connect_options()?;
        let mut connection = PgConnection::connect_with(&connect)
            .await
            .map_err(StoreError::when("connecting to migrate"))?;
        let result = migrate(&mut connection).await;
        let _ = connection.close().await;
        result
    }

    /// Compares the database's schema with this program's.
    ///
    /// # Errors
    /// [`StoreErrorKind::Schema`] if this program must not write to it: it belongs to another program, or it is too new for programs
    /// of this version.
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        const DOING: &str = "reading the schema's version";
        let applied = self.run(DOING, async |connection| applied(connection).await).await?;
        compare(&applied).map_err(|why| StoreError::new(StoreErrorKind::Schema, DOING, why))
    }
}

/// Applies all missing migrations in one transaction.
async fn migrate(connection: &mut PgConnection) -> Result<Schema, StoreError> {
    const DOING: &str = "migrating";
    let mut transaction = connection.begin().await.map_err(StoreError::when(DOING))?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *transaction)
        .await
        .map_err(StoreError::when(DOING))?;
    let applied = applied(&mut transaction).await.map_err(StoreError::when(DOING))?;
    let found = compare(&applied).map_err(|why| StoreError::new(StoreErrorKind::Schema, DOING, why))?;
    if found == Schema::Behind {
        hold_flushes(&mut transaction, &applied)
            .await
            .map_err(StoreError::when(DOING))?;
        MIGRATOR.run(&mut *transaction).await.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => StoreError::sql(DOING, &error),
            other => StoreError::new(StoreErrorKind::Schema, DOING, other),
        })?;
    }
    transaction.commit().await.map_err(StoreError::when(DOING))?;
    Ok(found)
}

/// Waits for running flushes and blocks new ones. Flushes lock offsets first, so none can hold a table that a migration is
/// about to alter while it waits for another that is already altered. Blocked flushes then read the new `schema_compat`.
async fn hold_flushes(tx: &mut PgConnection, applied: &BTreeMap<i64, Applied>) -> Result<(), sqlx::Error> {
    if applied.is_empty() {
        return Ok(());
    }
    sqlx::raw_sql("LOCK TABLE consumer_offset IN EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await?;
    lock_partitions(tx).await
}

/// Compares the applied migrations with this program's; an error says why this program must not write.
fn compare(applied: &BTreeMap<i64, Applied>) -> Result<Schema, SchemaError> {
    let mine = schema_version();
    let mut missing = false;
    for migration in MIGRATOR.iter() {
        match applied.get(&migration.version) {
            None => missing = true,
            Some(found) if *found.checksum != *migration.checksum => {
                return Err(SchemaError::Foreign(migration.version));
            }
            Some(_) => {}
        }
    }
    let mut newest = None;
    for (&version, found) in applied {
        if MIGRATOR.version_exists(version) {
            continue;
        }
        if version < mine {
            return Err(SchemaError::Unknown(version));
        }
        match found.min_writer {
            Some(least) if least <= mine => newest = Some(version),
            Some(least) => return Err(SchemaError::Outdated(least)),
            None => return Err(SchemaError::Silent(version)),
        }
    }
    match newest {
        Some(version) if missing => Err(SchemaError::Gap(version)),
        Some(version) => Ok(Schema::Ahead { version }),
        None if missing => Ok(Schema::Behind),
        None => Ok(Schema::Current),
    }
}

/// The migrations that are applied.
async fn applied(connection: &mut PgConnection) -> Result<BTreeMap<i64, Applied>, sqlx::Error> {
    let (migrations, compat): (bool, bool) =
        sqlx::query_as("SELECT to_regclass('_sqlx_migrations') IS NOT NULL, to_regclass('schema_compat') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await?;
    if !migrations {
        return Ok(BTreeMap::new());
    }
    let sql = if compat {
        "SELECT m.version, m.checksum, c.min_writer
         FROM _sqlx_migrations m LEFT JOIN schema_compat c ON c.version = m.version WHERE m.success"
    } else {
        "SELECT version, checksum, NULL::bigint FROM _sqlx_migrations WHERE success"
    };
    let applied: Vec<(i64, Vec<u8>, Option<i64>)> = sqlx::query_as(sql).fetch_all(connection).await?;
    Ok(applied
        .into_iter()
        .map(|(version, checksum, min_writer)| (version, Applied { checksum, min_writer }))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current() -> BTreeMap<i64, Applied> {
        MIGRATOR
            .iter()
            .map(|migration| {
                let checksum = migration.checksum.to_vec();
                (
                    migration.version,
                    Applied {
                        checksum,
                        min_writer: None,
                    },
                )
            })
            .collect()
    }

    fn newer(min_writer: Option<i64>) -> Applied {
        Applied {
            checksum: Vec::new(),
            min_writer,
        }
    }

    #[test]
    fn a_newer_schema_is_accepted_if_its_min_writer_allows_it() {
        let mine = schema_version();
        assert_eq!(compare(&BTreeMap::new()), Ok(Schema::Behind));
        assert_eq!(compare(&current()), Ok(Schema::Current));
        let mut applied = current();
        applied.insert(mine + 1, newer(Some(mine)));
        applied.insert(mine + 2, newer(Some(mine - 1)));
        assert_eq!(compare(&applied), Ok(Schema::Ahead { version: mine + 2 }));
        applied.insert(mine + 3, newer(Some(mine + 3)));
        assert_eq!(compare(&applied), Err(SchemaError::Outdated(mine + 3)));
        applied.insert(mine + 3, newer(None));
        assert_eq!(compare(&applied), Err(SchemaError::Silent(mine + 3)));
    }

    #[test]
    fn a_foreign_schema_is_refused() {
        let mine = schema_version();
        let mut applied = current();
        applied.insert(mine, newer(Some(mine)));
        assert_eq!(compare(&applied), Err(SchemaError::Foreign(mine)));
        let mut applied = current();
        applied.remove(&1);
        applied.insert(mine + 1, newer(Some(mine)));
        assert_eq!(compare(&applied), Err(SchemaError::Gap(mine + 1)));
        let mut applied = current();
        applied.insert(5, newer(Some(5)));
        assert!(compare(&applied).is_err(), "an unknown migration between known ones");
    }

    #[test]
    fn every_migration_states_its_min_writer() {
        for migration in MIGRATOR.iter().filter(|migration| migration.version >= 14) {
            let says = format!(
                "INSERT INTO schema_compat (version, min_writer) VALUES ({}, ",
                migration.version
            );
            assert!(
                migration.sql.as_str().contains(&says),
                "migration {} must state min_writer: {says}...)",
                migration.version
            );
        }
    }
}
