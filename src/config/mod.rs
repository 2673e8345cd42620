//! Settings from a file, the environment and flags, checked before work starts.
//!
//! There are three layers, each overriding the previous one: a TOML file, the environment
//! (`MOODSTREAM_SECTION__KEY`), and command-line flags. They are merged as raw values
//! ([`layers`]), deserialized into [`Settings`] (which refuses unknown keys), and then
//! [checked](Settings::check), so that invalid input is reported before any work begins.

mod error;
pub mod layers;
mod names;
mod posts;
mod store;
mod values;
mod variables;

use std::path::PathBuf;

pub use self::{
    error::{SettingsError, ValueError},
    posts::{FuturePolicy, PostSettings},
    store::StoreSettings,
};
use serde::Deserialize;

use crate::{
    classify::ClassifyOptions,
    filter::{LanguageFilter, PostFilter, SubjectSet, SubjectSettings},
    http::HttpOptions,
    kafka::{self, KafkaOptions},
    model::{ModelOptions, Precision, ProblemType, Provider},
    store::StoreOptions,
    telemetry::{LogOptions, check_logs},
};

/// All settings. `deploy/moodstream.example.toml` documents each key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where records come from.
    pub kafka: KafkaOptions,
    /// How records are parsed and which posts are kept.
    pub posts: PostSettings,
    /// Tracked subjects.
    #[serde(alias = "topics")]
    pub subjects: Vec<SubjectSettings>,
    /// Warnings about deprecated settings, one sentence each, with the replacement.
    #[serde(skip)]
    pub deprecations: Vec<String>,
    /// Which model to use.
    pub model: ModelSettings,
    /// How the model runs.
    pub classify: ClassifyOptions,
    /// How records are collected into windows.
    pub window: WindowSettings,
    /// The database that results are written to.
    pub database: StoreOptions,
    /// How long results are kept, and how they are flushed.
    pub store: StoreSettings,
    /// What to do with records that can't be processed.
    pub dead_letter: DeadLetterSettings,
    /// Metrics, health and the live page.
    pub http: HttpOptions,
    /// Logging.
    pub log: LogOptions,
    /// Shutting down.
    pub shutdown: ShutdownSettings,
}

/// `[model]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// The model folder, in Hugging Face's layout.
    pub path: PathBuf,
    /// The execution provider: `cpu`, `cuda` or `tensorrt`. If it is not available, that is an error; there is no fallback.
    pub provider: Provider,
    /// The precision, which selects the ONNX file.
    pub precision: Precision,
    /// The ONNX file's name within the folder, instead of selecting it by precision.
    pub file: Option<PathBuf>,
    /// The problem type, if `config.json` and the manifest do not specify it.
    pub problem_type: Option<ProblemType>,
    /// A cleaning profile that overrides the manifest's.
    pub profile: Option<String>,
    /// The maximum number of tokens in a text, including special tokens; 0 means 128. The model's own limit also applies.
    pub max_tokens: usize,
    /// How to treat posts in languages that the manifest does not list.
    pub unsupported_languages: UnsupportedLanguages,
}

/// How to treat posts in languages that the model's manifest does not list. The column `post.lang_supported` always
/// distinguishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnsupportedLanguages {
    /// Store the emotion predicted by the model.
    #[default]
    Keep,
    /// Store the emotion [`UNSUPPORTED`](crate::model::UNSUPPORTED) with the score 0.
    Replace,
}

impl ModelSettings {
    /// Returns the options for opening the model folder.
    #[must_use]
    pub fn options(&self) -> ModelOptions {
        let defaults = ModelOptions::default();
        ModelOptions {
            provider: self.provider,
            precision: self.precision,
            file: self.file.clone(),
            max_tokens: if self.max_tokens == 0 {
                defaults.max_tokens
            } else {
                self.max_tokens
            },
            problem_type: self.problem_type,
        }
    }
}

/// `[window]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WindowSettings {
    /// A window closes when a session is idle, when it holds this many texts to classify ...
    pub max_posts: usize,
    /// ... or this many records of any kind ...
    pub max_records: usize,
    /// ... or when its oldest record has waited this long, in milliseconds.
    pub max_delay_ms: u64,
    /// The maximum number of windows in progress, from classification to the database. If windows are not full, there may be
    /// more of them, with as many records in total as this many full ones.
    pub in_flight: usize,
}

impl Default for WindowSettings {
    fn default() -> Self {
        Self {
            max_posts: 1_024,
            max_records: 16_384,
            max_delay_ms: 100,
            in_flight: 3,
        }
    }
}

/// `[dead_letter]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLetterSettings {
    /// Write rejected records to `kafka.dead_letter_topic`. Otherwise they are only counted.
    pub enabled: bool,
    /// Also write tombstones (records with a null value). Otherwise they are only counted.
    pub tombstones: bool,
}

impl Default for DeadLetterSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            tombstones: false,
        }
    }
}

/// `[shutdown]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownSettings {
    /// Seconds to finish the records in flight after SIGTERM. The rest is processed after the next start.
    pub deadline_seconds: u64,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { deadline_seconds: 20 }
    }
}

impl Settings {
    /// The filter of languages and tracked subjects.
    ///
    /// # Errors
    /// Returns an error if a subject or a language is invalid.
    pub fn post_filter(&self) -> Result<PostFilter, SettingsError> {
        let languages = LanguageFilter::new(&self.posts.languages).map_err(SettingsError::Languages)?;
        let subjects = SubjectSet::new(&self.subjects).map_err(SettingsError::Filter)?;
        PostFilter::new(languages, subjects, self.posts.only_tracked).map_err(SettingsError::Filter)
    }

    /// Checks what the types can't: ranges, and contradictions between settings.
    ///
    /// # Errors
    /// Returns the first invalid setting.
    pub fn check(&self) -> Result<(), SettingsError> {
        const DAY: u64 = 86_400;
        self.kafka.check().map_err(SettingsError::Kafka)?;
        if self.model.path.as_os_str().is_empty() {
            return Err(SettingsError::NoModel);
        }
        for (name, value, least, most) in [
            ("posts.max_bytes", self.posts.max_bytes as u64, 64, 1 << 30),
            ("posts.max_text_chars", self.posts.max_text_chars as u64, 1, 1 << 24),
            ("window.max_posts", self.window.max_posts as u64, 1, 1 << 20),
            ("window.max_records", self.window.max_records as u64, 1, 1 << 20),
            ("window.in_flight", self.window.in_flight as u64, 1, 64),
            ("window.max_delay_ms", self.window.max_delay_ms, 0, 1_000 * DAY),
            (
                "store.max_flush_records",
                self.store.max_flush_records as u64,
                1,
                1 << 20,
            ),
            (
                "store.maintenance_interval_seconds",
                self.store.maintenance_interval_seconds,
                1,
                365 * DAY,
            ),
            ("shutdown.deadline_seconds", self.shutdown.deadline_seconds, 0, DAY),
            ("http.stall_seconds", self.http.stall_seconds.into(), 1, 365 * DAY),
        ] {
            if !(least..=most).contains(&value) {
                return Err(SettingsError::Range {
                    name,
                    value,
                    least,
                    most,
                });
            }
        }
        if self.posts.max_bytes > self.kafka.max_in_flight_bytes {
            return Err(SettingsError::RecordSize);
        }
        if self.classify.cuda_graphs && self.classify.sessions > 1 {
            return Err(SettingsError::CudaGraphSessions);
        }
        check_logs(&self.log)?;
        self.database.check().map_err(SettingsError::Database)?;
        self.post_filter()?;
        self.store.check()?;
        kafka::check_clients(&self.kafka).map_err(SettingsError::Kafka)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn valid() -> Settings {
        let mut settings = Settings::default();
        settings.model.path = "m".into();
        settings.kafka.topics = vec!["posts".to_owned()];
        settings
    }

    #[test]
    fn defaults_with_a_model_and_a_topic_are_valid() {
        valid().check().unwrap();
    }

    #[test]
    fn ranges_are_checked_by_name() {
        let mut settings = valid();
        settings.window.max_posts = 0;
        assert!(
            settings
                .check()
                .unwrap_err()
                .to_string()
                .contains("window.max_posts is 0")
        );
        let mut settings = valid();
        settings.http.stall_seconds = 0;
        assert!(
            settings
                .check()
                .unwrap_err()
                .to_string()
                .contains("http.stall_seconds is 0")
        );
        // Added to a moment, such a duration would overflow.
        let mut settings = valid();
        settings.shutdown.deadline_seconds = u64::MAX;
        let error = settings.check().unwrap_err().to_string();
        assert!(
            error.contains("shutdown.deadline_seconds is 18446744073709551615: set it to a number from 0 to 86400"),
            "{error}"
        );
    }
}
