//! Sees at the start that dead letters can be written.

use std::time::Duration;

use crate::{
    kafka::{self, KafkaError, KafkaOptions},
    telemetry::health::{Health, Part},
};

/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Between two tries: somebody may make the topic or grant the right.
const PAUSE: Duration = Duration::from_secs(10);

/// Makes the dead-letter topic where it is absent, and goes on trying until dead letters can be written. Until then the service is
/// not ready, for the reason; posts are stored meanwhile.
pub(super) async fn prepare(options: KafkaOptions, health: Health) {
    let mut told = false;
    loop {
        let prepared = async {
            let report = kafka::check_broker(&options, TIMEOUT).await?;
            kafka::prepare_dead_letter_topic(&options, &report, TIMEOUT, false).await
        };
        match prepared.await {
            Ok(warnings) => {
                health.well(Part::DeadLetterTopic);
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                return;
            }
            Err(error @ KafkaError::DeadLetterTopic { .. }) => {
                let error = error.to_string();
                if !std::mem::replace(&mut told, true) {
                    tracing::error!("{error}");
                }
                health.fault(Part::DeadLetterTopic, error);
            }
            // The consumer says what is wrong.
            Err(error) => tracing::debug!(%error, "can't look at the dead-letter topic yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
