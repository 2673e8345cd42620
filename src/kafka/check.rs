//! Checks that the broker can be used, and reports in one line why not.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    consumer::{BaseConsumer, Consumer as _},
    metadata::Metadata,
    producer::BaseProducer,
    types::RDKafkaErrorCode,
};

use super::{
    client::CommonContext,
    error::{KafkaError, describe, is_authentication},
    options::KafkaOptions,
    partition::Partition,
};

/// What the brokers reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerReport {
    /// The brokers' addresses, `host:port`.
    pub brokers: Vec<String>,
    /// The topics that will be read, with their partition counts.
    pub topics: Vec<(String, usize)>,
    /// The dead-letter topic.
    pub dead_letters: DeadLetterTopic,
    /// The id of the cluster, if the brokers report one.
    pub cluster: Option<String>,
    /// Problems that may do harm later, one line each.
    pub warnings: Vec<String>,
}

/// The state of the dead-letter topic at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterTopic {
    /// It exists.
    Present {
        /// Its name.
        name: String,
        /// Its `max.message.bytes`, if the broker reports it.
        max_bytes: Option<u64>,
        /// Its `max.message.bytes`, if a topic that is read has a larger one: larger records are truncated.
        cut_to_bytes: Option<u64>,
    },
    /// It doesn't exist. The first dead letter creates it or, if the broker doesn't create topics, stops the service.
    Absent {
        /// Its name.
        name: String,
        /// The broker's `auto.create.topics.enable`; `None` if the broker doesn't report it.
        created_by_broker: Option<bool>,
    },
}

/// Creates a consumer and a producer without a broker, so that librdkafka checks the properties: values out of range,
/// missing certificates, unsupported mechanisms.
///
/// # Errors
/// [`KafkaError::Setting`] with librdkafka's reason.
pub fn check_clients(options: &KafkaOptions) -> Result<(), KafkaError> {
    let offline = |mut config: ClientConfig| {
        config.remove("bootstrap.servers");
        config
    };
    let making = |error| KafkaError::client("creating a client", &error);
    let _: BaseConsumer<CommonContext> = offline(options.consumer_config())
        .create_with_context(CommonContext::default())
        .map_err(making)?;
    let _: BaseProducer<CommonContext> = offline(options.producer_config())
        .create_with_context(CommonContext::default())
        .map_err(making)?;
    Ok(())
}

/// Queries the brokers about the configured topics.
///
/// # Errors
/// [`KafkaError`] in one line: an invalid setting, no answer within `timeout`, a refused login, a
/// missing topic, or one that this user may not read.
pub async fn check_broker(options: &KafkaOptions, timeout: Duration) -> Result<BrokerReport, KafkaError> {
    options.check()?;
    let (brokers, first_broker, topics, replicas, cluster) = {
        let options = options.clone();
        blocking(move || {
            let (metadata, cluster) = fetch_metadata_of_cluster(&options, timeout)?;
            let topics = select_topics(&metadata, &options.topics)?;
            let brokers: Vec<String> = metadata
                .brokers()
                .iter()
                .map(|broker| format!("{}:{}", broker.host(), broker.port()))
                .collect();
            let first = metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id);
            let read = topics.iter().filter_map(|(topic, _)| replicas(&metadata, topic)).max();
            let dead_letters = replicas(&metadata, &options.dead_letter_topic());
            Ok((brokers, first, topics, (read, dead_letters), cluster))
        })
        .await?
    };
    let name = options.dead_letter_topic();
    let mut warnings = Vec::new();
    if let (Some(read), Some(own)) = replicas
        && own < read
    {
        warnings.push(format!(
            "the dead-letter topic {name} has {own} replicas, fewer than the {read} of the topics that are read: if a broker \
             fails, dead letters may be lost or refused"
        ));
    }
    let dead_letters = match (replicas.1, first_broker) {
        (Some(_), _) => {
            let limit = |topic| config_value(options, ResourceSpecifier::Topic(topic), "max.message.bytes", timeout);
            let own = limit(&name).await.and_then(|bytes| bytes.parse::<u64>().ok());
            let cleanup = config_value(options, ResourceSpecifier::Topic(&name), "cleanup.policy", timeout).await;
            if cleanup.is_some_and(|policy| policy.contains("compact")) {
                warnings.push(format!(
                    "the dead-letter topic {name} is compacted: dead letters without a key are refused, which stops all partitions, \
                     and only the last dead letter of each key is kept; set its cleanup.policy to delete"
                ));
            }
            let mut cut_to_bytes = None;
            for (topic, _) in &topics {
                let read = limit(topic).await.and_then(|bytes| bytes.parse::<u64>().ok());
                if let (Some(own), Some(read)) = (own, read)
                    && own < read
                {
                    cut_to_bytes = Some(own);
                }
            }
            DeadLetterTopic::Present {
                name,
                max_bytes: own,
                cut_to_bytes,
            }
        }
        (None, broker) => {
            let created = match broker {
                Some(broker) => {
                    config_value(
                        options,
                        ResourceSpecifier::Broker(broker),
                        "auto.create.topics.enable",
                        timeout,
                    )
                    .await
                }
                None => None,
            };
            DeadLetterTopic::Absent {
                name,
                created_by_broker: created.and_then(|value| value.parse().ok()),
            }
        }
    };
    Ok(BrokerReport {
        brokers,
        topics,
        dead_letters,
        cluster,
        warnings,
    })
}

/// The lowest replica count among a topic's partitions; `None` if the topic doesn't exist.
fn replicas(metadata: &Metadata, name: &str) -> Option<usize> {
    let mut topics = metadata.topics().iter();
    let topic = topics.find(|topic| topic.name() == name && topic.error().is_none())?;
    topic
        .partitions()
        .iter()
        .map(|partition| partition.replicas().len())
        .min()
}

/// The topics' `retention.ms`, without topics whose retention is unlimited or not reported by the broker.
pub async fn retention(
    options: &KafkaOptions,
    topics: impl IntoIterator<Item = &str>,
    timeout: Duration,
) -> BTreeMap<String, Duration> {
    let mut found = BTreeMap::new();
    for topic in topics {
        let value = config_value(options, ResourceSpecifier::Topic(topic), "retention.ms", timeout).await;
        // -1 means unlimited.
        if let Some(millis) = value.and_then(|value| value.parse::<u64>().ok()) {
            found.insert(topic.to_owned(), Duration::from_millis(millis));
        }
    }
    found
}

/// A config value of a topic or broker; `None` if the broker doesn't report it, for example for lack of permission.
async fn config_value(
    options: &KafkaOptions,
    resource: ResourceSpecifier<'_>,
    name: &str,
    timeout: Duration,
) -> Option<String> {
    let admin: AdminClient<CommonContext> = options
        .admin_config()
        .create_with_context(CommonContext::default())
        .ok()?;
    let request = AdminOptions::new().request_timeout(Some(timeout));
    let answers = admin.describe_configs([&resource], &request).await.ok()?;
    let config = answers.into_iter().next()?.ok()?;
    config.get(name)?.value.clone()
}

/// Runs a blocking request on tokio's blocking thread pool.
pub(super) async fn blocking<T: Send + 'static>(
    request: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    match tokio::task::spawn_blocking(request).await {
        Ok(answer) => answer,
        Err(error) => Err(KafkaError::Client {
            what: "querying the broker",
            detail: error.to_string(),
        }),
    }
}

/// The partitions of the configured topics, in order. Fails if a topic doesn't exist.
pub(super) fn partitions(options: &KafkaOptions, timeout: Duration) -> Result<Vec<Partition>, KafkaError> {
    let metadata = fetch_metadata(options, timeout)?;
    let mut partitions = Vec::new();
    for (topic, count) in select_topics(&metadata, &options.topics)? {
        let topic: std::sync::Arc<str> = topic.into();
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        partitions.extend((0..count).map(|partition| (std::sync::Arc::clone(&topic), partition)));
    }
    Ok(partitions)
}

/// Metadata of all topics. A request for a single topic by name could create it.
pub(crate) fn fetch_metadata(options: &KafkaOptions, timeout: Duration) -> Result<Metadata, KafkaError> {
    fetch_metadata_of_cluster(options, timeout).map(|(metadata, _)| metadata)
}

/// Metadata of all topics, and the id of the cluster if the brokers report one.
fn fetch_metadata_of_cluster(
    options: &KafkaOptions,
    timeout: Duration,
) -> Result<(Metadata, Option<String>), KafkaError> {
    let client: BaseConsumer<CommonContext> = options
        .admin_config()
        .create_with_context(CommonContext::default())
        .map_err(|error| KafkaError::client("creating a client", &error))?;
    let deadline = Instant::now() + timeout;
    loop {
        let slice = deadline
            .saturating_duration_since(Instant::now())
            .min(Duration::from_millis(500));
        let error = match client.fetch_metadata(None, slice) {
            Ok(metadata) => return Ok((metadata, client.client().fetch_cluster_id(Duration::ZERO))),
            Err(error) => error,
        };
        // Error events carry the reason.
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

/// The topics that match the names and patterns, with their partition counts, in order.
fn select_topics(metadata: &Metadata, wanted: &[String]) -> Result<Vec<(String, usize)>, KafkaError> {
    let mut chosen = BTreeMap::new();
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
                            what: "querying the topics",
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
