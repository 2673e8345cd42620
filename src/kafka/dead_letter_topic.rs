//! Sees at the start that dead letters can be written, rather than at the first of them.

use std::time::Duration;

use rdkafka::{
    producer::{FutureProducer, FutureRecord},
    types::RDKafkaErrorCode,
    util::Timeout,
};

use super::{
    check::{BrokerReport, DeadLetterTopic},
    client::Plain,
    error::{KafkaError, describe},
    options::KafkaOptions,
    topic::create_topic,
};

/// The most bytes that are sent to find out whether the dead-letter topic may be written.
const MAX_TRIAL_BYTES: u64 = 4 << 20;
/// What a record takes at most beside its value.
const MARGIN_BYTES: u64 = 4_096;

/// Makes the dead-letter topic where it is absent, or with `only_ask` finds out whether the broker would, and checks that it may
/// be written. Returns what is worth a warning.
///
/// # Errors
/// [`KafkaError::DeadLetterTopic`] if dead letters can't be written; others if the broker can't be asked.
pub async fn prepare_dead_letter_topic(
    options: &KafkaOptions,
    report: &BrokerReport,
    timeout: Duration,
    only_ask: bool,
) -> Result<Vec<String>, KafkaError> {
    let mut warnings = report.warnings.clone();
    match &report.dead_letters {
        DeadLetterTopic::Present {
            name,
            max_bytes,
            cut_to_bytes,
        } => {
            check_write(options, name, *max_bytes, timeout).await?;
            if let Some(bytes) = cut_to_bytes {
                warnings.push(format!(
                    "the dead-letter topic {name} takes {bytes} bytes and less than the topics that are read: larger records are \
                     cut there, so raise its max.message.bytes"
                ));
            }
        }
        DeadLetterTopic::Absent {
            name,
            created_by_broker,
        } => {
            let partitions = report.topics.iter().map(|(_, partitions)| *partitions).max();
            let partitions = partitions.and_then(|count| i32::try_from(count).ok()).unwrap_or(1);
            let absent = format!("the dead-letter topic {name} was not there");
            match create_topic(options, name, partitions.max(1), only_ask).await {
                Ok(()) if only_ask => warnings.push(format!("{absent}: `moodstream run` makes it")),
                Ok(()) => warnings.push(format!("{absent} and has been made")),
                Err(error) if *created_by_broker == Some(true) => {
                    warnings.push(format!("{absent}: the first dead letter makes it ({error})"));
                }
                Err(error) => return Err(KafkaError::dead_letter_topic(name, &error)),
            }
        }
    }
    Ok(warnings)
}

/// Checks that a topic may be written, without writing to it: the broker looks at the right to write before it refuses a record
/// by its size. Only where clients log in, as others have no rights of their own, and where the topic's limit is known and small.
///
/// # Errors
/// [`KafkaError::DeadLetterTopic`] if it may not be written.
pub(super) async fn check_write(
    options: &KafkaOptions,
    topic: &str,
    max_bytes: Option<u64>,
    timeout: Duration,
) -> Result<(), KafkaError> {
    let Some(bytes) = max_bytes.filter(|bytes| *bytes <= MAX_TRIAL_BYTES && options.logs_in()) else {
        return Ok(());
    };
    let mut config = options.producer_config();
    // A refusal would be fatal for an idempotent producer; and compression could make the record pass.
    config
        .set("enable.idempotence", "false")
        .set("compression.type", "none")
        .set("message.timeout.ms", timeout.as_millis().to_string());
    let producer: FutureProducer<Plain> = config
        .create_with_context(Plain::default())
        .map_err(|error| KafkaError::client("making a producer", &error))?;
    let value = vec![0; usize::try_from(bytes + MARGIN_BYTES).unwrap_or(usize::MAX)];
    let record = FutureRecord::<[u8], [u8]>::to(topic).payload(&value);
    let Err((error, _)) = producer.send(record, Timeout::Never).await else {
        return Ok(());
    };
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed) => {
            Err(KafkaError::dead_letter_topic(topic, &describe(&error)))
        }
        // Refused by its size, as expected; or the broker is busy, which the first letter will see.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rdkafka::{
        mocking::MockCluster,
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_missing_right_to_write_is_found_without_writing() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("posts.dead-letter", 1, 1).unwrap();
        let anonymous = KafkaOptions {
            brokers: mock.bootstrap_servers(),
            topics: vec!["posts".into()],
            ..KafkaOptions::default()
        };
        let check = async |options: &KafkaOptions, answer| {
            mock.request_errors(RDKafkaApiKey::Produce, &[answer]);
            let result = check_write(options, "posts.dead-letter", Some(1_000), Duration::from_secs(20)).await;
            mock.clear_request_errors(RDKafkaApiKey::Produce);
            result
        };
        let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        assert!(
            check(&anonymous, denied).await.is_ok(),
            "nothing is sent without a login"
        );
        let user = KafkaOptions {
            properties: [("sasl.username", "reader")].into_iter().collect(),
            ..anonymous
        };
        let error = check(&user, denied).await.unwrap_err().to_string();
        assert!(
            error.contains("posts.dead-letter") && error.contains("write"),
            "{error}"
        );
        let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        assert!(check(&user, too_large).await.is_ok());
    }
}
