//! The demo's addresses and settings, and what users can do next.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use moodstream_demo::stories;

use super::{
    GROUP, TOPIC,
    plot::Screen,
    process::{Job, Scratch},
};

/// Queries with their descriptions. Each is one line, to paste into `psql`.
const QUESTIONS: [(&str, &str); 3] = [
    (
        "the last minutes by emotion",
        "SELECT bucket, emotion, sum(posts) AS posts FROM emotion_by_minute \
         WHERE subject = '' AND bucket > now() - interval '5 minutes' GROUP BY 1, 2 ORDER BY 1 DESC, 3 DESC;",
    ),
    (
        "what people feel about each tracked subject",
        "SELECT subject, emotion, sum(posts) AS posts FROM emotion_by_minute WHERE subject <> '' GROUP BY 1, 2 ORDER BY 1, 3 DESC;",
    ),
    (
        "hashtags that go with joy",
        "SELECT tag, count(*) AS posts FROM post, unnest(hashtags) AS tag \
         WHERE emotion = 'joy' AND created_at > now() - interval '1 day' GROUP BY 1 ORDER BY 2 DESC LIMIT 10;",
    ),
];

/// Paths and addresses of everything that the demo runs.
pub(super) struct Setup {
    pub(super) binary: PathBuf,
    pub(super) brokers: String,
    pub(super) database: String,
    pub(super) model: PathBuf,
    pub(super) http: SocketAddr,
    /// The service's settings file.
    pub(super) settings: PathBuf,
    pub(super) onnxruntime: PathBuf,
}

/// Writes the settings that only a file can hold: the stories as tracked subjects.
pub(super) fn write_settings(scratch: &Scratch) -> Result<PathBuf> {
    let subjects: Vec<toml::Table> = stories()
        .map(|(name, hashtags)| {
            let mut subject = toml::Table::new();
            subject.insert("name".to_owned(), name.into());
            subject.insert("keywords".to_owned(), vec![name].into());
            subject.insert("hashtags".to_owned(), hashtags.to_vec().into());
            subject
        })
        .collect();
    let settings = toml::Table::from_iter([("subjects".to_owned(), toml::Value::from(subjects))]);
    let path = scratch.path("moodstream.toml");
    std::fs::write(&path, settings.to_string()).context("the settings can't be written")?;
    Ok(path)
}

impl Setup {
    /// A run of the service's program with the demo's settings, given as a user would.
    pub(super) fn job(&self, name: &'static str) -> Job {
        Job::new(name, &self.binary)
            .env("MOODSTREAM_KAFKA__BROKERS", &self.brokers)
            .env("MOODSTREAM_KAFKA__TOPICS", TOPIC)
            .env("MOODSTREAM_KAFKA__GROUP", GROUP)
            .env("MOODSTREAM_DATABASE__URL", &self.database)
            .env("MOODSTREAM_MODEL__PATH", &self.model)
            .env("MOODSTREAM_HTTP__LISTEN", self.http.to_string())
            .env("ORT_DYLIB_PATH", &self.onnxruntime)
    }

    /// The service itself. The live page may show its posts, as they are made up.
    pub(super) fn service(&self) -> Job {
        self.job("run").args([
            "run".as_ref(),
            "--page".as_ref(),
            "posts".as_ref(),
            "--config".as_ref(),
            self.settings.as_os_str(),
        ])
    }

    /// Returns what users can look at (links if the demo goes on), and how to use their own Kafka and Postgres.
    pub(super) fn where_to_look(&self, runtime: &Path, goes_on: bool, screen: Screen) -> String {
        let Self {
            http,
            database,
            brokers,
            ..
        } = self;
        let mut out = String::new();
        if goes_on {
            let psql = runtime.join("pg/bin/psql");
            let here = std::env::current_dir().unwrap_or_default();
            let psql = psql.strip_prefix(&here).unwrap_or(&psql);
            let _ = write!(
                out,
                "\n{}\n  live page  http://{http}/\n  metrics    http://{http}/metrics\n  \
                 health     http://{http}/ready   http://{http}/live\n  broker     {brokers}, topic {TOPIC}\n  \
                 SQL        {} {database}\n",
                screen.bold("  To explore while the demo runs"),
                psql.display(),
            );
        } else {
            let _ = writeln!(
                out,
                "\n{}\n  On a terminal the demo keeps running, with the live page and a psql command for queries like these:",
                screen.bold("  To explore")
            );
        }
        for (what, sql) in QUESTIONS {
            let _ = write!(out, "\n{}\n{sql}\n", screen.dim(&format!("  -- {what}")));
        }
        let _ = write!(
            out,
            "\n{}\n  export MOODSTREAM_KAFKA__BROKERS=kafka-1:9092 MOODSTREAM_KAFKA__TOPICS=posts\n  \
             export MOODSTREAM_DATABASE__URL=postgres://user:password@host/database\n  \
             export MOODSTREAM_MODEL__PATH={} ORT_DYLIB_PATH={}\n  \
             {program} check      # settings, model, broker and database: a line each\n  \
             {program} migrate    # the tables\n  {program} run        # the live page is on http://127.0.0.1:9464/\n  \
             Every setting is in deploy/moodstream.example.toml. The README has more ways to run the service.\n",
            screen.bold("  With your own Kafka and Postgres"),
            self.model.display(),
            self.onnxruntime.display(),
            program = self.binary.display(),
        );
        out
    }
}
