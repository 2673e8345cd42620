//! Log lines on standard error.

use std::io::IsTerminal as _;

use serde::Deserialize;
use tracing_subscriber::{EnvFilter, filter::ParseError, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogOptions {
    /// A filter as of `tracing`: `info`, `moodstream=debug,warn`.
    pub level: String,
    /// The shape of a line.
    pub format: LogFormat,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// `log.level` is no filter that `tracing` knows.
#[derive(Debug, thiserror::Error)]
#[error("log.level {level:?} is no log filter")]
pub struct LogLevelError {
    /// The setting.
    pub level: String,
    /// What is wrong with it.
    source: ParseError,
}

/// Starts logging to standard error.
///
/// # Errors
/// The level is no filter that `tracing` knows.
pub fn init_logs(options: &LogOptions) -> Result<(), LogLevelError> {
    // ONNX Runtime logs every allocation at `info`: too much for anyone who doesn't ask for it by name.
    let filter = EnvFilter::try_new(format!("ort=warn,{}", options.level)).map_err(|source| LogLevelError {
        level: options.level.clone(),
        source,
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call (tests in one process) keeps the first subscriber.
    let _ = match options.format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    Ok(())
}
