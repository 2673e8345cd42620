//! Rows, rollups, offsets, deletions, partitions and retention in Postgres.
//!
//! [`Store::flush`] does all that a [`Flush`] says in one transaction: posts, deletions, rollups and the
//! offsets that they settle. The first thing it does is to lock the offsets of its partitions and compare them
//! with what the consumer expects; another consumer that has moved on shows there, and one that is just about
//! to commit is waited for. So a record's effects happen once, however often and by whichever member it is processed.
//!
//! All transactions take their locks in one order (offsets, then keys, then the days of `post`, then rollup rows,
//! each sorted), so consumers don't deadlock. `post_key` decides what is new, over all days; no staging
//! table is between, as the program knows which posts are new before it sends them.
//!
//! The rollups by hour and by day are kept in the same transaction, made from the same changes. Rows of closed days that
//! differ in their shard alone are merged later: see [`Store::merge_shards`].
//!
//! `post` and `emotion_rollup` have a partition a day where retention drops days within a year; otherwise one a month, and one
//! a year for the years before the last one, so that their number stays bounded (see [`Store::keeping`]). A partition of
//! `emotion_rollup_hour` holds a month, one of `emotion_rollup_day` a year. There is no default partition: with one, making
//! a day's partition would mean to search it for that day's rows under a lock that stops all writers.
//! [`Store::ensure_partitions`] makes the coming days ahead, and a flush makes what it lacks.

mod columns;
mod connection;
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
mod retention_mark;
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
    error::{Fault, FencedRange, FlushError, StoreError},
    flush::{DeletionRow, Flush, FlushId, Flushed, MAX_DAYS, MAX_NAME_BYTES, OffsetRange, PostRow, Tally},
    offset::StoredOffset,
    options::{DatabaseUrl, StoreOptions},
    partition::day_of,
    retention::{LateBefore, Retention, Retired},
    roles::{Roles, SERVICE_FUNCTIONS, WRITES},
    schema::{Schema, SchemaError, schema_version},
};

/// The database. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    options: Arc<StoreOptions>,
    /// Decides how long a time one partition holds; without it, the finest.
    retention: Option<Retention>,
    state: Arc<State>,
}

/// What one process remembers of the database.
#[derive(Debug, Default)]
struct State {
    /// Days known to have their partitions.
    days: Mutex<HashSet<Date>>,
    /// Flushes whose commit was sent and not answered, with what came of them if it took place.
    unanswered: Mutex<HashMap<(FlushId, u32), Flushed>>,
}

impl Store {
    /// Connects, and so finds out at once whether the settings are right and the database is there.
    pub async fn connect(options: &StoreOptions) -> Result<Self, StoreError> {
        let connect = options.connect_options()?;
        // One connection outside the pool first: the pool would try until its timeout and not say what was wrong.
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

    /// Makes partitions for posts that are kept so long: by day where they are dropped within a year, otherwise by month,
    /// and by year for posts from before last year.
    #[must_use]
    pub fn keeping(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Checks that the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        const DOING: &str = "asking for a sign of life";
        self.with(DOING, async |connection| {
            connection.ping().await.map_err(StoreError::when(DOING))
        })
        .await
    }

    /// Ends all connections, once they are idle.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
