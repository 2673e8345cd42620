//! The schema's version, and how the database's schema compares with this program's.

use std::sync::LazyLock;

use sqlx::migrate::Migrator;

/// Without the migrator's own lock, which is a session-level one: [`super::Store::migrate`] takes a lock that ends with its
/// transaction.
pub(super) static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false);
    migrator
});

/// How the database's schema compares with this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Some of this program's migrations are not applied yet.
    Behind,
    /// Exactly this program's migrations are applied.
    Current,
    /// Newer migrations are applied as well, and each of them lets programs of this version write.
    Ahead {
        /// The last of them.
        version: i64,
    },
}

/// The version of this program's schema: the number of its last migration.
#[must_use]
pub fn schema_version() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Why a program of this version must not write to a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A migration is applied whose checksum is not that of this program's.
    #[error(
        "migration {0} differs from this program's: the database belongs to another program, or to an unreleased version of \
         this one"
    )]
    Foreign(i64),
    /// A migration is applied that this program should know.
    #[error("migration {0} is unknown to this program, which has later ones")]
    Unknown(i64),
    /// The schema requires programs of that version or later.
    #[error(
        "the schema requires programs of schema version {0} or later, but this one's is {own}: run the version that migrated it",
        own = schema_version()
    )]
    Outdated(i64),
    /// A newer migration has no row in `schema_compat`.
    #[error("migration {0} is newer than this program and has no row in schema_compat")]
    Silent(i64),
    /// A newer migration is applied, but not all earlier ones are.
    #[error("migration {0} is applied, but some of this program's earlier migrations are not")]
    Gap(i64),
}
