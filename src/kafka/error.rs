//! Errors of the broker and its clients.

use rdkafka::types::RDKafkaErrorCode;

use super::secret::is_secret;

/// An error of the settings, the broker or a client, described for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KafkaError {
    /// An invalid setting.
    #[error("{setting}: {problem}")]
    Setting {
        /// Its name in the settings.
        setting: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// No broker answers.
    #[error("no Kafka broker answers at {brokers}: {detail}; check kafka.brokers and that the broker is up")]
    Unreachable {
        /// The configured addresses.
        brokers: String,
        /// The client library's message.
        detail: String,
    },
    /// The broker refuses the credentials.
    #[error(
        "the Kafka broker at {brokers} refuses the login: {detail}; check the sasl.* and ssl.* entries of kafka.properties"
    )]
    Authentication {
        /// The configured addresses.
        brokers: String,
        /// The client library's message, without secrets.
        detail: String,
    },
    /// The broker refuses access to a topic or group.
    #[error("the Kafka broker denies access to {what}: {detail}; grant this user read (and describe) on it")]
    Authorization {
        /// The topic or group.
        what: String,
        /// The broker's message.
        detail: String,
    },
    /// Topics that don't exist.
    #[error("no such topic at the broker: {}; create it, or let `moodstream feed --create-partitions` do so", topics.join(", "))]
    TopicsAbsent {
        /// Their names or patterns.
        topics: Vec<String>,
    },
    /// Dead letters can't be written.
    #[error(
        "dead letters can't be written to the topic {topic}, so the first record that can't be processed would stop all \
         partitions: {detail}; create the topic and grant this user write (and describe) on it, or set \
         dead_letter.enabled = false"
    )]
    DeadLetterTopic {
        /// The dead-letter topic.
        topic: String,
        /// The broker's message.
        detail: String,
    },
    /// A stored offset below the log start offset or beyond the end of the partition.
    #[error(
        "offset {offset} of {topic}/{partition} is out of range, the broker has {low} up to {high}: records were deleted by \
         retention before they were read, or the topic was recreated; set kafka.on_offset_out_of_range to \"earliest\" or \
         \"latest\" to accept the gap"
    )]
    OffsetOutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The stored offset.
        offset: i64,
        /// The log start offset.
        low: i64,
        /// The end of the partition.
        high: i64,
    },
    /// A stored offset that belongs to another cluster.
    #[error(
        "the stored offset {offset} of {topic}/{partition} belongs to the cluster {stored}, but the brokers belong to the \
         cluster {found}; set kafka.on_topic_changed to \"restart\" to restart the partition where kafka.start says, or to \
         \"continue\" if records have the same offsets in both"
    )]
    ClusterChanged {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The stored offset.
        offset: i64,
        /// The id of the cluster to which the stored offset belongs.
        stored: String,
        /// The id of the cluster to which the brokers belong.
        found: String,
    },
    /// The record before a stored offset is not the one that was committed there.
    #[error(
        "the record at offset {offset} of {topic}/{partition} is not the one that was committed there: the topic was recreated, \
         or belongs to another cluster; set kafka.on_topic_changed to \"restart\" to restart the partition where kafka.start says"
    )]
    RecordChanged {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset before the stored one.
        offset: i64,
    },
    /// Records that the client library can't read.
    #[error("the records of {topic}/{partition} from offset {offset} on can't be read: {detail}")]
    Unreadable {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset after the last record that was read.
        offset: i64,
        /// The client library's message.
        detail: String,
    },
    /// An error that the client library can't recover from.
    #[error("kafka client: {0}")]
    Fatal(String),
    /// Anything else from the client library.
    #[error("kafka: {what}: {detail}")]
    Client {
        /// What was being done.
        what: &'static str,
        /// The client library's message.
        detail: String,
    },
}

impl KafkaError {
    pub(crate) fn setting(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Setting {
            setting: setting.into(),
            problem: problem.into(),
        }
    }

    pub(super) fn dead_letter_topic(topic: &str, detail: &impl std::fmt::Display) -> Self {
        Self::DeadLetterTopic {
            topic: topic.to_owned(),
            detail: detail.to_string(),
        }
    }

    /// Wraps the client library's error. The library quotes the value of a refused property, which may be a secret, so the
    /// values of secrets are removed.
    pub(crate) fn client(what: &'static str, error: &rdkafka::error::KafkaError) -> Self {
        use rdkafka::error::KafkaError as Rd;
        match error {
            // An unknown name may be the misspelt name of a secret.
            Rd::ClientConfig(_, description, name, _)
                if is_secret(name) || description.contains("No such configuration property") =>
            {
                Self::setting(
                    format!("kafka.properties.{name}"),
                    format!("{} (value not shown)", without_value(description)),
                )
            }
            Rd::ClientConfig(_, description, name, value) => Self::setting(
                format!("kafka.properties.{name}"),
                format!("{description} (value {value:?})"),
            ),
            Rd::ClientCreation(description) => {
                let hint = match description.contains(".location") {
                    true => {
                        ": does the file exist, can it be read, and is its format right (PEM, for keystores PKCS#12)?"
                    }
                    false => "",
                };
                Self::setting("kafka.properties", format!("{description}{hint}"))
            }
            other => Self::Client {
                what,
                detail: describe(other),
            },
        }
    }
}

/// The part of librdkafka's description that doesn't quote the value.
fn without_value(description: &str) -> &'static str {
    if description.contains("No such configuration property") {
        "no such property"
    } else {
        "not a valid value"
    }
}

/// The client library's message, without the name of the enum around it.
pub(crate) fn describe(error: &rdkafka::error::KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) => code.to_string(),
        None => error.to_string(),
    }
}

/// Whether the broker refused the credentials.
pub(super) fn is_authentication(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL
    )
}
