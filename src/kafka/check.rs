//! Checks that the broker can be used, and says in one line why not.

use std::time::{Duration, Instant};

use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    metadata::Metadata,
    types::RDKafkaErrorCode,
};

use super::{
    client::Plain,
    error::{KafkaError, describe, is_authentication},
    options::KafkaOptions,
    partition::Partition,
};

/// What the brokers reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerReport {
    /// The brokers' addresses, `host:port`.
    pub brokers: Vec<String>,
    /// The topics that will be read, with their numbers of partitions.
    pub topics: Vec<(String, usize)>,
}

/// Asks the brokers for the topics of the settings.
///
/// # Errors
/// [`KafkaError`] in one line: a wrong setting, no answer within `timeout`, a refused login, a
/// denied or an absent topic.
pub async fn check_broker(options: &KafkaOptions, timeout: Duration) -> Result<BrokerReport, KafkaError> {
    options.check()?;
    let options = options.clone();
    blocking(move || {
        let metadata = fetch_metadata(&options, timeout)?;
        let topics = select(&metadata, &options.topics)?;
        let brokers = metadata
            .brokers()
            .iter()
            .map(|broker| format!("{}:{}", broker.host(), broker.port()))
            .collect();
        Ok(BrokerReport { brokers, topics })
    })
    .await
}

/// Runs a blocking request on a thread for blocking work.
pub(super) async fn blocking<T: Send + 'static>(
    question: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    match tokio::task::spawn_blocking(question).await {
        Ok(answer) => answer,
        Err(error) => Err(KafkaError::Client {
            what: "asking the broker",
            detail: error.to_string(),
        }),
    }
}

/// The partitions of the topics, in order. All topics must be there.
pub(super) fn partitions(options: &KafkaOptions, timeout: Duration) -> Result<Vec<Partition>, KafkaError> {
    let metadata = fetch_metadata(options, timeout)?;
    let mut partitions = Vec::new();
    for (topic, count) in select(&metadata, &options.topics)? {
        let topic: std::sync::Arc<str> = topic.into();
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        partitions.extend((0..count).map(|partition| (std::sync::Arc::clone(&topic), partition)));
    }
    Ok(partitions)
}

/// Metadata of all topics. Asking for a single topic by name could create it.
pub(crate) fn fetch_metadata(options: &KafkaOptions, timeout: Duration) -> Result<Metadata, KafkaError> {
    let client: BaseConsumer<Plain> = options
        .admin_config()
        .create_with_context(Plain::default())
        .map_err(|error| KafkaError::client("making a client", &error))?;
    let deadline = Instant::now() + timeout;
    loop {
        let slice = deadline
            .saturating_duration_since(Instant::now())
            .min(Duration::from_millis(500));
        let error = match client.fetch_metadata(None, slice) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => error,
        };
        // Polls for error events, which have the reason.
        let _ = client.poll(Duration::from_millis(20));
        let reason = client.context().last_error();
        let brokers = options.brokers.clone();
        match reason {
            Some((code, detail)) if is_authentication(code) => {
                return Err(KafkaError::Authentication { brokers, detail });
            }
            Some((_, detail)) if Instant::now() >= deadline => return Err(KafkaError::Unreachable { brokers, detail }),
            None if Instant::now() >= deadline => {
                return Err(KafkaError::Unreachable {
                    brokers,
                    detail: describe(&error),
                });
            }
            _ => {}
        }
    }
}

/// The topics that the names and patterns mean, with their numbers of partitions, in order.
fn select(metadata: &Metadata, wanted: &[String]) -> Result<Vec<(String, usize)>, KafkaError> {
    let mut chosen = std::collections::BTreeMap::new();
    let mut absent = Vec::new();
    for pattern in wanted {
        let regex = if pattern.starts_with('^') {
            Some(regex::Regex::new(pattern).map_err(|error| KafkaError::setting("kafka.topics", error.to_string()))?)
        } else {
            None
        };
        let mut found = false;
        for topic in metadata.topics() {
            if regex
                .as_ref()
                .map_or(topic.name() == pattern, |regex| regex.is_match(topic.name()))
            {
                match topic.error().map(RDKafkaErrorCode::from) {
                    None => {}
                    Some(RDKafkaErrorCode::UnknownTopicOrPartition) => continue,
                    Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                        return Err(KafkaError::Authorization {
                            what: format!("topic {:?}", topic.name()),
                            detail: RDKafkaErrorCode::TopicAuthorizationFailed.to_string(),
                        });
                    }
                    Some(code) => {
                        return Err(KafkaError::Client {
                            what: "asking for the topics",
                            detail: format!("{}: {code}", topic.name()),
                        });
                    }
                }
                found = true;
                chosen.insert(topic.name().to_owned(), topic.partitions().len());
            }
        }
        if !found {
            absent.push(pattern.clone());
        }
    }
    if absent.is_empty() {
        Ok(chosen.into_iter().collect())
    } else {
        Err(KafkaError::TopicsAbsent { topics: absent })
    }
}
