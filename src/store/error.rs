//! Errors from Postgres, classified by what the caller can do about them.

use std::{fmt, io, sync::Arc};

use sqlx::postgres::{PgConnectOptions, PgDatabaseError};

use super::schema::SchemaError;

/// The kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// There is no connection, or it broke, or the server is starting, stopping or out of connection slots.
    Unreachable,
    /// A deadlock, a serialization failure, a lock timeout, or a partition that was dropped in the meantime.
    Busy,
    /// The server cancelled the statement, because it exceeded the statement timeout or somebody asked for it. A smaller
    /// transaction may succeed.
    Slow,
    /// The server is out of disk space.
    NoSpace,
    /// The server is out of memory, or its lock table is full: a smaller transaction may succeed.
    NoMemory,
    /// The server accepts only reads: it is a standby, or a demoted primary.
    ReadOnly,
    /// The user or password is wrong, or a privilege is missing.
    Denied,
    /// The database, a table or a column does not exist: it was not migrated, or it is another schema.
    Schema,
    /// The connection settings are invalid.
    Settings,
    /// A row was refused: a value is out of range, an index entry is too long, or a constraint or trigger that somebody
    /// added rejects it. [`super::Store::takes_plain_rows`] tells whether the row itself is the cause.
    Row,
    /// Anything else, including bugs in this program.
    Other,
}

impl StoreErrorKind {
    /// Whether the same call may succeed later with the same input.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Busy | Self::Slow | Self::NoSpace | Self::NoMemory | Self::ReadOnly
        )
    }
}

/// A failure of the database, in one line.
#[derive(Debug, thiserror::Error)]
#[error("database: {doing}: {detail}")]
pub struct StoreError {
    /// The kind of failure.
    pub kind: StoreErrorKind,
    doing: &'static str,
    /// Includes sqlx's message, which is therefore not also the `source`: it would be shown twice.
    detail: String,
}

impl StoreError {
    pub(super) fn new(kind: StoreErrorKind, doing: &'static str, detail: impl fmt::Display) -> Self {
        Self {
            kind,
            doing,
            detail: detail.to_string(),
        }
    }

    /// The error of a step of a flush at an armed fail point.
    #[cfg(all(feature = "fail-points", debug_assertions))]
    pub(crate) fn at_fail_point(name: &str) -> Self {
        Self::new(StoreErrorKind::Unreachable, "at a fail point", name)
    }

    /// Whether the same call may succeed later: retry it with backoff.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }

    pub(super) fn sql(doing: &'static str, error: &sqlx::Error) -> Self {
        let kind = classify(error);
        let hint = match kind {
            StoreErrorKind::NoSpace => " (the server is out of disk space)",
            StoreErrorKind::NoMemory => " (the server is out of memory, or its lock table is full)",
            StoreErrorKind::ReadOnly => " (the server is read-only: it is a standby or a demoted primary)",
            StoreErrorKind::Denied => " (check user, password and grants)",
            StoreErrorKind::Schema if is_code(error, "3D000") => " (create it with CREATE DATABASE)",
            StoreErrorKind::Schema => " (run `moodstream migrate`)",
            _ if behind_pooler(error) => {
                " (is there a connection pooler? It must give each connection its own session: pool_mode = session)"
            }
            _ => "",
        };
        let detail = match error {
            sqlx::Error::Database(db) => {
                let code = db.code().unwrap_or_default();
                // Most useful for a full lock table, where it names max_locks_per_transaction.
                let server_hint = db.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::hint);
                let server_hint = server_hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                format!("{} [{code}]{hint}{server_hint}", db.message()).replace('\n', " ")
            }
            sqlx::Error::PoolTimedOut => "no connection within the connect timeout".to_owned(),
            other => format!("{other}{hint}").replace('\n', " "),
        };
        Self { kind, doing, detail }
    }

    /// Adds the server that could not be connected to.
    pub(super) fn to(mut self, options: &PgConnectOptions) -> Self {
        let (host, port, user) = (options.get_host(), options.get_port(), options.get_username());
        self.detail = format!("{} (server {host}, port {port}, user {user})", self.detail);
        self
    }

    /// For `map_err`: adds what was being done when it failed.
    pub(super) fn when(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |error| Self::sql(doing, &error)
    }
}

fn is_code(error: &sqlx::Error, code: &str) -> bool {
    matches!(error, sqlx::Error::Database(db) if db.code().as_deref() == Some(code))
}

/// Whether a prepared statement is missing or exists already, or a startup parameter is refused: the symptoms of a pooler
/// that gives a connection another session.
fn behind_pooler(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(db) => match db.code().as_deref() {
            Some("26000" | "42P05") => true,
            Some("08P01") => db.message().contains("startup parameter"),
            _ => false,
        },
        _ => false,
    }
}

fn classify(error: &sqlx::Error) -> StoreErrorKind {
    match error {
        // A missing partition has the same code, but no constraint name.
        sqlx::Error::Database(db) if db.is_check_violation() && db.constraint().is_some() => StoreErrorKind::Row,
        sqlx::Error::Database(db) => db.code().map_or(StoreErrorKind::Other, |code| classify_code(&code)),
        sqlx::Error::Io(io) if io.kind() == io::ErrorKind::InvalidInput => StoreErrorKind::Settings,
        // A connection cut in the middle of a message causes a protocol error.
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => StoreErrorKind::Unreachable,
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => StoreErrorKind::Settings,
        _ => StoreErrorKind::Other,
    }
}

/// By SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn classify_code(code: &str) -> StoreErrorKind {
    match code {
        // serialization_failure, deadlock_detected, lock_not_available
        "40001" | "40P01" | "55P03" => StoreErrorKind::Busy,
        // query_canceled: by statement_timeout or by pg_cancel_backend, which differ only in the localized message
        "57014" => StoreErrorKind::Slow,
        // check_violation without a constraint: "no partition of relation found for row", when retention dropped the
        // day between the check and the write. The next attempt creates it again.
        "23514" => StoreErrorKind::Busy,
        "25006" => StoreErrorKind::ReadOnly,
        // invalid_authorization_specification, invalid_password, insufficient_privilege
        "28000" | "28P01" | "42501" => StoreErrorKind::Denied,
        // invalid_catalog_name, undefined_table, undefined_column, undefined_object, undefined_function
        "3D000" | "42P01" | "42703" | "42704" | "42883" => StoreErrorKind::Schema,
        // idle_in_transaction_session_timeout, too_many_connections
        "25P03" | "53300" => StoreErrorKind::Unreachable,
        // out_of_memory: also raised when the lock table is full
        "53200" => StoreErrorKind::NoMemory,
        // configuration_limit_exceeded, such as temp_file_limit
        "53400" => StoreErrorKind::Busy,
        _ if code.starts_with("53") => StoreErrorKind::NoSpace,
        // raise_exception, assert_failure: a trigger that a user added
        "P0001" | "P0004" => StoreErrorKind::Row,
        // data exception, integrity constraint violation, program limit exceeded
        _ if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => StoreErrorKind::Row,
        _ if code.starts_with("08") || code.starts_with("57P") => StoreErrorKind::Unreachable,
        _ => StoreErrorKind::Other,
    }
}

/// A range that was not stored because another consumer has moved its partition's offset on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FencedRange {
    /// Kafka topic.
    pub topic: Arc<str>,
    /// Kafka partition.
    pub partition: i32,
    /// The partition's offset as this consumer knew it.
    pub expected: i64,
    /// The partition's offset in the database; `None` if the group has none.
    pub found: Option<i64>,
}

impl fmt::Display for FencedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} (expected offset {}, found ",
            self.topic, self.partition, self.expected
        )?;
        match self.found {
            Some(found) => write!(f, "{found})"),
            None => f.write_str("none)"),
        }
    }
}

/// Why a flush was not stored. No part of it is stored then, unless its commit took place and only the response was lost: see
/// [`FlushError::is_transient`].
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// Another consumer has moved the offsets of these partitions on: drop their ranges ([`super::Flush::drop_partition`])
    /// and flush the rest.
    #[error("another consumer has advanced the offsets of {}", list(.0))]
    Fenced(Vec<FencedRange>),
    /// Posts and deletions touch more days than one transaction may: split the flush. No earlier attempt has stored any
    /// of it.
    #[error(
        "the flush touches posts of {found} days, but at most {limit} are allowed, as each day is a partition to lock"
    )]
    TooManyDays {
        /// Days in the flush.
        found: usize,
        /// The most there may be.
        limit: usize,
    },
    /// The flush is inconsistent or exceeds the limits of the tables: a bug in the caller.
    #[error("invalid flush: {0}")]
    Invalid(String),
    /// The rollups no longer match the posts, because something else has changed one of them.
    #[error("emotion_rollup does not match post in {0}: somebody changed one of the tables by hand")]
    Inconsistent(String),
    /// The schema was migrated to a version that this program must not write to.
    #[error("{0}")]
    Outdated(SchemaError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FlushError {
    /// Whether the same flush may succeed later: retry it with backoff. This is also safe after a commit whose response
    /// was lost, because the next attempt finds out whether it took place.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }
}

fn list(ranges: &[FencedRange]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_classified() {
        let cases = [
            ("40P01", StoreErrorKind::Busy),
            ("53100", StoreErrorKind::NoSpace),
            ("53200", StoreErrorKind::NoMemory),
            ("53300", StoreErrorKind::Unreachable),
            ("53400", StoreErrorKind::Busy),
            ("57P01", StoreErrorKind::Unreachable),
            ("57P03", StoreErrorKind::Unreachable),
            ("55P03", StoreErrorKind::Busy),
            ("57014", StoreErrorKind::Slow),
            ("08006", StoreErrorKind::Unreachable),
            ("25006", StoreErrorKind::ReadOnly),
            ("42501", StoreErrorKind::Denied),
            ("28P01", StoreErrorKind::Denied),
            ("42P01", StoreErrorKind::Schema),
            ("22021", StoreErrorKind::Row),
            ("23505", StoreErrorKind::Row),
            ("54000", StoreErrorKind::Row),
            ("P0001", StoreErrorKind::Row),
            ("XX000", StoreErrorKind::Other),
        ];
        for (code, kind) in cases {
            assert_eq!(classify_code(code), kind, "{code}");
        }
        let transient = [
            StoreErrorKind::Unreachable,
            StoreErrorKind::Busy,
            StoreErrorKind::Slow,
            StoreErrorKind::NoSpace,
            StoreErrorKind::NoMemory,
            StoreErrorKind::ReadOnly,
        ];
        assert!(transient.into_iter().all(StoreErrorKind::is_transient));
        assert!(
            ![
                StoreErrorKind::Denied,
                StoreErrorKind::Schema,
                StoreErrorKind::Settings,
                StoreErrorKind::Other
            ]
            .into_iter()
            .any(StoreErrorKind::is_transient)
        );
    }

    #[test]
    fn a_fenced_range_names_the_offset_found() {
        let range = |found| FencedRange {
            topic: "posts".into(),
            partition: 3,
            expected: 10,
            found,
        };
        let error = FlushError::Fenced(vec![range(Some(20)), range(None)]);
        assert_eq!(
            error.to_string(),
            "another consumer has advanced the offsets of posts/3 (expected offset 10, found 20), posts/3 (expected offset 10, found none)"
        );
        assert!(!error.is_transient());
    }
}
