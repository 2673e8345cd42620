//! The command line, with one module per subcommand.
//!
//! Exit codes: 0 for success; 2 for invalid settings or arguments; 1 for everything else, such as an unreachable broker,
//! missing database rights or an invalid model.

mod check;
mod classify;
mod dead_letters;
mod feed;
mod migrate;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{Settings, SettingsError, layers},
    kafka::KafkaError,
};

/// A streaming monitor of emotions in social media posts.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the monitor, from Kafka to labelled posts and rollups in Postgres.
    Run(run::Args),
    /// Feed a topic with posts from a file or standard input.
    Feed(feed::Args),
    /// Classify texts and print one JSON line each, with all scores.
    Classify(classify::Args),
    /// Check settings, model, broker and database, and print a line for each.
    Check(check::Args),
    /// Apply the database migrations.
    Migrate(migrate::Args),
    /// Show dead letters, or send their records back.
    DeadLetters(dead_letters::Args),
}

/// The settings file, and flags for common settings.
#[derive(Debug, Clone, Args)]
pub struct SettingsArgs {
    /// Settings file (TOML). Every setting except subjects and classify.session_config can also be set as an environment
    /// variable: MOODSTREAM_SECTION__KEY.
    #[arg(long, short, env = "MOODSTREAM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Kafka bootstrap servers (host:port), comma-separated.
    #[arg(long, value_name = "HOSTS")]
    brokers: Option<String>,
    /// Topics to consume, comma-separated.
    #[arg(long, value_name = "TOPICS")]
    topics: Option<String>,
    /// The consumer group.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// URL of the Postgres database. A password is safer in the environment: MOODSTREAM_DATABASE__URL.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Precision of the model: auto, fp32, fp16 or int8.
    #[arg(long, value_name = "PRECISION")]
    precision: Option<String>,
    /// Execution provider: cpu, cuda or tensorrt.
    #[arg(long, value_name = "PROVIDER")]
    provider: Option<String>,
    /// Address of the live page, /metrics, /live and /ready.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Content of the live page: off, figures or posts.
    #[arg(long, value_name = "CONTENT")]
    page: Option<String>,
    /// Languages to keep, comma-separated; empty keeps all.
    #[arg(long, value_name = "LANGUAGES")]
    languages: Option<String>,
    /// Log filter: error, warn, info, debug or a `tracing` filter.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl SettingsArgs {
    fn flags(&self) -> Vec<(&'static str, String)> {
        [
            ("kafka.brokers", &self.brokers),
            ("kafka.topics", &self.topics),
            ("kafka.group", &self.group),
            ("database.url", &self.database_url),
            ("model.path", &self.model),
            ("model.precision", &self.precision),
            ("model.provider", &self.provider),
            ("http.listen", &self.listen),
            ("http.page", &self.page),
            ("posts.languages", &self.languages),
            ("log.level", &self.log_level),
        ]
        .into_iter()
        .filter_map(|(key, value)| value.clone().map(|value| (key, value)))
        .collect()
    }

    /// Loads and checks all settings.
    pub(crate) fn load(&self) -> Result<Settings, SettingsError> {
        layers::load(self.config.as_deref(), environment(), &self.flags())
    }

    /// Loads settings for a command that needs only some of them, which the caller checks.
    pub(crate) fn merge(&self) -> Result<Settings, SettingsError> {
        layers::merge(self.config.as_deref(), environment(), &self.flags())
    }
}

/// Returns the environment variables that are valid UTF-8. No other variable can be a setting.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl Cli {
    /// Runs the command to completion, reporting a failure in one line on standard error.
    #[must_use]
    pub fn run(self) -> ExitCode {
        #[cfg(all(feature = "fail-points", debug_assertions))]
        let _armed = crate::fail_point::arm();
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&anyhow::Error::new(error).context("can't start the runtime")),
        };
        let ended = runtime.block_on(async {
            match self.command {
                Command::Run(args) => run::run(args).await,
                Command::Feed(args) => feed::run(args).await,
                Command::Classify(args) => classify::run(args).await,
                Command::Check(args) => check::run(args).await,
                Command::Migrate(args) => migrate::run(args).await,
                Command::DeadLetters(args) => dead_letters::run(args).await,
            }
        });
        // Blocking reads of standard input and statements cancelled at a deadline must not delay the exit.
        runtime.shutdown_background();
        ended.unwrap_or_else(|error| fail(&error))
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let line = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("moodstream: {line}");
    let is_setting = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<SettingsError>() || matches!(cause.downcast_ref(), Some(KafkaError::Setting { .. }))
    };
    if error.chain().any(is_setting) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// Completes on SIGTERM or Ctrl-C.
pub(crate) async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "can't listen for signals: only SIGKILL can stop this process");
            std::future::pending::<()>().await;
        }
    }
}
