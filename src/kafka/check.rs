//! Checks that the broker can be used, and says in one line why not.

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
    /// The dead-letter topic.
    pub dead_letters: DeadLetterTopic,
    /// The id of the cluster, where the brokers tell it.
    pub cluster: Option<String>,
    /// What may do harm later, one line each.
    pub warnings: Vec<String>,
}

/// The dead-letter topic as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterTopic {
    /// It is there, and takes records of so many bytes where the topics that are read hold larger ones.
    Present {
        /// Its name.
        name: String,
        /// `max.message.bytes` of it, where the broker tells it.
        max_bytes: Option<u64>,
        /// `max.message.bytes` of it, if that is below that of a topic that is read: larger records are cut.
        cut_to_bytes: Option<u64>,
    },
    /// It is not there; the first dead letter makes it, or, where the broker makes no topics, stops the service.
    Absent {
        /// Its name.
        name: String,
        /// `auto.create.topics.enable` of the broker; none where it does not say.
        created_by_broker: Option<bool>,
    },
}

/// Has librdkafka read the properties as a consumer and a producer would, without a broker: values out of range,
/// certificates that are not there, mechanisms that it lacks.
///
/// # Errors
/// [`KafkaError::Setting`] with its reason.
pub fn check_clients(options: &KafkaOptions) -> Result<(), KafkaError> {
    let offline = |mut config: ClientConfig| {
        config.remove("bootstrap.servers");
        config
    };
    let making = |error| KafkaError::client("making a client", &error);
    let _: BaseConsumer<Plain> = offline(options.consumer_config())
        .create_with_context(Plain::default())
        .map_err(making)?;
    let _: BaseProducer<Plain> = offline(options.producer_config())
        .create_with_context(Plain::default())
        .map_err(making)?;
    Ok(())
}

/// Asks the brokers for the topics of the settings.
///
/// # Errors
/// [`KafkaError`] in one line: a wrong setting, no answer within `timeout`, a refused login, a
/// denied or an absent topic.
pub async fn check_broker(options: &KafkaOptions, timeout: Duration) -> Result<BrokerReport, KafkaError> {
    options.check()?;
    let (brokers, first_broker, topics, replicas, cluster) = {
        let options = options.clone();
        blocking(move || {
            let (metadata, cluster) = fetch_metadata_of_cluster(&options, timeout)?;
            let topics = select(&metadata, &options.topics)?;
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
            "the dead-letter topic {name} has {own} replicas and the topics that are read {read}: a broker that is lost may take \
             dead letters with it, or stop them"
        ));
    }
    let dead_letters = match (replicas.1, first_broker) {
        (Some(_), _) => {
            let limit = |topic| setting(options, ResourceSpecifier::Topic(topic), "max.message.bytes", timeout);
            let own = limit(&name).await.and_then(|bytes| bytes.parse::<u64>().ok());
            let cleanup = setting(options, ResourceSpecifier::Topic(&name), "cleanup.policy", timeout).await;
            if cleanup.is_some_and(|policy| policy.contains("compact")) {
                warnings.push(format!(
                    "the dead-letter topic {name} is compacted: letters without a key are refused, which stops everything, and of \
                     those with one only the last is kept; set its cleanup.policy to delete"
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
                    setting(
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

/// The fewest replicas of a topic's partitions; none where it is absent.
fn replicas(metadata: &Metadata, name: &str) -> Option<usize> {
    let mut topics = metadata.topics().iter();
    let topic = topics.find(|topic| topic.name() == name && topic.error().is_none())?;
    topic
        .partitions()
        .iter()
        .map(|partition| partition.replicas().len())
        .min()
}

/// How long topics keep their records; without those that keep them for ever, and those of which the broker does not tell.
pub async fn retention(
    options: &KafkaOptions,
    topics: impl IntoIterator<Item = &str>,
    timeout: Duration,
) -> BTreeMap<String, Duration> {
    let mut found = BTreeMap::new();
    for topic in topics {
        let value = setting(options, ResourceSpecifier::Topic(topic), "retention.ms", timeout).await;
        // -1 is for ever.
        if let Some(millis) = value.and_then(|value| value.parse::<u64>().ok()) {
            found.insert(topic.to_owned(), Duration::from_millis(millis));
        }
    }
    found
}

/// A setting of a topic or broker; none where the broker does not tell, for lack of a right perhaps.
async fn setting(
    options: &KafkaOptions,
    resource: ResourceSpecifier<'_>,
    name: &str,
    timeout: Duration,
) -> Option<String> {
    let admin: AdminClient<Plain> = options.admin_config().create_with_context(Plain::default()).ok()?;
    let request = AdminOptions::new().request_timeout(Some(timeout));
    let answers = admin.describe_configs([&resource], &request).await.ok()?;
    let config = answers.into_iter().next()?.ok()?;
    config.get(name)?.value.clone()
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
    fetch_metadata_of_cluster(options, timeout).map(|(metadata, _)| metadata)
}

/// Metadata of all topics, and the id of the cluster where the brokers tell it.
fn fetch_metadata_of_cluster(
    options: &KafkaOptions,
    timeout: Duration,
) -> Result<(Metadata, Option<String>), KafkaError> {
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
            Ok(metadata) => return Ok((metadata, client.client().fetch_cluster_id(Duration::ZERO))),
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
