//! Logging to standard error.

use std::io::IsTerminal as _;

use serde::Deserialize;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human-readable text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The `[log]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogOptions {
    /// A `tracing` filter, such as `info` or `moodstream=debug,warn`.
    pub level: String,
    /// The format of log lines.
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

/// `log.level` is not a valid log filter.
#[derive(Debug, thiserror::Error)]
#[error("log.level is {level:?}: {fault}")]
pub struct LogLevelError {
    /// The setting.
    pub level: String,
    /// What is wrong with it.
    fault: String,
}

/// Libraries that are too verbose at `info` unless explicitly enabled: ONNX Runtime logs every allocation, the tokenizers
/// their tables.
const QUIET: [&str; 3] = ["ort=warn", "tk_encode=warn", "tk_convert=warn"];

/// Validates a log filter: levels in any case, optionally for a target (`info`, `moodstream=debug,warn`). `tracing` would
/// interpret a misspelt level as a target and log nothing else, so unknown levels are refused.
fn filter(setting: &str) -> Result<String, LogLevelError> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let fault = |fault: String| LogLevelError {
        level: setting.to_owned(),
        fault,
    };
    let mut directives = QUIET.map(str::to_owned).to_vec();
    for directive in setting
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
    {
        let (target, level) = match directive.rsplit_once('=') {
            Some((target, level)) => (Some(target.trim_end()), level.trim_start()),
            None => (None, directive),
        };
        let level = match level.to_ascii_lowercase() {
            level if level == "warning" => "warn".to_owned(),
            level => level,
        };
        if !LEVELS.contains(&level.as_str()) {
            return Err(fault(format!(
                "{level:?} is not a level; use one of {}, or target=level",
                LEVELS.join(", ")
            )));
        }
        directives.push(target.map_or(level.clone(), |target| format!("{target}={level}")));
    }
    if directives.len() == QUIET.len() {
        return Err(fault(format!("it is empty; use one of {}", LEVELS.join(", "))));
    }
    Ok(directives.join(","))
}

/// Validates `log.level` without starting to log.
///
/// # Errors
/// Returns an error if the level is not a valid filter.
pub fn check_logs(options: &LogOptions) -> Result<(), LogLevelError> {
    filter(&options.level).map(drop)
}

/// Starts logging to standard error.
///
/// # Errors
/// Returns an error if the level is not a valid filter.
pub fn init_logs(options: &LogOptions) -> Result<(), LogLevelError> {
    let filter = EnvFilter::try_new(filter(&options.level)?).map_err(|error| LogLevelError {
        level: options.level.clone(),
        fault: error.to_string(),
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call, as in tests that share a process, keeps the first subscriber.
    let _ = match options.format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn levels_are_read_in_any_case_and_other_words_are_refused() {
        for (setting, expected) in [
            ("info", "ort=warn,tk_encode=warn,tk_convert=warn,info"),
            ("WARNING", "ort=warn,tk_encode=warn,tk_convert=warn,warn"),
            ("Debug", "ort=warn,tk_encode=warn,tk_convert=warn,debug"),
            (
                "moodstream=DEBUG, warn",
                "ort=warn,tk_encode=warn,tk_convert=warn,moodstream=debug,warn",
            ),
            (
                "off,moodstream::store=trace",
                "ort=warn,tk_encode=warn,tk_convert=warn,off,moodstream::store=trace",
            ),
        ] {
            let filter = filter(setting).unwrap();
            assert_eq!(filter, expected);
            EnvFilter::try_new(filter).unwrap();
        }
        for setting in ["verbose", "2", "", ",", "moodstream", "moodstream=loud", "info warn"] {
            let error = filter(setting).unwrap_err().to_string();
            assert!(error.contains("debug") && !error.contains('\n'), "{error}");
        }
    }
}
