//! What would stop the service later, looked at before it does: `moodstream check` prints it, and a start logs it.

use std::{collections::BTreeSet, time::Duration};

use super::stored_offsets::{OffsetsReport, check_offsets};
use crate::{
    config::Settings,
    kafka::{self, BrokerReport, KafkaError},
    store::{Store, StoreError},
    telemetry::health::{Health, Part},
};

/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Between two looks at a start: somebody may make the topic or grant the right.
const PAUSE: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug)]
pub struct Preflight {
    /// What the brokers have, with what is worth a warning.
    pub broker: Result<(BrokerReport, Vec<String>), KafkaError>,
    /// The rights that the role lacks; none where the database was not to be asked.
    pub lacking_rights: Option<Result<Vec<String>, StoreError>>,
    /// What becomes of the stored offsets; none where broker or database were not to be asked, or can't be.
    pub offsets: Option<anyhow::Result<OffsetsReport>>,
}

impl Preflight {
    /// Asks the broker, and the database if its schema is there. The dead-letter topic is made where it is absent, or with
    /// `only_ask` the broker is asked whether it would be.
    pub async fn look(settings: &Settings, store: Option<&Store>, timeout: Duration, only_ask: bool) -> Self {
        let broker = async {
            let report = kafka::check_broker(&settings.kafka, timeout).await?;
            let warnings = if settings.dead_letter.enabled {
                kafka::prepare_dead_letter_topic(&settings.kafka, &report, timeout, only_ask).await?
            } else {
                report.warnings.clone()
            };
            Ok((report, warnings))
        };
        let broker = broker.await;
        let lacking_rights = match store {
            Some(store) => Some(store.lacking_rights().await),
            None => None,
        };
        let offsets = match (store, &broker) {
            (Some(store), Ok((report, _))) => Some(check_offsets(settings, store, report, timeout).await),
            _ => None,
        };
        Self {
            broker,
            lacking_rights,
            offsets,
        }
    }

    /// What to do about the rights that the role lacks; none where it has all.
    #[must_use]
    pub fn rights_warning(&self) -> Option<String> {
        let lacking = self.lacking_rights.as_ref()?.as_ref().ok()?;
        (!lacking.is_empty()).then(|| {
            format!(
                "the role lacks {}: grant it by `moodstream migrate --service-role`",
                lacking.join(", ")
            )
        })
    }

    /// All that is worth a warning. Offsets that can't be read on from are not among it: their partitions are quarantined.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let broker = self.broker.iter().flat_map(|(_, warnings)| warnings.iter().cloned());
        let offsets = self.offsets.iter().flatten();
        let offsets = offsets.flat_map(|report| report.warnings.iter().cloned());
        self.rights_warning().into_iter().chain(broker).chain(offsets).collect()
    }

    /// Whether everything could be asked.
    fn is_complete(&self) -> bool {
        self.broker.is_ok()
            && self.lacking_rights.as_ref().is_none_or(Result::is_ok)
            && self.offsets.as_ref().is_none_or(Result::is_ok)
    }
}

/// Logs what would stop the service later, each once, and goes on until everything could be asked and dead letters can be
/// written. Until then the service is not ready, for the reason; posts are stored meanwhile.
pub(super) async fn warn(settings: Settings, store: Store, health: Health) {
    let mut told = BTreeSet::new();
    loop {
        let found = Preflight::look(&settings, Some(&store), TIMEOUT, false).await;
        for warning in found.warnings() {
            if told.insert(warning.clone()) {
                tracing::warn!("{warning}");
            }
        }
        match &found.broker {
            Ok(_) => health.well(Part::DeadLetterTopic),
            Err(error @ KafkaError::DeadLetterTopic { .. }) => {
                let error = error.to_string();
                if told.insert(error.clone()) {
                    tracing::error!("{error}");
                }
                health.fault(Part::DeadLetterTopic, error);
            }
            // The consumer says what is wrong.
            Err(error) => tracing::debug!(%error, "can't look at the topics yet"),
        }
        if found.is_complete() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
