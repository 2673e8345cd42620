//! Rows, rollups, offsets, deletions, partitions and retention in Postgres.
//!
//! [`Store::flush`] applies a [`Flush`] in one transaction: posts, deletions, rollups and the offsets that they advance.
//! It first locks the offsets of its partitions and compares them with what the consumer expects. If another consumer has
//! moved an offset on, the flush is refused; if one is about to commit, the flush waits for it. So a record takes effect
//! once, however often and by whichever member it is processed.
//!
//! All transactions take their locks in one order (offsets, then keys, then the days of `post`, then rollup rows,
//! each sorted), so consumers don't deadlock. `post_key` decides which posts are new, over all days. There is no staging
//! table, because the program knows which posts are new before it sends their rows.
//!
//! The rollups by hour and by day are updated in the same transaction, from the same changes. Rows of closed days that
//! differ only in their shard are merged later: see [`Store::merge_shards`].
//!
//! `post` and `emotion_rollup` have a partition for each day where retention drops days within a year. Otherwise they have
//! one for each month, and one for each year before the last, so that their number stays bounded (see [`Store::with_retention`]).
//! A partition of `emotion_rollup_hour` holds a month, one of `emotion_rollup_day` a year. There is no default partition:
//! with one, creating a day's partition would scan it for that day's rows under a lock that blocks all writers.
//! [`Store::ensure_partitions`] creates the partitions of the coming days, and a flush creates those that it lacks.

mod columns;
mod connection;
mod create_partitions;
mod dedup;
mod error;
mod flush;
pub mod live_page;
mod merge;
mod migrate;
mod model_facts;
mod offset;
mod options;
mod partition;
mod plain_row;
mod retention;
mod roles;
mod rollup;
mod rollup_rows;
mod schema;
mod server;
mod write;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use sqlx::{Connection as _, PgPool, postgres::PgPoolOptions};
use time::Date;

pub use self::{
    error::{FencedRange, FlushError, StoreError, StoreErrorKind},
    flush::{DeletionRow, Flush, FlushId, Flushed, MAX_DAYS, MAX_NAME_BYTES, OffsetRange, PostRow, Tally},
    offset::StoredOffset,
    options::{DatabaseUrl, StoreOptions},
    partition::day_of,
    retention::{Retention, RetentionCutoff, RetentionOutcome},
    roles::{Roles, SERVICE_FUNCTIONS, SERVICE_PRIVILEGES},
    schema::{Schema, SchemaError, schema_version},
};

/// The database. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    options: Arc<StoreOptions>,
    /// Decides how much time a new partition covers; `None` means the table's shortest span.
    retention: Option<Retention>,
    state: Arc<State>,
}

/// What one process remembers about the database.
#[derive(Debug, Default)]
struct State {
    /// Days whose partitions are known to exist.
    days: Mutex<HashSet<Date>>,
    /// Flushes whose COMMIT was sent but not answered, with their result if it took place.
    unanswered: Mutex<HashMap<(FlushId, u32), Flushed>>,
}

impl Store {
    /// Connects, so that wrong settings and an unreachable database are reported at once.
    pub async fn connect(options: &StoreOptions) -> Result<Self, StoreError> {
        let connect = options.connect_options()?;
        // One connection outside the pool first: the pool would retry until its timeout and not report the cause.
        match tokio::time::timeout(options.connect_timeout(), server::check(&connect)).await {
            Ok(checked) => checked?,
            Err(_) => return Err(StoreError::sql("connecting", &sqlx::Error::PoolTimedOut)),
        }

        let session: Arc<str> = options.session().into();
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections.max(1))
            .acquire_timeout(options.connect_timeout())
            .after_connect(move |connection, _| {
                let session = session.clone();
                Box::pin(async move {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(session))
                        .execute(connection)
                        .await
                        .map(drop)
                })
            })
            .connect_lazy_with(connect);
        let store = Self {
            pool,
            options: Arc::new(options.clone()),
            retention: None,
            state: Arc::default(),
        };
        store.ping().await?;
        Ok(store)
    }

    /// Sizes new partitions for this retention: by day where posts are dropped within a year, otherwise by month, and by
    /// year for posts from before last year.
    #[must_use]
    pub fn with_retention(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Checks that the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.run("pinging the server", async |connection| connection.ping().await)
            .await
    }

    /// Closes all connections, once they are idle.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
