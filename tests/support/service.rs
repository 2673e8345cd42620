//! The service under test: the real binary with a broker, a database and a model.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
};
use serde_json::Value;

use super::{broker::Broker, postgres::Postgres};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(180);

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The model that ships with the project, unless `MOODSTREAM_TEST_MODEL` names another folder.
pub fn model() -> PathBuf {
    std::env::var_os("MOODSTREAM_TEST_MODEL").map_or_else(|| root().join("models/emotion-roberta-6x384"), PathBuf::from)
}

/// The folder with data that is not part of the project, if it is available.
pub fn shared() -> Option<PathBuf> {
    let shared = root().join("../shared");
    let there = shared.join("stream").is_dir();
    if !there {
        println!("skipped: no archive at {}", shared.display());
    }
    there.then_some(shared)
}

/// The binary, without this process's settings, and with the ONNX Runtime that setup installed.
pub fn moodstream() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moodstream"));
    for (name, _) in std::env::vars() {
        if name.starts_with("MOODSTREAM_") && name.contains("__") {
            command.env_remove(name);
        }
    }
    let library = root().join(".runtime/lib/libonnxruntime.so");
    if std::env::var_os("ORT_DYLIB_PATH").is_none() && library.exists() {
        command.env("ORT_DYLIB_PATH", library);
    }
    command
}

/// Waits for a condition, checking it every few milliseconds.
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, condition);
}

/// The same with another time limit.
pub fn wait_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < patience, "waited {patience:?} for {what}");
        pause();
    }
}

#[allow(clippy::disallowed_methods)] // between two checks of a condition
fn pause() {
    thread::sleep(Duration::from_millis(10));
}

/// Sends SIGTERM to a process.
pub fn terminate(child: &Child) {
    let status = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Waits for a process to exit.
pub fn end_of(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_for("the process to exit", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// A broker and a database cluster.
pub struct Bench {
    pub broker: Broker,
    pub postgres: Postgres,
    folder: tempfile::TempDir,
}

/// A record of the dead-letter topic.
pub struct Letter {
    pub payload: Vec<u8>,
    pub headers: std::collections::BTreeMap<String, String>,
}

impl Bench {
    pub fn start() -> Self {
        Self::with_broker(Broker::start())
    }

    /// The same with settings for Postgres.
    pub fn start_with(settings: &[&str]) -> Self {
        Self::with(Broker::start(), settings)
    }

    /// The same with an existing broker.
    pub fn with_broker(broker: Broker) -> Self {
        Self::with(broker, &[])
    }

    fn with(broker: Broker, settings: &[&str]) -> Self {
        Self {
            broker,
            postgres: Postgres::start_with(settings).unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Writes a file that is deleted with the bench.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Feeds lines through `moodstream feed`.
    pub fn feed(&self, lines: &[Vec<u8>], topic: &str, partitions: u32) {
        let path = self.write(&format!("{topic}.jsonl"), lines.join(&b'\n'));
        let output = moodstream()
            .args([
                "feed",
                "--topic",
                topic,
                "--brokers",
                &self.broker.address(),
                "--create-partitions",
                &partitions.to_string(),
            ])
            .arg(path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A service on a fresh database.
    pub fn service(&self, topic: &str) -> Service {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        Service {
            brokers: self.broker.address(),
            topic: topic.to_owned(),
            group: format!("{topic}-group"),
            url: self.postgres.database().unwrap(),
            listen: socket.local_addr().unwrap().to_string(),
            config: None,
            model: model(),
        }
    }

    /// Reads a topic from its start until it has yielded at least `count` records.
    pub fn letters(&self, topic: &str, count: usize) -> Vec<Letter> {
        let mut config = self.broker.config();
        config
            .set("group.id", "letters")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let mut partitions = rdkafka::TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            partitions
                .add_partition_offset(topic, partition.id(), rdkafka::Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&partitions).unwrap();
        let mut letters = Vec::new();
        wait_for("the dead letters", || {
            while let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
                let headers = message.headers().map(|headers| {
                    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
                    headers
                        .iter()
                        .map(|header| (header.key.to_owned(), text(header.value)))
                        .collect()
                });
                letters.push(Letter {
                    payload: message.payload().unwrap_or_default().to_vec(),
                    headers: headers.unwrap_or_default(),
                });
            }
            letters.len() >= count
        });
        letters
    }
}

/// The settings of one service process.
#[derive(Clone)]
pub struct Service {
    brokers: String,
    topic: String,
    group: String,
    pub url: String,
    pub listen: String,
    config: Option<PathBuf>,
    model: PathBuf,
}

impl Service {
    /// The same with another consumer group.
    pub fn with_group(&self, group: &str) -> Self {
        Self {
            group: group.to_owned(),
            ..self.clone()
        }
    }

    /// The same on another database, or as another of its roles.
    pub fn with_url(&self, url: &str) -> Self {
        Self {
            url: url.to_owned(),
            ..self.clone()
        }
    }

    /// The same with another model folder.
    pub fn with_model(&self, folder: &Path) -> Self {
        Self {
            model: folder.to_owned(),
            ..self.clone()
        }
    }

    /// The same with a settings file.
    pub fn with_config(&self, file: &Path) -> Self {
        Self {
            config: Some(file.to_owned()),
            ..self.clone()
        }
    }

    /// The address of its pages.
    pub fn address(&self) -> &str {
        &self.listen
    }

    /// The same on another port: another member of the group.
    pub fn another_member(&self) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            listen: socket.local_addr().unwrap().to_string(),
            ..self.clone()
        }
    }

    /// `moodstream run`, with its settings in the environment.
    pub fn command(&self) -> Command {
        self.command_of("run")
    }

    /// Another subcommand with the same settings.
    pub fn command_of(&self, subcommand: &str) -> Command {
        let mut command = moodstream();
        command
            .arg(subcommand)
            .env("MOODSTREAM_KAFKA__BROKERS", &self.brokers)
            .env("MOODSTREAM_KAFKA__TOPICS", &self.topic)
            .env("MOODSTREAM_KAFKA__GROUP", &self.group)
            .env("MOODSTREAM_KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "6000")
            .env("MOODSTREAM_DATABASE__URL", &self.url)
            .env("MOODSTREAM_MODEL__PATH", &self.model)
            .env("MOODSTREAM_HTTP__LISTEN", &self.listen)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(file) = &self.config {
            command.arg("--config").arg(file);
        }
        command
    }

    /// Runs until everything is committed; returns the summary.
    pub fn run_until_caught_up(&self) -> Value {
        let output = self
            .command()
            .arg("--until-caught-up")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The response to a GET, from its status line on; `None` while the service does not answer.
    pub fn get(&self, path: &str) -> Option<String> {
        self.ask("GET", path, "")
    }

    /// The response to a request without a body; `headers` are complete lines.
    pub fn ask(&self, method: &str, path: &str, headers: &str) -> Option<String> {
        let mut socket = TcpStream::connect(&self.listen).ok()?;
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nhost: moodstream\r\nconnection: close\r\n{headers}\r\n"
        )
        .ok()?;
        let mut page = String::new();
        socket.read_to_string(&mut page).ok()?;
        Some(page)
    }
}
