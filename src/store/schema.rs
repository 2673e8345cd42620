//! The schema's version, and how the database's schema stands to this program's.

use std::sync::LazyLock;

use sqlx::migrate::Migrator;

/// Without the migrator's own lock, which belongs to the session: [`super::Store::migrate`] takes one that ends with its
/// transaction.
pub(super) static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false);
    migrator
});

/// How the database's schema stands to this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Migrations are still to be applied.
    Behind,
    /// All of this program's migrations are applied, and no other.
    Current,
    /// Newer migrations are applied as well, and each of them lets programs of this version go on writing.
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
    /// A migration is applied whose text is not this program's.
    #[error(
        "migration {0} is not this program's: the database belongs to another program, or to a version of this one that was \
         never released"
    )]
    Foreign(i64),
    /// A migration is applied that this program should know.
    #[error("migration {0} is unknown to this program, which has later ones")]
    Unknown(i64),
    /// The schema asks for programs of that version or later.
    #[error(
        "the schema asks for programs of schema version {0} or later, and this one's is {own}: run the moodstream that migrated it",
        own = schema_version()
    )]
    Outdated(i64),
    /// A newer migration has no row in `schema_compat`.
    #[error("migration {0} is newer than this program and doesn't say which programs it lets write")]
    Silent(i64),
    /// A newer migration is applied, earlier ones are not.
    #[error("migration {0} is applied, and some of this program's earlier ones are not")]
    Gap(i64),
}
