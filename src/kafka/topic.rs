//! Making a topic.

use std::time::Duration;

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    types::RDKafkaErrorCode,
};

use super::{
    client::Plain,
    error::{KafkaError, describe},
    options::KafkaOptions,
};

/// How long the broker may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Makes a topic with so many partitions, and the broker's own replication, or only asks whether it would be made. It is no
/// error if the topic is there already.
///
/// # Errors
/// The broker refuses, or does not answer within 15 seconds.
pub(crate) async fn create_topic(
    options: &KafkaOptions,
    topic: &str,
    partitions: i32,
    only_ask: bool,
) -> Result<(), KafkaError> {
    let admin: AdminClient<Plain> = options
        .admin_config()
        .create_with_context(Plain::default())
        .map_err(|error| KafkaError::client("making an admin client", &error))?;
    let request = AdminOptions::new()
        .validate_only(only_ask)
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT));
    let refused = |detail: String| KafkaError::Client {
        what: "creating the topic",
        detail: format!("{topic}: {detail}"),
    };
    // -1 is the broker's own default; brokers from before 2.4 don't know it.
    let mut last = String::new();
    for replication in [-1, 1] {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
        let results = admin
            .create_topics([&new], &request)
            .await
            .map_err(|error| refused(describe(&error)))?;
        match results.into_iter().next() {
            None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => return Ok(()),
            // Another replication would not be allowed either.
            Some(Err((
                _,
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed),
            ))) => return Err(refused(code.to_string())),
            Some(Err((_, code))) => last = code.to_string(),
        }
    }
    Err(refused(last))
}
