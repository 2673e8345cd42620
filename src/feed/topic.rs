//! Sees that a topic is there before it is filled.

use std::time::{Duration, Instant};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    types::RDKafkaErrorCode,
};

use super::options::{FeedError, FeedOptions};
use crate::kafka::{KafkaError, KafkaOptions, client, error::describe, fetch_metadata};

/// Sees that the topic is there, with the partitions asked for.
pub(super) fn prepare(kafka: &KafkaOptions, options: &FeedOptions) -> Result<(), FeedError> {
    const WAIT: Duration = Duration::from_secs(15);
    let partitions_of = |metadata: &rdkafka::metadata::Metadata| {
        metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == options.topic && topic.error().is_none())
            .map(|topic| topic.partitions().len())
    };
    let found = partitions_of(&fetch_metadata(kafka, WAIT)?);
    match (found, options.create_partitions) {
        (None, None) => Err(KafkaError::TopicsAbsent {
            topics: vec![options.topic.clone()],
        }
        .into()),
        (Some(_), None) => Ok(()),
        (Some(found), Some(wanted)) if usize::try_from(wanted).is_ok_and(|wanted| wanted == found) => Ok(()),
        (Some(found), Some(wanted)) => Err(FeedError::Partitions {
            topic: options.topic.clone(),
            wanted,
            found,
        }),
        (None, Some(wanted)) => {
            if wanted < 1 {
                return Err(KafkaError::setting("create_partitions", "must be at least 1").into());
            }
            create(kafka, &options.topic, wanted)?;
            // A new topic takes a moment until every broker knows it.
            let deadline = Instant::now() + WAIT;
            while partitions_of(&fetch_metadata(kafka, WAIT)?).is_none() {
                if Instant::now() > deadline {
                    return Err(KafkaError::TopicsAbsent {
                        topics: vec![options.topic.clone()],
                    }
                    .into());
                }
            }
            Ok(())
        }
    }
}

fn create(kafka: &KafkaOptions, topic: &str, partitions: i32) -> Result<(), KafkaError> {
    let admin: AdminClient<client::Plain> = kafka
        .admin_config()
        .create_with_context(client::Plain::default())
        .map_err(|error| KafkaError::client("making an admin client", &error))?;
    let options = AdminOptions::new()
        .request_timeout(Some(Duration::from_secs(15)))
        .operation_timeout(Some(Duration::from_secs(15)));
    let refused = |detail: String| KafkaError::Client {
        what: "creating the topic",
        detail: format!("{topic}: {detail}"),
    };
    // -1 is the broker's own default; brokers from before 2.4 don't know it.
    let mut last = String::new();
    for replication in [-1, 1] {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
        let results = futures::executor::block_on(admin.create_topics([&new], &options))
            .map_err(|error| refused(describe(&error)))?;
        match results.into_iter().next() {
            None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => return Ok(()),
            Some(Err((_, code))) => last = code.to_string(),
        }
    }
    Err(refused(last))
}
