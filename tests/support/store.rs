//! Shared by the tests of the store: one cluster, a fresh database for each test, and short constructors for its input.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, OnceLock},
};

use moodstream::{
    model::{ModelInfo, Precision, Prediction, ProblemType, Provider, SupportedLanguages},
    post::{Deletion, Language, Origin, Post, Source, TimeSource},
    store::{DeletionRow, Flush, Flushed, OffsetRange, PostRow, Store, StoreOptions},
};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use time::{OffsetDateTime, macros::datetime};

use super::postgres::Postgres;

pub const GROUP: &str = "monitor";
pub const TOPIC: &str = "posts";
pub const NOON: OffsetDateTime = datetime!(2019-07-03 12:00 UTC);

static CLUSTER: OnceLock<Postgres> = OnceLock::new();

pub fn cluster() -> &'static Postgres {
    CLUSTER.get_or_init(|| Postgres::start().unwrap())
}

/// Applies the missing migrations up to version `last`.
pub async fn apply_migrations(connection: &mut PgConnection, last: i64) {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let version: i64 = name.split('_').next().unwrap().parse().unwrap();
        if version <= last {
            fs::copy(file.path(), folder.path().join(name)).unwrap();
        }
    }
    let migrator = sqlx::migrate::Migrator::new(folder.path()).await.unwrap();
    migrator.run(connection).await.unwrap();
}

/// A migrated database, the store on it, and a pool for direct queries.
pub struct Harness {
    pub url: String,
    pub store: Store,
    pub pool: PgPool,
}

/// Stores a group's start offset of a partition of [`TOPIC`], unless it has one already. Returns the stored one.
pub async fn insert_start_offset(store: &Store, group: &str, partition: i32, start: i64) -> i64 {
    let partition = (TOPIC.into(), partition);
    let starts = [(partition.clone(), start)];
    store.insert_start_offsets(group, &starts, None).await.unwrap();
    let stored = store
        .next_offsets(group, std::slice::from_ref(&partition))
        .await
        .unwrap();
    stored[&partition]
}

impl Harness {
    pub async fn new() -> Self {
        let url = cluster().database().unwrap();
        let store = Store::connect(&options(&url)).await.unwrap();
        store.migrate().await.unwrap();
        let pool = PgPool::connect(&url).await.unwrap();
        Self { url, store, pool }
    }

    /// A harness with only the migrations up to version `last`.
    pub async fn at_migration(last: i64) -> Self {
        let url = cluster().database().unwrap();
        let pool = PgPool::connect(&url).await.unwrap();
        apply_migrations(&mut pool.acquire().await.unwrap(), last).await;
        let store = Store::connect(&options(&url)).await.unwrap();
        Self { url, store, pool }
    }

    /// A harness with start offset 0 for the partitions `0..n`.
    pub async fn with_partitions(n: i32) -> Self {
        let harness = Self::new().await;
        for partition in 0..n {
            assert_eq!(insert_start_offset(&harness.store, GROUP, partition, 0).await, 0);
        }
        harness
    }

    /// Another consumer on the same database.
    pub async fn another_store(&self) -> Store {
        Store::connect(&options(&self.url)).await.unwrap()
    }

    pub async fn flush(&self, flush: &Flush) -> Flushed {
        self.store.flush(flush).await.unwrap()
    }

    pub async fn count(&self, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// Ids of the stored posts, sorted.
    pub async fn ids(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT post_id FROM post ORDER BY post_id COLLATE \"C\"")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    pub async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    /// Checks that rollups equal a recount, that rows are those inserted minus those removed, and that each has a key.
    pub async fn assert_whole(&self) {
        let differences: Vec<(String, String)> = sqlx::query_as(include_str!("recount.sql"))
            .fetch_all(&self.pool)
            .await
            .unwrap();
        assert!(differences.is_empty(), "rollup and recount differ: {differences:#?}");
        let (inserted, removed): (i64, i64) = sqlx::query_as(
            "SELECT coalesce(sum(inserted), 0)::bigint, coalesce(sum(removed), 0)::bigint FROM consumer_tally",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap();
        assert_eq!(inserted - removed, self.count("post").await);
        let keys = self.count("post_key WHERE deleted_at IS NULL").await;
        assert_eq!(
            keys,
            self.count("post").await,
            "each key that is not deleted has its row"
        );
    }
}

pub fn options(url: &str) -> StoreOptions {
    StoreOptions {
        url: url.into(),
        connect_timeout_seconds: 5,
        ..StoreOptions::default()
    }
}

pub fn model() -> Arc<ModelInfo> {
    Arc::new(ModelInfo {
        id: "test@0badcafe".into(),
        labels: ["anger".into(), "joy".into()].into(),
        profile: "twitter-roberta".into(),
        groups: BTreeMap::new(),
        languages: SupportedLanguages::default(),
        problem_type: ProblemType::SingleLabelClassification,
        precision: Precision::Fp32,
        provider: Provider::Cpu,
    })
}

/// An empty flush.
pub fn flush() -> Flush {
    Flush::new(GROUP.into(), model())
}

/// A range of offsets without filtered, late or rejected records.
pub fn offset_range(partition: i32, expected: i64, next: i64) -> OffsetRange {
    OffsetRange {
        topic: TOPIC.into(),
        partition,
        expected,
        next,
        filtered: 0,
        late: 0,
        rejected: 0,
        last: None,
    }
}

pub fn origin(partition: i32, offset: i64) -> Origin {
    Origin {
        topic: TOPIC.into(),
        partition,
        offset,
    }
}

/// A post with a score that depends on its id, so that sums distinguish posts.
pub fn post(id: &str, created_at: OffsetDateTime, partition: i32, offset: i64) -> PostRow {
    let units = id
        .bytes()
        .fold(7_u32, |sum, byte| (sum * 31 + u32::from(byte)) % (1 << 19));
    let joy = f64::from(units) / f64::from(1 << 20);
    PostRow {
        post: Arc::new(Post {
            source: Source::Twitter,
            id: id.try_into().unwrap(),
            created_at: created_at.try_into().unwrap(),
            time_source: TimeSource::Post,
            author_id: Some("7".try_into().unwrap()),
            lang: Language::of_tag("en"),
            lang_identified: false,
            text: format!("text of {id}").try_into().unwrap(),
            repost_of: None,
            quoted_text: None,
            hashtags: vec!["tag".try_into().unwrap()],
        }),
        prediction: Prediction {
            emotion: "joy".into(),
            score: joy,
            scores: [1.0 - joy, joy].into(),
        },
        subjects: vec!["work".into()],
        origin: origin(partition, offset),
        timestamp: None,
    }
}

pub fn deletion(id: &str, partition: i32, offset: i64) -> DeletionRow {
    DeletionRow {
        deletion: Deletion {
            source: Source::Twitter,
            post_id: id.try_into().unwrap(),
        },
        origin: origin(partition, offset),
    }
}

/// A small pseudo-random number generator (xorshift64*) whose sequence for a seed never changes.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}
