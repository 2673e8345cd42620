//! librdkafka's properties: which are passed through and which are refused.

use std::{collections::BTreeMap, fmt};

use rdkafka::ClientConfig;
use serde::Deserialize;

use crate::kafka::{error::KafkaError, secret::is_secret};

/// Properties that are refused, with the reason.
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
        "only with cooperative-sticky does a rebalance revoke no more partitions than it must",
    ),
    ("enable.partition.eof", "the consumer sets it itself where it needs it"),
    (
        "enable.idempotence",
        "without it a retried dead letter or fed record could be written twice",
    ),
    (
        "transactional.id",
        "the producers here are idempotent, not transactional; exactly-once comes from the database transaction",
    ),
    ("group.id", "use kafka.group"),
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
];

/// Common properties of Kafka's Java client, and what replaces them in librdkafka
/// (<https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>).
const JAVA: &[(&str, &str)] = &[
    ("sasl.jaas.config", "set sasl.username and sasl.password"),
    ("ssl.truststore.location", "set ssl.ca.location to a PEM file"),
    (
        "ssl.truststore.password",
        "set ssl.ca.location to a PEM file, which has no password",
    ),
    ("ssl.truststore.type", "set ssl.ca.location to a PEM file"),
    ("ssl.keystore.type", "ssl.keystore.location takes PKCS#12"),
    ("key.deserializer", "remove it: keys are read as bytes"),
    (
        "value.deserializer",
        "remove it: values are read as bytes; posts.format sets how they are parsed",
    ),
    (
        "sasl.login.callback.handler.class",
        "set sasl.oauthbearer.method and the other sasl.oauthbearer.* properties",
    ),
];

/// Properties of consumers only; a producer would log a warning for each.
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

/// Properties of producers only; a consumer would log a warning for each.
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

/// Properties of librdkafka, by their documented names. Values of secrets never appear in
/// `Debug` output, logs or errors.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Properties(pub BTreeMap<String, PropertyValue>);

/// A property's value in the settings: a string, an integer or a boolean.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "a string, an integer or a boolean; quote names that contain dots: \"security.protocol\" = \"ssl\""
)]
pub enum PropertyValue {
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// A string.
    Text(String),
}

impl fmt::Display for PropertyValue {
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
                .map(|(name, value)| (name.into(), PropertyValue::Text(value.into())))
                .collect(),
        )
    }
}

impl Properties {
    /// Refuses properties that would break exactly-once processing, and other properties that can't be set.
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
                    format!("is a property of the Java client: {instead}"),
                ));
            }
            let value = value.to_string();
            match (name.as_str(), value.as_str()) {
                ("acks" | "request.required.acks", value) if value != "all" && value != "-1" => {
                    return Err(KafkaError::setting(
                        setting(),
                        "can't be lowered: a dead letter must be acknowledged by all in-sync replicas",
                    ));
                }
                ("statistics.interval.ms", "0") => {
                    return Err(KafkaError::setting(
                        setting(),
                        "can't be 0: the lag comes from the statistics",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sets all properties but the `unused` ones on a client's config.
    pub(super) fn apply(&self, config: &mut ClientConfig, unused: &[&str]) {
        for (name, value) in &self.0 {
            if !matches(unused, name) {
                config.set(name, value.to_string());
            }
        }
    }
}
