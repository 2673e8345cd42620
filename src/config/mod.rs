//! Settings: file, environment and flags, checked before work starts.
//!
//! Three layers, each over the one before: a TOML file, the environment
//! (`MOODSTREAM_SECTION__KEY`), command-line flags. They are merged as raw values
//! ([`layers`]), read into [`Settings`] with unknown keys refused, and then
//! [checked](Settings::check), so that bad input ends before any work begins.

pub mod layers;
mod names;

use std::path::PathBuf;

use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use crate::{
    classify::ClassifyOptions,
    filter::{Languages, PostFilter, TopicSet, TopicSettings},
    http::HttpOptions,
    kafka::{self, KafkaOptions},
    model::{ModelOptions, Precision, ProblemType, Provider},
    post::{FieldPaths, Format, Limits, MissingTime, ParseOptions, Zone},
    store::{Retention, Roles, StoreOptions},
    telemetry::{LogLevelError, LogOptions, check_logs},
};

/// A setting that can't be used. One line: which, why, and what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);

impl From<LogLevelError> for SettingsError {
    fn from(error: LogLevelError) -> Self {
        Self(error.to_string())
    }
}

/// Words of several lines in one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Everything that can be set. See `deploy/moodstream.example.toml` for each key with its meaning.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where records come from.
    pub kafka: KafkaOptions,
    /// How records are read and which posts are wanted.
    pub posts: PostSettings,
    /// Tracked topics.
    pub topics: Vec<TopicSettings>,
    /// Which model.
    pub model: ModelSettings,
    /// How it runs.
    pub classify: ClassifyOptions,
    /// How records are gathered into windows.
    pub window: WindowSettings,
    /// Where results go.
    pub database: StoreOptions,
    /// How long they are kept, and how they are flushed.
    pub store: StoreSettings,
    /// Where records go that can't be handled.
    pub dead_letter: DeadLetterSettings,
    /// Metrics, health and the live page.
    pub http: HttpOptions,
    /// Logs.
    pub log: LogOptions,
    /// The end of work.
    pub shutdown: ShutdownSettings,
}

/// `[posts]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostSettings {
    /// The wire format; `auto` finds it for each record.
    pub format: Format,
    /// Languages to keep (BCP 47 primary subtags); empty keeps all.
    pub languages: Vec<String>,
    /// Keep only posts that match a tracked topic.
    pub only_tracked: bool,
    /// The largest record in bytes; larger ones are dead letters.
    pub max_bytes: usize,
    /// The longest text in characters.
    pub max_text_chars: usize,
    /// How far ahead of this machine's clock a post may be dated, in seconds.
    pub max_future_seconds: u32,
    /// What becomes of a post that is dated further ahead.
    pub future: FuturePolicy,
    /// The zone of times that name none.
    pub time_zone: Zone,
    /// What becomes of a post without a time.
    pub missing_time: MissingTime,
    /// Identify the language of posts that name none.
    pub detect_language: bool,
    /// Where a topic of one's own keeps the fields of a post.
    pub fields: FieldPaths,
}

impl PostSettings {
    /// How records are read.
    #[must_use]
    pub fn parsing(&self) -> ParseOptions {
        ParseOptions {
            format: self.format,
            limits: Limits {
                max_bytes: self.max_bytes,
                max_text_chars: self.max_text_chars,
                ..Limits::default()
            },
            fields: self.fields.clone(),
            time_zone: self.time_zone.clone(),
            missing_time: self.missing_time,
        }
    }
}

/// What becomes of a post dated further ahead than `posts.max_future_seconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FuturePolicy {
    /// It is a dead letter.
    #[default]
    Reject,
    /// It is stored as published now.
    Clamp,
}

impl Default for PostSettings {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            format: Format::Auto,
            languages: Vec::new(),
            only_tracked: false,
            max_bytes: limits.max_bytes,
            max_text_chars: limits.max_text_chars,
            max_future_seconds: 3_600,
            future: FuturePolicy::Reject,
            time_zone: Zone::default(),
            missing_time: MissingTime::Record,
            detect_language: true,
            fields: FieldPaths::default(),
        }
    }
}

/// `[model]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// The model folder, in Hugging Face's layout.
    pub path: PathBuf,
    /// Where it runs: `cpu`, `cuda` or `tensorrt`. What can't be had is an error, never another one.
    pub provider: Provider,
    /// Which of its ONNX files.
    pub precision: Precision,
    /// The ONNX file by its name within the folder, where it should not be found by its precision.
    pub file: Option<PathBuf>,
    /// The head, where `config.json` and the manifest do not say.
    pub problem_type: Option<ProblemType>,
    /// The cleaning profile, where it should differ from the manifest's.
    pub profile: Option<String>,
    /// Texts are cut after this many tokens, special tokens included; 0: 128. The model's own limit still holds.
    pub max_tokens: usize,
    /// What becomes of posts in languages that the manifest doesn't list.
    pub unsupported_languages: UnsupportedLanguages,
}

/// What becomes of posts in languages that the model's manifest doesn't list. The column `post.lang_supported` tells them
/// from the others in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnsupportedLanguages {
    /// Their emotion is what the model says.
    #[default]
    Keep,
    /// Their emotion is [`UNSUPPORTED`](crate::model::UNSUPPORTED), with the score 0.
    Replace,
}

impl ModelSettings {
    /// What opening the folder needs to know.
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
    /// Windows in work at once; those that are classified and wait for the database don't count.
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

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// Days to keep posts; absent keeps everything.
    pub retention_days: Option<u32>,
    /// Days to keep the rollups by minute; absent keeps them as long as the posts.
    pub minute_retention_days: Option<u32>,
    /// Days to keep the rollups by hour; absent keeps everything.
    pub hour_retention_days: Option<u32>,
    /// Days to keep the rollups by day; absent keeps everything.
    pub day_retention_days: Option<u32>,
    /// Days to keep deletions of posts never seen: a post that comes later than that after its deletion is stored.
    pub unseen_deletion_days: u32,
    /// Days whose partitions are made ahead.
    pub partitions_ahead: u16,
    /// Seconds between two rounds of making and dropping partitions.
    pub maintenance_interval_seconds: u64,
    /// The most records one transaction takes together.
    pub max_flush_records: usize,
    /// Apply the migrations at start. Without it `run` stops where the schema is not current.
    pub migrate: bool,
    /// The role that the service connects as, where another one migrates: it is granted what it needs.
    pub service_role: Option<String>,
    /// A role that is granted to read the tables.
    pub read_role: Option<String>,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            retention_days: None,
            minute_retention_days: None,
            hour_retention_days: None,
            day_retention_days: None,
            unseen_deletion_days: 30,
            partitions_ahead: 3,
            maintenance_interval_seconds: 600,
            max_flush_records: 32_768,
            migrate: true,
            service_role: None,
            read_role: None,
        }
    }
}

impl StoreSettings {
    /// What is too old to keep.
    #[must_use]
    pub const fn retention(&self) -> Retention {
        Retention {
            days: self.retention_days,
            minute_days: match self.minute_retention_days {
                None => self.retention_days,
                minutes => minutes,
            },
            hour_days: self.hour_retention_days,
            day_days: self.day_retention_days,
        }
    }

    /// Deletions of posts never seen that were stored before this moment are forgotten. `None` where the days reach back
    /// further than the calendar.
    #[must_use]
    pub fn unseen_deletions_before(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        now.checked_sub(Duration::days(self.unseen_deletion_days.into()))
    }

    fn check(&self) -> Result<(), SettingsError> {
        if self.unseen_deletion_days == 0 {
            return Err(SettingsError(
                "store.unseen_deletion_days is 0: a deletion may come before its post, so give at least 1".to_owned(),
            ));
        }
        for (name, days) in [
            ("retention_days", self.retention_days),
            ("minute_retention_days", self.minute_retention_days),
            ("hour_retention_days", self.hour_retention_days),
            ("day_retention_days", self.day_retention_days),
        ] {
            let Some(days) = days else { continue };
            if days == 0 {
                return Err(SettingsError(format!(
                    "store.{name} is 0: give at least 1, or leave it out"
                )));
            }
            // A late post, or a deletion, changes the rollups of its time: they must still be there.
            if self.retention_days.is_none_or(|posts| days < posts) {
                let posts = match self.retention_days {
                    Some(posts) => format!("{posts} days"),
                    None => "for ever".to_owned(),
                };
                return Err(SettingsError(format!(
                    "store.{name} is {days}, but posts are kept {posts}: rollups must be kept as long as what they \
                     count, so give more days, or set store.retention_days lower"
                )));
            }
        }
        Ok(())
    }

    /// Who works with the tables, as far as that is not their owner.
    #[must_use]
    pub fn roles(&self) -> Roles<'_> {
        Roles {
            service: self.service_role.as_deref(),
            read: self.read_role.as_deref(),
        }
    }
}

/// `[dead_letter]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLetterSettings {
    /// Write rejected records to `kafka.dead_letter_topic`. Without it they are counted only.
    pub enabled: bool,
    /// Write tombstones (records with a null value) there too. Without it they are counted only.
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
    /// Seconds to finish what is held after SIGTERM; what is not finished is taken up again at the next start.
    pub deadline_seconds: u64,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { deadline_seconds: 20 }
    }
}

impl Settings {
    /// The filter of languages and tracked topics.
    ///
    /// # Errors
    /// A topic or a language can't be used.
    pub fn post_filter(&self) -> Result<PostFilter, SettingsError> {
        let languages = Languages::new(&self.posts.languages)
            .map_err(|error| SettingsError(format!("posts.languages: {error}")))?;
        let topics = TopicSet::new(&self.topics).map_err(|error| SettingsError(error.to_string()))?;
        PostFilter::new(languages, topics, self.posts.only_tracked).map_err(|error| SettingsError(error.to_string()))
    }

    /// Checks what types can't: ranges, and settings that contradict each other.
    ///
    /// # Errors
    /// The first setting that can't be used.
    pub fn check(&self) -> Result<(), SettingsError> {
        let fail = |text: &str| Err(SettingsError(text.to_owned()));
        // The regex compiler draws its errors over several lines.
        self.kafka
            .check()
            .map_err(|error| SettingsError(one_line(&error.to_string())))?;
        if self.model.path.as_os_str().is_empty() {
            return fail(
                "model.path is not set: name a model folder, for example models/emotion-xlm-roberta-12x384-multilingual",
            );
        }
        for (name, value, least, most) in [
            ("posts.max_bytes", self.posts.max_bytes, 64, 1 << 30),
            ("posts.max_text_chars", self.posts.max_text_chars, 1, 1 << 24),
            ("window.max_posts", self.window.max_posts, 1, 1 << 20),
            ("window.max_records", self.window.max_records, 1, 1 << 20),
            ("window.in_flight", self.window.in_flight, 1, 64),
            ("store.max_flush_records", self.store.max_flush_records, 1, 1 << 20),
        ] {
            if !(least..=most).contains(&value) {
                return Err(SettingsError(format!(
                    "{name} is {value}: give a number from {least} to {most}"
                )));
            }
        }
        if self.http.stall_seconds == 0 {
            return fail("http.stall_seconds is 0: give at least 1");
        }
        if self.posts.max_bytes > self.kafka.max_in_flight_bytes {
            return fail("posts.max_bytes is larger than kafka.max_in_flight_bytes: a record has to fit");
        }
        check_logs(&self.log)?;
        self.database
            .check()
            .map_err(|error| SettingsError(error.to_string()))?;
        // Names from the settings stand in these, whatever is in them.
        self.post_filter().map_err(|error| SettingsError(one_line(&error.0)))?;
        self.store.check()?;
        kafka::check_clients(&self.kafka).map_err(|error| SettingsError(one_line(&error.to_string())))?;
        if self.store.maintenance_interval_seconds == 0 {
            return fail("store.maintenance_interval_seconds is 0: give at least 1");
        }
        Ok(())
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
    fn rollups_are_kept_as_long_as_what_they_count() {
        let mut settings = valid();
        settings.store.hour_retention_days = Some(365);
        let error = settings.check().unwrap_err().0;
        assert!(
            error.contains("hour_retention_days is 365, but posts are kept for ever"),
            "{error}"
        );
        settings.store.retention_days = Some(30);
        settings.check().unwrap();
        let retention = settings.store.retention();
        assert_eq!(
            (retention.minute_days, retention.hour_days, retention.day_days),
            (Some(30), Some(365), None)
        );
        settings.store.minute_retention_days = Some(7);
        let error = settings.check().unwrap_err().0;
        assert!(
            error.contains("minute_retention_days is 7, but posts are kept 30 days"),
            "{error}"
        );
        settings.store.minute_retention_days = Some(0);
        assert!(settings.check().unwrap_err().0.contains("minute_retention_days is 0"));
    }

    #[test]
    fn deletions_are_kept_for_a_day_at_least_and_as_long_as_the_calendar() {
        let mut settings = valid();
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(100);
        let month_before = OffsetDateTime::UNIX_EPOCH + Duration::days(70);
        assert_eq!(settings.store.unseen_deletions_before(now), Some(month_before));
        settings.store.unseen_deletion_days = u32::MAX;
        assert_eq!(settings.store.unseen_deletions_before(now), None);
        settings.store.unseen_deletion_days = 0;
        assert!(settings.check().unwrap_err().0.contains("unseen_deletion_days is 0"));
    }

    #[test]
    fn ranges_are_checked_by_name() {
        let mut settings = valid();
        settings.window.max_posts = 0;
        assert!(settings.check().unwrap_err().0.contains("window.max_posts is 0"));
        let mut settings = valid();
        settings.http.stall_seconds = 0;
        assert!(settings.check().unwrap_err().0.contains("http.stall_seconds is 0"));
    }
}
