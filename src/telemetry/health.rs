//! Whether the service is ready, and if not, why.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::metric;

use crate::sync::lock;

/// A part of the service that readiness depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The model is loaded and answers.
    Model,
    /// Postgres accepts commits.
    Database,
    /// The consumer is in its group.
    Kafka,
    /// The dead-letter topic can be written.
    DeadLetters,
    /// The dead-letter topic is there.
    DeadLetterTopic,
    /// The service is not stopping.
    Running,
}

impl Part {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Database => "database",
            Self::Kafka => "kafka",
            Self::DeadLetters => "dead letters",
            Self::DeadLetterTopic => "dead-letter topic",
            Self::Running => "running",
        }
    }
}

/// Shared state behind `/ready` and `/live`: a part is either well, or not, for a reason; what to know of it beside; and whether
/// work goes on.
#[derive(Debug, Clone, Default)]
pub struct Health {
    faults: Arc<Mutex<BTreeMap<Part, String>>>,
    /// Partitions that stand still, each with the cause. They don't make the service unready: the others go on.
    quarantined: Arc<Mutex<Vec<String>>>,
    /// What somebody should do something about before it becomes a fault.
    notes: Arc<Mutex<BTreeMap<Part, String>>>,
    /// Somebody asks for partitions that stand still to be tried again.
    retry: Arc<Notify>,
    /// When something was last done or tried; none while nothing is to be done.
    progress: Arc<Mutex<Option<Instant>>>,
}

impl Health {
    /// The parts that must start first have not reported yet.
    #[must_use]
    pub fn starting() -> Self {
        let health = Self::default();
        health.fault(Part::Model, "loading");
        health.fault(Part::Database, "connecting");
        health.fault(Part::Kafka, "joining the group");
        health
    }

    /// The part is well.
    pub fn well(&self, part: Part) {
        self.change(|faults| faults.remove(&part).is_some());
    }

    /// The part is not well.
    pub fn fault(&self, part: Part, why: impl Into<String>) {
        let why = why.into();
        self.change(|faults| faults.insert(part, why).is_none());
    }

    /// What is wrong, one line for each part; empty when ready.
    #[must_use]
    pub fn report(&self) -> Vec<String> {
        let faults = lock(&self.faults);
        faults
            .iter()
            .map(|(part, why)| format!("{}: {why}", part.as_str()))
            .collect()
    }

    /// Replaces the list of partitions that stand still, one line for each.
    pub fn set_quarantined(&self, partitions: Vec<String>) {
        *lock(&self.quarantined) = partitions;
    }

    /// The partitions that stand still, one line for each with the cause.
    #[must_use]
    pub fn quarantined(&self) -> Vec<String> {
        lock(&self.quarantined).clone()
    }

    /// Sets or takes away what somebody should do about a part, which works meanwhile.
    pub fn note(&self, part: Part, note: Option<String>) {
        let mut notes = lock(&self.notes);
        match note {
            Some(note) => notes.insert(part, note),
            None => notes.remove(&part),
        };
    }

    /// What somebody should do, one line for each part.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let notes = lock(&self.notes);
        notes
            .iter()
            .map(|(part, note)| format!("{}: {note}", part.as_str()))
            .collect()
    }

    /// Asks for the partitions that stand still to be tried again now.
    pub fn ask_for_retry(&self) {
        self.retry.notify_one();
    }

    /// Resolves when somebody asks for the partitions that stand still to be tried again.
    pub async fn retry_asked_for(&self) {
        self.retry.notified().await;
    }

    /// There is work, and something of it was done or tried just now. A try that fails counts: what waits for a database
    /// that is away is not stuck.
    pub fn progress(&self) {
        *lock(&self.progress) = Some(Instant::now());
    }

    /// There is nothing to do.
    pub fn idle(&self) {
        *lock(&self.progress) = None;
    }

    /// For how long nothing was done or tried although there is work, if that is longer than `limit`.
    #[must_use]
    pub fn stalled(&self, limit: Duration) -> Option<Duration> {
        let progress = *lock(&self.progress);
        progress.map(|at| at.elapsed()).filter(|since| *since > limit)
    }

    fn change(&self, apply: impl FnOnce(&mut BTreeMap<Part, String>) -> bool) {
        // Nothing panics while holding the lock; a poisoned one still holds a whole map.
        let mut faults = lock(&self.faults);
        apply(&mut faults);
        metrics::gauge!(metric::READY).set(if faults.is_empty() { 1.0 } else { 0.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_part_is_well() {
        let health = Health::starting();
        assert_eq!(health.report().len(), 3);
        for part in [Part::Model, Part::Database, Part::Kafka] {
            health.well(part);
        }
        assert!(health.report().is_empty());
        health.fault(Part::Database, "away");
        assert_eq!(health.report(), ["database: away"]);
    }

    #[test]
    fn stalled_is_what_has_work_and_does_none() {
        let health = Health::default();
        assert_eq!(health.stalled(Duration::ZERO), None);
        health.progress();
        assert!(health.stalled(Duration::ZERO).is_some());
        assert_eq!(health.stalled(Duration::from_secs(3_600)), None);
        health.idle();
        assert_eq!(health.stalled(Duration::ZERO), None);
    }
}
