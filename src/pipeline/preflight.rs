//! Checks for problems that would stop the service later. `moodstream check` prints them, and `run` logs them at startup.

use std::{collections::BTreeSet, time::Duration};

use super::stored_offsets::{OffsetsReport, check_offsets};
use crate::{
    config::Settings,
    kafka::{self, BrokerReport, KafkaError},
    store::{Store, StoreError},
    telemetry::health::{Component, Health},
};

/// How long to wait for an answer of the broker.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The pause between two checks at startup. In the meantime someone may create the topic or grant permissions.
const PAUSE: Duration = Duration::from_secs(10);

/// The results of the checks.
#[derive(Debug)]
pub struct Preflight {
    /// What the brokers reported, and warnings.
    pub broker: Result<(BrokerReport, Vec<String>), KafkaError>,
    /// The privileges that the role lacks; `None` if the database was not checked.
    pub missing_privileges: Option<Result<Vec<String>, StoreError>>,
    /// The check of the stored offsets; `None` if there was no database to check or the check of the broker failed.
    pub offsets: Option<anyhow::Result<OffsetsReport>>,
}

impl Preflight {
    /// Checks the broker, and the database if `store` is given. Creates the dead-letter topic if it doesn't exist; with
    /// `validate_only` only asks the broker whether it could be created.
    pub async fn run(settings: &Settings, store: Option<&Store>, timeout: Duration, validate_only: bool) -> Self {
        let broker = async {
            let report = kafka::check_broker(&settings.kafka, timeout).await?;
            let warnings = if settings.dead_letter.enabled {
                kafka::prepare_dead_letter_topic(&settings.kafka, &report, timeout, validate_only).await?
            } else {
                report.warnings.clone()
            };
            Ok((report, warnings))
        };
        let broker = broker.await;
        let missing_privileges = match store {
            Some(store) => Some(store.missing_privileges().await),
            None => None,
        };
        let offsets = match (store, &broker) {
            (Some(store), Ok((report, _))) => Some(check_offsets(settings, store, report, timeout).await),
            _ => None,
        };
        Self {
            broker,
            missing_privileges,
            offsets,
        }
    }

    /// What to do about the privileges that the role lacks; `None` if it has all of them.
    #[must_use]
    pub fn privileges_warning(&self) -> Option<String> {
        let missing = self.missing_privileges.as_ref()?.as_ref().ok()?;
        (!missing.is_empty()).then(|| {
            format!(
                "the role lacks {}: grant it by `moodstream migrate --service-role`",
                missing.join(", ")
            )
        })
    }

    /// All warnings. They don't include offsets from which the consumer can't continue, whose partitions are quarantined.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let broker = self.broker.iter().flat_map(|(_, warnings)| warnings.iter().cloned());
        let offsets = self.offsets.iter().flatten();
        let offsets = offsets.flat_map(|report| report.warnings.iter().cloned());
        self.privileges_warning()
            .into_iter()
            .chain(broker)
            .chain(offsets)
            .collect()
    }

    /// Whether all checks could be made.
    fn is_complete(&self) -> bool {
        self.broker.is_ok()
            && self.missing_privileges.as_ref().is_none_or(Result::is_ok)
            && self.offsets.as_ref().is_none_or(Result::is_ok)
    }
}

/// Logs each problem once, and repeats the checks until all could be made and dead letters can be written. While dead letters
/// can't be written the service is not ready, but posts are stored.
pub(super) async fn warn(settings: Settings, store: Store, health: Health) {
    let mut logged = BTreeSet::new();
    loop {
        let found = Preflight::run(&settings, Some(&store), TIMEOUT, false).await;
        for warning in found.warnings() {
            if logged.insert(warning.clone()) {
                tracing::warn!("{warning}");
            }
        }
        match &found.broker {
            Ok(_) => health.clear_fault(Component::DeadLetterTopic),
            Err(error @ KafkaError::DeadLetterTopic { .. }) => {
                let error = error.to_string();
                if logged.insert(error.clone()) {
                    tracing::error!("{error}");
                }
                health.set_fault(Component::DeadLetterTopic, error);
            }
            // The consumer reports what is wrong.
            Err(error) => tracing::debug!(%error, "can't check the topics yet"),
        }
        if found.is_complete() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
