//! Prepares the topic to feed.

use std::time::{Duration, Instant};

use super::options::{FeedError, FeedOptions};
use crate::kafka::{KafkaError, KafkaOptions, create_topic, fetch_metadata};

/// Checks that the topic exists, creating it if requested, and that it has the requested number of partitions.
pub(super) fn prepare(kafka: &KafkaOptions, options: &FeedOptions) -> Result<(), FeedError> {
    const WAIT: Duration = Duration::from_secs(15);
    const PAUSE: Duration = Duration::from_millis(100);
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
            futures::executor::block_on(create_topic(kafka, &options.topic, wanted, false))?;
            // It takes a moment until every broker knows a new topic.
            let deadline = Instant::now() + WAIT;
            while partitions_of(&fetch_metadata(kafka, WAIT)?).is_none() {
                if Instant::now() > deadline {
                    return Err(KafkaError::TopicsAbsent {
                        topics: vec![options.topic.clone()],
                    }
                    .into());
                }
                #[allow(clippy::disallowed_methods)] // brokers do not report when they know a topic
                std::thread::sleep(PAUSE);
            }
            Ok(())
        }
    }
}
