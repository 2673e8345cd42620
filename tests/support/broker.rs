//! A throwaway Kafka-compatible broker on a free loopback port.

// Each test binary includes this module and uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::Header,
    producer::{BaseProducer, BaseRecord, Producer},
};

/// A running broker; killed when dropped. It stores everything in memory, so a restart loses all data.
pub struct Broker {
    program: PathBuf,
    port: u16,
    /// The advertised port: that of a proxy, or its own.
    advertised: u16,
    child: Option<Child>,
}

impl Broker {
    /// Starts a broker from `MOODSTREAM_TANSU`, or else `.runtime/bin/tansu`. Panics if there is none.
    pub fn start() -> Self {
        Self::start_behind(None)
    }

    /// Starts a broker that clients reach through the proxy at this port. The proxy may be connected to it later.
    pub fn start_behind(proxy: Option<u16>) -> Self {
        let runtime = std::env::var_os("MOODSTREAM_RUNTIME").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".runtime"),
            PathBuf::from,
        );
        let program = std::env::var_os("MOODSTREAM_TANSU").map_or_else(|| runtime.join("bin/tansu"), PathBuf::from);
        assert!(program.exists(), "no broker at {}: run `make setup`", program.display());
        // Another process could take the port before the broker binds it, but that is very unlikely.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut broker = Self {
            program,
            port,
            advertised: proxy.unwrap_or(port),
            child: None,
        };
        broker.restart();
        broker
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address for `bootstrap.servers`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.advertised)
    }

    /// The process id; 0 if it is not running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Kills the broker as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it (again) on the same port, empty, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        let listener = format!("tcp://127.0.0.1:{}", self.port);
        let advertised = format!("tcp://{}", self.address());
        let child = Command::new(&self.program)
            .args([
                "broker",
                "--listener-url",
                &listener,
                "--advertised-listener-url",
                &advertised,
                "--storage-engine",
                "memory://tansu/",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        // Queried directly, because the proxy may not be connected to it yet.
        let client: BaseConsumer = self
            .config()
            .set("bootstrap.servers", format!("127.0.0.1:{}", self.port))
            .create()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = client.fetch_metadata(None, Duration::from_millis(200)) {
            assert!(Instant::now() < deadline, "the broker does not answer: {error}");
        }
    }

    /// Client settings for this broker.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.address())
            .set("reconnect.backoff.ms", "10")
            .set("reconnect.backoff.max.ms", "50");
        config
    }

    /// Creates a topic.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let made = futures::executor::block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
        made.into_iter().next().unwrap().unwrap();
    }

    /// Writes records to given partitions, in order, and waits until they are acknowledged.
    pub fn produce<'a>(&self, topic: &str, records: impl IntoIterator<Item = (i32, &'a [u8])>) {
        self.produce_with(&[], topic, records);
    }

    /// The same with properties for the producer.
    pub fn produce_with<'a>(
        &self,
        properties: &[(&str, &str)],
        topic: &str,
        records: impl IntoIterator<Item = (i32, &'a [u8])>,
    ) {
        let mut config = self.config();
        config.set("linger.ms", "1").set("message.max.bytes", "100000000");
        for (name, value) in properties {
            config.set(*name, *value);
        }
        let producer: BaseProducer = config.create().unwrap();
        for (partition, payload) in records {
            let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(payload);
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
        producer.flush(Duration::from_secs(30)).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Headers as a map.
pub fn header_map(headers: &impl rdkafka::message::Headers) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|Header { key, value }| {
            (
                key.to_owned(),
                String::from_utf8(value.unwrap_or_default().to_vec()).unwrap(),
            )
        })
        .collect()
}
