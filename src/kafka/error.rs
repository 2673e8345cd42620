//! What can go wrong with the broker.

use rdkafka::types::RDKafkaErrorCode;

use super::secret::is_secret;

/// A fault of the settings or of the broker, in words for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KafkaError {
    /// A setting that can't be right.
    #[error("{setting}: {problem}")]
    Setting {
        /// Its name in the settings.
        setting: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// No broker answers.
    #[error("no kafka broker answers at {brokers}: {detail}; check kafka.brokers and that the broker is up")]
    Unreachable {
        /// The configured addresses.
        brokers: String,
        /// What the client says.
        detail: String,
    },
    /// The broker refuses the credentials.
    #[error(
        "the kafka broker at {brokers} refuses the login: {detail}; check the sasl.* and ssl.* entries of kafka.properties"
    )]
    Authentication {
        /// The configured addresses.
        brokers: String,
        /// What the client says, without secrets.
        detail: String,
    },
    /// The broker refuses access to a topic or group.
    #[error("the kafka broker denies access to {what}: {detail}; grant this user read (and describe) on it")]
    Authorization {
        /// The topic or group.
        what: String,
        /// What the broker says.
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
        "dead letters can't be written to the topic {topic}, so the first record that can't be handled would stop everything: \
         {detail}; create the topic and grant this user write (and describe) on it, or set dead_letter.enabled = false"
    )]
    DeadLetterTopic {
        /// The dead-letter topic.
        topic: String,
        /// What the broker says.
        detail: String,
    },
    /// A stored offset that the broker no longer has, or doesn't have yet.
    #[error(
        "offset {offset} of {topic}/{partition} is not at the broker, which holds {low} up to {high}: records were deleted by \
         retention before they were read, or the topic was made anew; set kafka.on_offset_out_of_range to \"earliest\" or \
         \"latest\" to accept the gap"
    )]
    OffsetOutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The stored offset.
        offset: i64,
        /// The first offset at the broker, as far as known.
        low: i64,
        /// The end of the partition at the broker, as far as known.
        high: i64,
    },
    /// A stored offset that was read from another cluster.
    #[error(
        "the stored offset {offset} of {topic}/{partition} is of the cluster {stored}, and the brokers are of the cluster \
         {found}; set kafka.on_topic_changed to \"restart\" to begin the partition anew, or to \"continue\" where records \
         have the same offsets in both"
    )]
    ClusterChanged {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The stored offset.
        offset: i64,
        /// The id of the cluster that it is of.
        stored: String,
        /// The id of the cluster that the brokers are of.
        found: String,
    },
    /// The record before a stored offset is not the one that was settled there.
    #[error(
        "the record at offset {offset} of {topic}/{partition} is not the one that was settled there: the topic was made anew, or \
         is another cluster's; set kafka.on_topic_changed to \"restart\" to begin the partition anew"
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
        /// What the client says.
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
        /// What the client says.
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

    /// Wraps the client library's error. The library repeats a refused property's value, which may be a secret.
    pub(crate) fn client(what: &'static str, error: &rdkafka::error::KafkaError) -> Self {
        use rdkafka::error::KafkaError as Rd;
        match error {
            // A name that is unknown may be that of a secret, misspelt.
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
                        ": is the file there, can it be read, and is it of the right format (PEM, for keystores PKCS#12)?"
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

/// The part of librdkafka's refusal that can't repeat the value.
fn without_value(description: &str) -> &'static str {
    if description.contains("No such configuration property") {
        "no such property"
    } else {
        "not a valid value"
    }
}

/// The error in the client's words, without the name of the enum around it.
pub(crate) fn describe(error: &rdkafka::error::KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) => code.to_string(),
        None => error.to_string(),
    }
}

/// Whether the broker has refused the credentials.
pub(super) fn is_authentication(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL
    )
}
