//! The `[kafka]` section of the settings.

mod client_config;
mod properties;
mod topic_name;

use std::time::Duration;

use serde::Deserialize;

pub use self::properties::{Properties, PropertyValue};
pub(super) use self::topic_name::entry_matches;
use self::topic_name::{is_topic_name, not_posix};
use super::error::KafkaError;

/// Where a partition that the group has never read starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    /// At the oldest record that the broker has.
    #[default]
    Earliest,
    /// At the end: only records produced from now on are read.
    Latest,
}

/// What to do when the stored offset is out of the broker's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutOfRange {
    /// Quarantine the partition: records may be lost, and someone should know.
    #[default]
    Stop,
    /// Continue at the oldest record that the broker has.
    Earliest,
    /// Continue at the end: only records produced from now on are read.
    Latest,
}

/// What to do when the stored offset belongs to another cluster, or to a topic that was recreated since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTopicChanged {
    /// Quarantine the partition: someone should decide where to continue.
    #[default]
    Stop,
    /// Restart the partition where `start` says.
    Restart,
    /// Continue at the same offset in another cluster, unless the record before it is a different one.
    Continue,
}

/// Settings of all Kafka clients.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaOptions {
    /// Bootstrap servers, `host:port`, separated by commas.
    pub brokers: String,
    /// Topics to read; an entry that begins with `^` is a regular expression that is matched against all topic names.
    pub topics: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// Where a partition that the group has never read starts.
    pub start: StartFrom,
    /// What to do when the stored offset is out of the broker's range.
    pub on_offset_out_of_range: OutOfRange,
    /// What to do when the stored offset belongs to another cluster, or to a topic that was recreated since.
    pub on_topic_changed: OnTopicChanged,
    /// Seconds between retries of a quarantined partition; with 0 it is retried only on demand, and at the next start or
    /// assignment.
    pub quarantine_retry_seconds: u32,
    /// The dead-letter topic; by default the name of the first topic followed by `.dead-letter`.
    pub dead_letter_topic: Option<String>,
    /// The most records in flight: handed out and not yet committed or dropped.
    pub max_in_flight_records: usize,
    /// The most bytes of the records in flight. A larger record passes alone.
    pub max_in_flight_bytes: usize,
    /// KiB that librdkafka may prefetch for each partition, beyond the records in flight.
    pub prefetch_kib: u32,
    /// Properties of librdkafka, which override this service's defaults.
    pub properties: Properties,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            brokers: "localhost:9092".into(),
            topics: Vec::new(),
            group: "moodstream".into(),
            start: StartFrom::default(),
            on_offset_out_of_range: OutOfRange::default(),
            on_topic_changed: OnTopicChanged::default(),
            quarantine_retry_seconds: 60,
            dead_letter_topic: None,
            max_in_flight_records: 16_384,
            max_in_flight_bytes: 64 << 20,
            prefetch_kib: 2_048,
            properties: Properties::default(),
        }
    }
}

impl KafkaOptions {
    /// Checks what can be checked without a broker.
    ///
    /// # Errors
    /// [`KafkaError::Setting`] for the first invalid setting.
    pub fn check(&self) -> Result<(), KafkaError> {
        // librdkafka ignores entries that it can't parse, and then reports "No brokers configured".
        const SCHEMES: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
        if let Some((scheme, _)) = self
            .brokers
            .split(',')
            .find_map(|broker| broker.trim().split_once("://"))
            && !SCHEMES.contains(&scheme.to_ascii_lowercase().as_str())
        {
            return Err(KafkaError::setting(
                "kafka.brokers",
                format!(
                    "has `{}://`: write host:port, with commas between brokers",
                    scheme.escape_debug()
                ),
            ));
        }
        if self.brokers.split(',').all(|broker| broker.trim().is_empty()) {
            return Err(KafkaError::setting(
                "kafka.brokers",
                "is empty; give at least one host:port",
            ));
        }
        if self.topics.is_empty() {
            return Err(KafkaError::setting("kafka.topics", "is empty; name at least one topic"));
        }
        for (place, topic) in self.topics.iter().enumerate() {
            if self.topics[..place].contains(topic) {
                return Err(KafkaError::setting("kafka.topics", format!("contains {topic:?} twice")));
            }
            if topic.trim().is_empty() {
                return Err(KafkaError::setting("kafka.topics", "contains an empty name"));
            }
            if !topic.starts_with('^') && !is_topic_name(topic) {
                return Err(KafkaError::setting(
                    "kafka.topics",
                    format!(
                        "{topic:?} is not a valid topic name (letters, digits, `.`, `_` and `-`); separate names by commas, and \
                         begin a regular expression with `^`"
                    ),
                ));
            }
            if let Some(part) = not_posix(topic) {
                return Err(KafkaError::setting(
                    "kafka.topics",
                    format!(
                        "{topic:?} has `{part}`, which librdkafka would interpret differently: it supports POSIX extended \
                         regular expressions, so write [0-9] for \\d, [[:alnum:]_] for \\w, and no (?...) or lazy repetition"
                    ),
                ));
            }
            let dead_letters = self.dead_letter_topic();
            let reads_dead_letters = if topic.starts_with('^') {
                regex::Regex::new(topic)
                    .map_err(|error| {
                        KafkaError::setting(
                            "kafka.topics",
                            format!("{topic:?} is not a valid regular expression: {error}"),
                        )
                    })?
                    .is_match(&dead_letters)
            } else {
                *topic == dead_letters
            };
            if reads_dead_letters {
                return Err(KafkaError::setting(
                    "kafka.dead_letter_topic",
                    format!(
                        "{dead_letters:?} matches {topic:?} of kafka.topics: dead letters would be read and rejected again and again"
                    ),
                ));
            }
        }
        let dead_letters = self.dead_letter_topic();
        if !is_topic_name(&dead_letters) {
            return Err(KafkaError::setting(
                "kafka.dead_letter_topic",
                format!("{dead_letters:?} is not a valid topic name: letters, digits, `.`, `_` and `-`, at most 249"),
            ));
        }
        if self.group.is_empty() {
            return Err(KafkaError::setting("kafka.group", "is empty; name the consumer group"));
        }
        if self.max_in_flight_records == 0 || self.max_in_flight_bytes == 0 {
            return Err(KafkaError::setting(
                "kafka.max_in_flight_records",
                "and kafka.max_in_flight_bytes must be at least 1",
            ));
        }
        self.properties.check()
    }

    /// The dead-letter topic: the configured one, or the default.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        if let Some(topic) = &self.dead_letter_topic {
            return topic.clone();
        }
        match self.topics.iter().find(|topic| !topic.starts_with('^')) {
            Some(topic) => format!("{topic}.dead-letter"),
            None => "moodstream.dead-letter".into(),
        }
    }

    /// The entries of `topics` that match this topic.
    pub(super) fn entries_of(&self, topic: &str) -> Vec<&str> {
        let matches = |entry: &&str| entry_matches(entry, topic);
        self.topics.iter().map(String::as_str).filter(matches).collect()
    }

    /// Whether the clients authenticate, so that the broker may give them permissions of their own.
    pub(super) fn authenticates(&self) -> bool {
        let names = [
            "sasl.username",
            "sasl.mechanism",
            "sasl.mechanisms",
            "ssl.certificate.location",
            "ssl.certificate.pem",
        ];
        names.iter().any(|name| self.properties.0.contains_key(*name))
    }

    /// The time between retries of a quarantined partition; `None` if it is retried only on demand.
    pub(super) fn quarantine_retry(&self) -> Option<Duration> {
        let seconds = self.quarantine_retry_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// Whether records of open or aborted transactions are not read, which is librdkafka's default.
    pub(super) fn read_committed(&self) -> bool {
        self.properties
            .0
            .get("isolation.level")
            .is_none_or(|level| level.to_string() != "read_uncommitted")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{properties::REFUSED, *};

    fn options() -> KafkaOptions {
        KafkaOptions {
            topics: vec!["posts".into()],
            ..KafkaOptions::default()
        }
    }

    #[test]
    fn debug_output_hides_secrets() {
        let mut options = options();
        options.properties = [
            ("sasl.password", "hunter2"),
            ("ssl.key.pem", "hunter2"),
            ("sasl.oauthbearer.client.secret", "hunter2"),
            ("sasl.username", "me"),
        ]
        .into_iter()
        .collect();
        let shown = format!("{options:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("sasl.password") && shown.contains("me"), "{shown}");
    }

    #[test]
    fn every_refused_property_is_named_with_its_reason() {
        for (name, reason) in REFUSED {
            let mut options = options();
            options.properties = [(*name, "x")].into_iter().collect();
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn acks_must_be_all() {
        for (value, fine) in [("all", true), ("-1", true), ("1", false), ("0", false)] {
            let properties: Properties = [("acks", value)].into_iter().collect();
            assert_eq!(properties.check().is_ok(), fine, "acks={value}");
        }
    }

    #[test]
    fn the_dead_letter_topic_is_named_after_the_first_topic_and_must_not_be_read() {
        let mut options = options();
        assert_eq!(options.dead_letter_topic(), "posts.dead-letter");
        options.topics = vec!["^posts-.*".into()];
        assert_eq!(options.dead_letter_topic(), "moodstream.dead-letter");
        options.topics = vec!["posts".into(), "posts.dead-letter".into()];
        assert!(options.check().is_err());
        options.topics = vec!["^.*".into()];
        assert!(options.check().is_err());
    }

    #[test]
    fn invalid_settings_are_refused() {
        let wrong = [
            KafkaOptions {
                brokers: " , ".into(),
                ..options()
            },
            KafkaOptions {
                topics: vec![],
                ..options()
            },
            KafkaOptions {
                topics: vec!["posts".into(), "news".into(), "posts".into()],
                ..options()
            },
            KafkaOptions {
                topics: vec![r"^posts-\d+$".into()],
                ..options()
            },
            KafkaOptions {
                topics: vec!["^(".into()],
                ..options()
            },
            KafkaOptions {
                topics: vec!["[posts]".into()],
                ..options()
            },
            KafkaOptions {
                dead_letter_topic: Some("posts, dead".into()),
                ..options()
            },
            KafkaOptions {
                group: String::new(),
                ..options()
            },
            KafkaOptions {
                max_in_flight_bytes: 0,
                ..options()
            },
        ];
        for options in wrong {
            assert!(
                matches!(options.check(), Err(KafkaError::Setting { .. })),
                "{options:?}"
            );
        }
        assert!(options().check().is_ok());
    }
}
