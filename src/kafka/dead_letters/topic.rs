//! Ensures at startup that dead letters can be written, rather than at the first one.

use std::time::Duration;

use rdkafka::{
    producer::{FutureProducer, FutureRecord},
    types::RDKafkaErrorCode,
    util::Timeout,
};

use crate::kafka::{
    check::{BrokerReport, DeadLetterTopic},
    client::CommonContext,
    error::{KafkaError, describe},
    options::KafkaOptions,
    topic::create_topic,
};

/// The largest `max.message.bytes` with which write permission is tested: the test sends a larger record.
const MAX_TRIAL_BYTES: u64 = 4 << 20;
/// The bytes by which the test record exceeds `max.message.bytes`.
const MARGIN_BYTES: u64 = 4_096;

/// Creates the dead-letter topic if it doesn't exist, or with `validate_only` asks the broker whether it could be created, and
/// checks that this user may write to it. Returns warnings.
///
/// # Errors
/// [`KafkaError::DeadLetterTopic`] if dead letters can't be written; others if the broker doesn't answer.
pub async fn prepare_dead_letter_topic(
    options: &KafkaOptions,
    report: &BrokerReport,
    timeout: Duration,
    validate_only: bool,
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
                    "the dead-letter topic {name} takes records of at most {bytes} bytes, fewer than the topics that are read: \
                     larger dead letters are truncated; raise its max.message.bytes"
                ));
            }
        }
        DeadLetterTopic::Absent {
            name,
            created_by_broker,
        } => {
            let partitions = report.topics.iter().map(|(_, partitions)| *partitions).max();
            let partitions = partitions.and_then(|count| i32::try_from(count).ok()).unwrap_or(1);
            let absent = format!("the dead-letter topic {name} does not exist");
            match create_topic(options, name, partitions.max(1), validate_only).await {
                Ok(()) if validate_only => warnings.push(format!("{absent}: `moodstream run` creates it")),
                Ok(()) => warnings.push(format!(
                    "the dead-letter topic {name} did not exist and has been created"
                )),
                Err(error) if *created_by_broker == Some(true) => {
                    warnings.push(format!("{absent}: the first dead letter creates it ({error})"));
                }
                Err(error) => return Err(KafkaError::dead_letter_topic(name, &error)),
            }
        }
    }
    Ok(warnings)
}

/// Checks that this user may write to a topic, without writing to it: the broker checks write permission before it refuses a
/// record that is too large. Skipped if clients don't authenticate, since they then have no permissions of their own, and if
/// `max.message.bytes` is unknown or large.
///
/// # Errors
/// [`KafkaError::DeadLetterTopic`] if this user may not write to it.
pub(super) async fn check_write(
    options: &KafkaOptions,
    topic: &str,
    max_bytes: Option<u64>,
    timeout: Duration,
) -> Result<(), KafkaError> {
    let Some(bytes) = max_bytes.filter(|bytes| *bytes <= MAX_TRIAL_BYTES && options.authenticates()) else {
        return Ok(());
    };
    let mut config = options.producer_config();
    // A refusal would be fatal for an idempotent producer, and compression could make the record small enough.
    config
        .set("enable.idempotence", "false")
        .set("compression.type", "none")
        .set("message.timeout.ms", timeout.as_millis().to_string());
    let producer: FutureProducer<CommonContext> = config
        .create_with_context(CommonContext::default())
        .map_err(|error| KafkaError::client("creating a producer", &error))?;
    let value = vec![0; usize::try_from(bytes + MARGIN_BYTES).unwrap_or(usize::MAX)];
    let record = FutureRecord::<[u8], [u8]>::to(topic).payload(&value);
    let Err((error, _)) = producer.send(record, Timeout::Never).await else {
        return Ok(());
    };
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed) => {
            Err(KafkaError::dead_letter_topic(topic, &describe(&error)))
        }
        // Refused as too large, as expected, or another error, which the first dead letter will report if it persists.
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
    async fn missing_write_permission_is_found_without_writing() {
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
