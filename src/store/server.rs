//! Whether the server is one that the service can work with: found out before anything is written.

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};

use super::error::{Fault, StoreError};

const DOING: &str = "connecting";

/// Connects and checks the server.
///
/// # Errors
/// It can't be reached, is a standby, keeps texts in another encoding than UTF-8, or stands behind a pooler that gives
/// each transaction another session.
pub(super) async fn check(options: &PgConnectOptions) -> Result<(), StoreError> {
    let sql = StoreError::when;
    let mut connection = PgConnection::connect_with(options)
        .await
        .map_err(|error| StoreError::sql(DOING, &error).to(options))?;
    // Text protocol throughout: a prepared statement is just what a pooler may lose.
    let row = sqlx::raw_sql(
        "SELECT pg_backend_pid()::text, pg_is_in_recovery()::text, current_setting('transaction_read_only'),
                current_setting('server_encoding')",
    )
    .fetch_one(&mut connection)
    .await
    .map_err(sql(DOING))?;
    let text = |column| row.try_get_unchecked::<String, _>(column).map_err(sql(DOING));
    let refuse = |why: &str| Err(StoreError::new(Fault::Settings, DOING, why));
    if text(1)? == "true" {
        return refuse("the server is a standby, which can't be written to: connect to the primary");
    }
    if text(2)? == "on" {
        return refuse(
            "transactions are read-only for this user or database (default_transaction_read_only): switch that off",
        );
    }
    let encoding = text(3)?;
    if encoding != "UTF8" {
        return refuse(&format!(
            "the database keeps texts as {encoding}, but posts are in any language: create one with \
             ENCODING 'UTF8' TEMPLATE template0"
        ));
    }
    if shares_sessions(options, &mut connection, &text(0)?).await? {
        return refuse(
            "a pooler gives every transaction another session (pool_mode = transaction), but the service keeps settings \
             and prepared statements in its sessions: use pool_mode = session, or connect to the server itself",
        );
    }
    // The connection ends here even if the server does not answer.
    let _ = connection.close().await;
    Ok(())
}

/// Whether two connections are served by one session in turn. `connection` was served by the session `pid` last.
///
/// A pooler that shares sessions gives a new transaction the one that was used last, which is `connection`'s; or, where it
/// goes round, `connection` has another one now than before.
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

/// The session that serves a connection.
async fn backend(connection: &mut PgConnection, statements: &'static str) -> Result<String, StoreError> {
    let row = sqlx::raw_sql(statements)
        .fetch_one(connection)
        .await
        .map_err(StoreError::when(DOING))?;
    row.try_get_unchecked(0).map_err(StoreError::when(DOING))
}
