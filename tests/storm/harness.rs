//! The storm's environment: a Postgres behind a proxy, direct access to its tables, the members' settings, and helpers to
//! write and read topics.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgRow};
use tokio::runtime::Runtime;

use crate::{
    feed::{LANGUAGES, Line, MAX_BYTES, RETENTION_DAYS, SUBJECTS},
    support::{postgres::Postgres, proxy::Proxy, service::root},
};

pub const TOPIC: &str = "posts";
pub const DEAD_LETTERS: &str = "posts.dead-letter";
pub const GROUP: &str = "storm";

/// How long anything may take before the storm fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A Postgres behind a proxy.
pub struct Harness {
    pub runtime: Runtime,
    pub postgres: Postgres,
    pub to_postgres: Proxy,
    /// The database's URL through the proxy, as its owner.
    pub url: String,
    /// The database's URL without the proxy, as superuser.
    direct: String,
    connection: Option<PgConnection>,
    folder: PathBuf,
}

impl Harness {
    pub fn new(folder: &Path, settings: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let postgres = Postgres::start_with(settings).unwrap();
        let direct = postgres.database().unwrap();
        let name = direct.rsplit('/').next().unwrap();
        postgres.execute("CREATE ROLE storm LOGIN").unwrap();
        postgres
            .execute(&format!("ALTER DATABASE {name} OWNER TO storm"))
            .unwrap();
        let to_postgres = runtime.block_on(Proxy::start(postgres.port()));
        let url = format!("postgres://storm@127.0.0.1:{}/{name}", to_postgres.port);
        Self {
            runtime,
            postgres,
            to_postgres,
            url,
            direct,
            connection: None,
            folder: folder.to_owned(),
        }
    }

    /// The settings of every member: short timeouts, small transactions.
    fn settings(&self, brokers: &str, group: &str) -> String {
        let subjects: String = SUBJECTS
            .iter()
            .map(|(name, keyword)| format!("[[subjects]]\nname = \"{name}\"\nkeywords = [\"{keyword}\"]\n"))
            .collect();
        // librdkafka's debug contexts, logged with the members' logs: `STORM_DEBUG=cgrp make storm`.
        let debug = env::var("STORM_DEBUG").map_or_else(|_| String::new(), |what| format!("\"debug\" = \"{what}\"\n"));
        format!(
            "[kafka]\nbrokers = \"{brokers}\"\ntopics = [\"{TOPIC}\"]\ngroup = \"{group}\"\n\
             [kafka.properties]\n{debug}\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 500\n\
             \"message.timeout.ms\" = 2000\n\"reconnect.backoff.max.ms\" = 200\n\
             [posts]\nmax_bytes = {MAX_BYTES}\nlanguages = {LANGUAGES:?}\n\
             [model]\npath = {:?}\n[classify]\nsessions = 1\n\
             [window]\nmax_posts = 40\nmax_records = 80\nmax_delay_ms = 20\n\
             [database]\nurl = \"{}\"\nlock_timeout_seconds = 1\nstatement_timeout_seconds = 3\n\
             connect_timeout_seconds = 2\n\
             [store]\nretention_days = {RETENTION_DAYS}\nmax_flush_records = 160\nmaintenance_interval_seconds = 2\n\
             [shutdown]\ndeadline_seconds = 30\n[log]\nlevel = \"moodstream=debug,librdkafka=debug,info\"\n{subjects}",
            root().join("tests/fixtures/tiny-roberta"),
            self.url,
        )
    }

    pub fn write_settings(&self, brokers: &str, group: &str) -> PathBuf {
        let path = self.folder.join("moodstream.toml");
        fs::write(&path, self.settings(brokers, group)).unwrap();
        path
    }

    /// A connection without the proxy; `None` while Postgres is down.
    pub fn connect(&self) -> Option<PgConnection> {
        self.runtime.block_on(async {
            let connect = tokio::time::timeout(Duration::from_secs(2), PgConnection::connect(&self.direct));
            connect.await.ok()?.ok()
        })
    }

    /// Queries a number; `None` while Postgres is down or the tables do not exist yet.
    pub fn number(&mut self, sql: &str) -> Option<i64> {
        let mut connection = self.connection.take().or_else(|| self.connect())?;
        let asked = self.runtime.block_on(async {
            let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection);
            tokio::time::timeout(Duration::from_secs(5), query).await
        });
        let number = asked.ok()?.ok();
        if number.is_some() {
            self.connection = Some(connection);
        }
        number
    }

    /// Executes statements on a new connection.
    pub fn execute(&self, sql: &str) {
        let mut connection = self.connect().expect("postgres is up");
        self.execute_on(&mut connection, sql);
    }

    pub fn execute_on(&self, connection: &mut PgConnection, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection);
        self.runtime
            .block_on(done)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub fn rows<R>(&self, sql: &str) -> Vec<R>
    where
        R: for<'r> sqlx::FromRow<'r, PgRow> + Send + Unpin,
    {
        let mut connection = self.connect().expect("postgres is up");
        let rows = sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection);
        self.runtime
            .block_on(rows)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Changes a setting of the server that requires a restart, and restarts it.
    pub fn restart_with(&mut self, change: &str) {
        self.execute(&format!("ALTER SYSTEM {change}"));
        // So that there is nothing to recover: with thousands of partitions that takes a busy machine more than a minute.
        self.execute("CHECKPOINT");
        self.postgres.crash().unwrap();
        self.postgres.come_back().unwrap();
        self.connection = None;
    }

    pub fn database_name(&self) -> &str {
        self.direct.rsplit('/').next().unwrap()
    }

    /// Terminates the members' connections that match a condition on `pg_stat_activity`. Returns how many.
    pub fn terminate(&mut self, condition: &str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'moodstream' AND {condition}) AS ended"
        );
        self.number(&sql).unwrap_or(0)
    }
}

/// Writes records and waits until the broker has them.
pub fn produce(config: &ClientConfig, lines: &[Line]) {
    let producer: BaseProducer = config
        .clone()
        .set("linger.ms", "1")
        .set("enable.idempotence", "true")
        .create()
        .unwrap();
    for line in lines {
        let mut record = BaseRecord::<[u8], [u8]>::to(TOPIC)
            .partition(line.partition)
            .payload(&line.payload);
        if let Some(key) = &line.key {
            record = record.key(key);
        }
        while let Err((error, unsent)) = producer.send(record) {
            assert_eq!(
                error.rdkafka_error_code(),
                Some(rdkafka::types::RDKafkaErrorCode::QueueFull),
                "{error}"
            );
            producer.poll(Duration::from_millis(10));
            record = unsent;
        }
    }
    producer.flush(PATIENCE).unwrap();
}

/// A record as it is stored in a topic.
#[derive(Debug, Clone)]
pub struct Stored {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

/// All records of a topic, read without a consumer group.
pub fn read_back(config: &ClientConfig, topic: &str) -> Vec<Stored> {
    let consumer: BaseConsumer = config
        .clone()
        .set("group.id", "oracle")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut list = TopicPartitionList::new();
    let partitions = metadata.topics()[0].partitions();
    for partition in partitions {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning)
            .unwrap();
    }
    let mut open = partitions.len();
    consumer.assign(&list).unwrap();
    let (mut records, begun) = (Vec::new(), Instant::now());
    while open > 0 {
        assert!(begun.elapsed() < PATIENCE, "reading {topic} back");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => open -= 1,
            // A broker that is just back, for example.
            Some(Err(error)) => eprintln!("reading {topic} back: {error}"),
            Some(Ok(message)) => {
                let headers = message.headers().map(|headers| {
                    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
                    headers
                        .iter()
                        .map(|header| (header.key.to_owned(), text(header.value)))
                        .collect()
                });
                records.push(Stored {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().unwrap_or_default().to_vec(),
                    headers: headers.unwrap_or_default(),
                });
            }
        }
    }
    records
}
