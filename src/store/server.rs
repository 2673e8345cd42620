//! Checks that the service can work with the server, before anything is written.

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};

use super::error::{StoreError, StoreErrorKind};

const DOING: &str = "connecting";

/// Connects and checks the server.
///
/// # Errors
/// The server can't be reached, is a standby or read-only, has another encoding than UTF-8, or is behind a pooler that shares
/// sessions between connections.
pub(super) async fn check(options: &PgConnectOptions) -> Result<(), StoreError> {
    let sql = StoreError::when;
    let mut connection = PgConnection::connect_with(options)
        .await
        .map_err(|error| StoreError::sql(DOING, &error).to(options))?;
    // Simple queries only: behind a pooler a prepared statement may be missing.
    let row = sqlx::raw_sql(
        "SELECT pg_backend_pid()::text, pg_is_in_recovery()::text, current_setting('transaction_read_only'),
                current_setting('server_encoding')",
    )
    .fetch_one(&mut connection)
    .await
    .map_err(sql(DOING))?;
    let text = |column| row.try_get_unchecked::<String, _>(column).map_err(sql(DOING));
    let refuse = |why: &str| Err(StoreError::new(StoreErrorKind::Settings, DOING, why));
    if text(1)? == "true" {
        return refuse("the server is a standby, which is read-only: connect to the primary");
    }
    if text(2)? == "on" {
        return refuse("transactions are read-only for this user or database: turn default_transaction_read_only off");
    }
    let encoding = text(3)?;
    if encoding != "UTF8" {
        return refuse(&format!(
            "the database's encoding is {encoding}, but posts may be in any language: create a database with \
             ENCODING 'UTF8' TEMPLATE template0"
        ));
    }
    if shares_sessions(options, &mut connection, &text(0)?).await? {
        return refuse(
            "a connection pooler shares sessions between connections (pool_mode = transaction), but the service needs its \
             sessions' settings and prepared statements: use pool_mode = session, or connect to the server directly",
        );
    }
    // Dropping the connection closes it even if the server does not answer.
    let _ = connection.close().await;
    Ok(())
}

/// Whether two connections share a session. `connection` was last served by the session with this `pid`.
///
/// A pooler that shares sessions gives a new transaction the most recently used one, which is `connection`'s. If it uses
/// sessions in turn, `connection` now has another one than before.
async fn shares_sessions(
    options: &PgConnectOptions,
    connection: &mut PgConnection,
    pid: &str,
) -> Result<bool, StoreError> {
    let mut other = PgConnection::connect_with(options)
        .await
        .map_err(StoreError::when(DOING))?;
    let held = backend(&mut other, "BEGIN; SELECT pg_backend_pid()::text").await?;
    let shares = held == pid || backend(connection, "SELECT pg_backend_pid()::text").await? != pid;
    let _ = other.close().await;
    Ok(shares)
}

/// The pid of the session that serves a connection.
async fn backend(connection: &mut PgConnection, statements: &'static str) -> Result<String, StoreError> {
    let row = sqlx::raw_sql(statements)
        .fetch_one(connection)
        .await
        .map_err(StoreError::when(DOING))?;
    row.try_get_unchecked(0).map_err(StoreError::when(DOING))
}
