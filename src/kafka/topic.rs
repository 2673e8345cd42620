//! Creates topics.

use std::time::Duration;

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    types::RDKafkaErrorCode,
};

use super::{
    client::CommonContext,
    error::{KafkaError, describe},
    options::KafkaOptions,
};

/// How long to wait for the broker.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Creates a topic with this partition count and the broker's default replication factor; with `validate_only` only asks
/// the broker whether it could be created. It is no error if the topic exists already.
///
/// # Errors
/// The broker refuses, or doesn't answer within 15 seconds.
pub(crate) async fn create_topic(
    options: &KafkaOptions,
    topic: &str,
    partitions: i32,
    validate_only: bool,
) -> Result<(), KafkaError> {
    let admin: AdminClient<CommonContext> = options
        .admin_config()
        .create_with_context(CommonContext::default())
        .map_err(|error| KafkaError::client("creating an admin client", &error))?;
    let request = AdminOptions::new()
        .validate_only(validate_only)
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT));
    let refused = |detail: String| KafkaError::Client {
        what: "creating the topic",
        detail: format!("{topic}: {detail}"),
    };
    // -1 is the broker's default; brokers before 2.4 don't support it.
    let mut last = String::new();
    for replication in [-1, 1] {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
        let results = admin
            .create_topics([&new], &request)
            .await
            .map_err(|error| refused(describe(&error)))?;
        match results.into_iter().next() {
            None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => return Ok(()),
            // Another replication factor would not be authorized either.
            Some(Err((
                _,
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed),
            ))) => return Err(refused(code.to_string())),
            Some(Err((_, code))) => last = code.to_string(),
        }
    }
    Err(refused(last))
}
