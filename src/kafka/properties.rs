//! librdkafka's own properties: which pass through and which are refused.

use std::{collections::BTreeMap, fmt};

use rdkafka::ClientConfig;
use serde::Deserialize;

use super::{error::KafkaError, secret::is_secret};

/// Properties that can't be passed through, with the reason.
pub(super) const REFUSED: &[(&str, &str)] = &[
    (
        "enable.auto.commit",
        "offsets are committed after the database transaction only; anything else would break exactly-once",
    ),
    (
        "auto.commit.enable",
        "offsets are committed after the database transaction only; anything else would break exactly-once",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed after the database transaction only; anything else would break exactly-once",
    ),
    (
        "auto.offset.reset",
        "a silent reset would skip or repeat records; use kafka.start and kafka.on_offset_out_of_range",
    ),
    (
        "partition.assignment.strategy",
        "only cooperative-sticky takes nothing from a member but what it must give up",
    ),
    ("enable.partition.eof", "the consumer sets it itself where it needs it"),
    (
        "enable.idempotence",
        "without it a retried dead letter or fed record could appear twice",
    ),
    (
        "transactional.id",
        "the database transaction is the one that counts; producers here are idempotent, not transactional",
    ),
    ("group.id", "use kafka.group"),
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
];

/// Properties of Java's client that people bring along, and what stands for them in librdkafka
/// (<https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>).
const JAVA: &[(&str, &str)] = &[
    ("sasl.jaas.config", "set sasl.username and sasl.password"),
    ("ssl.truststore.location", "set ssl.ca.location to a file in PEM"),
    (
        "ssl.truststore.password",
        "set ssl.ca.location to a file in PEM, which has no password",
    ),
    ("ssl.truststore.type", "set ssl.ca.location to a file in PEM"),
    ("ssl.keystore.type", "ssl.keystore.location takes PKCS#12"),
    ("key.deserializer", "leave it out: records are read as they are"),
    (
        "value.deserializer",
        "leave it out: records are read as they are; posts.format says how",
    ),
    (
        "sasl.login.callback.handler.class",
        "set sasl.oauthbearer.method and what goes with it",
    ),
];

/// Properties that a producer would only warn about.
pub(super) const CONSUMER_ONLY: &[&str] = &[
    "fetch.",
    "queued.",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "group.",
    "isolation.level",
    "check.crcs",
    "max.partition.fetch.bytes",
    "coordinator.query.interval.ms",
    "consume.",
    "allow.auto.create.topics",
    "client.rack",
];

/// Properties that a consumer would only warn about.
pub(super) const PRODUCER_ONLY: &[&str] = &[
    "queue.buffering.",
    "linger.ms",
    "message.send.max.retries",
    "retries",
    "compression.",
    "batch.",
    "delivery.report.only.error",
    "acks",
    "request.required.acks",
    "request.timeout.ms",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "partitioner",
    "sticky.partitioning.",
    "enable.gapless.guarantee",
    "transaction.timeout.ms",
];

fn matches(list: &[&str], name: &str) -> bool {
    list.iter().any(|entry| {
        if entry.ends_with('.') {
            name.starts_with(entry)
        } else {
            name == *entry
        }
    })
}

/// librdkafka's own properties, by their documented names. Values of secrets never show in
/// `Debug`, in logs or in errors.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Properties(pub BTreeMap<String, Value>);

/// A property's value as settings files write it: text, number or truth value.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "a text, a number or a truth value; a name with dots stands in quotes: \"security.protocol\" = \"ssl\""
)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Text.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in &self.0 {
            if is_secret(name) {
                map.entry(name, &"***")
            } else {
                map.entry(name, &value.to_string())
            };
        }
        map.finish()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Properties {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        Self(
            entries
                .into_iter()
                .map(|(name, value)| (name.into(), Value::Text(value.into())))
                .collect(),
        )
    }
}

impl Properties {
    /// Refuses properties that would break the service's promises.
    ///
    /// # Errors
    /// [`KafkaError::Setting`] with the property's name and the reason.
    pub fn check(&self) -> Result<(), KafkaError> {
        for (name, value) in &self.0 {
            let setting = || format!("kafka.properties.{name}");
            if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| refused == name) {
                return Err(KafkaError::setting(setting(), format!("can't be set: {reason}")));
            }
            if let Some((_, instead)) = JAVA.iter().find(|(java, _)| java == name) {
                return Err(KafkaError::setting(
                    setting(),
                    format!("belongs to Java's client: {instead}"),
                ));
            }
            let value = value.to_string();
            match (name.as_str(), value.as_str()) {
                ("acks" | "request.required.acks", value) if value != "all" && value != "-1" => {
                    return Err(KafkaError::setting(
                        setting(),
                        "can't be lowered: an acknowledged dead letter must be on all replicas",
                    ));
                }
                ("statistics.interval.ms", "0") => {
                    return Err(KafkaError::setting(
                        setting(),
                        "can't be 0: lag is read from the statistics",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sets all but the `unused` on a client's settings.
    pub(super) fn apply(&self, config: &mut ClientConfig, unused: &[&str]) {
        for (name, value) in &self.0 {
            if !matches(unused, name) {
                config.set(name, value.to_string());
            }
        }
    }
}
