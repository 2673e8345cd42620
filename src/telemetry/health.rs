//! Whether the service is ready, and if not, why.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{ProcessStatus, metric};
use crate::sync::lock;

/// A component of the service that readiness depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The model: loaded and working.
    Model,
    /// Postgres: accepts commits.
    Database,
    /// The consumer: a member of its group.
    Kafka,
    /// The dead-letter producer: dead letters can be written.
    DeadLetters,
    /// The dead-letter topic: exists.
    DeadLetterTopic,
    /// The process itself: not shutting down.
    Running,
}

impl Component {
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

/// The state behind `/ready`, `/live` and the live page: the fault of each component that has one, notes about components
/// that need attention, whether work makes progress, and the process's figures.
#[derive(Debug, Clone, Default)]
pub struct Health {
    faults: Arc<Mutex<BTreeMap<Component, String>>>,
    /// Quarantined partitions with their causes. They don't make the service unready, since the others continue.
    quarantined: Arc<Mutex<Vec<String>>>,
    /// Things to do about a component before they become a fault.
    notes: Arc<Mutex<BTreeMap<Component, String>>>,
    /// Notified when someone asks for quarantined partitions to be retried.
    retry: Arc<Notify>,
    /// When work was last done or attempted; `None` while there is none to do.
    progress: Arc<Mutex<Option<Instant>>>,
    status: ProcessStatus,
}

impl Health {
    /// Creates the initial state, in which the components that start first are not ready yet.
    #[must_use]
    pub fn starting() -> Self {
        let health = Self::default();
        health.set_fault(Component::Model, "loading");
        health.set_fault(Component::Database, "connecting");
        health.set_fault(Component::Kafka, "joining the group");
        health
    }

    /// Clears the component's fault.
    pub fn clear_fault(&self, component: Component) {
        self.change(|faults| {
            faults.remove(&component);
        });
    }

    /// Sets the component's fault.
    pub fn set_fault(&self, component: Component, why: impl Into<String>) {
        let why = why.into();
        self.change(|faults| {
            faults.insert(component, why);
        });
    }

    /// Returns the faults, one line per component. It is empty if the service is ready.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let faults = lock(&self.faults);
        faults
            .iter()
            .map(|(component, why)| format!("{}: {why}", component.as_str()))
            .collect()
    }

    /// Replaces the list of quarantined partitions, one line each.
    pub fn set_quarantined(&self, partitions: Vec<String>) {
        *lock(&self.quarantined) = partitions;
    }

    /// Returns the quarantined partitions, one line each with the cause.
    #[must_use]
    pub fn quarantined(&self) -> Vec<String> {
        lock(&self.quarantined).clone()
    }

    /// Sets or clears the note of a component: what to do about it while it still works.
    pub fn set_note(&self, component: Component, note: Option<String>) {
        let mut notes = lock(&self.notes);
        match note {
            Some(note) => notes.insert(component, note),
            None => notes.remove(&component),
        };
    }

    /// Returns the notes, one line per component.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let notes = lock(&self.notes);
        notes
            .iter()
            .map(|(component, note)| format!("{}: {note}", component.as_str()))
            .collect()
    }

    /// Asks for quarantined partitions to be retried now.
    pub fn request_retry(&self) {
        self.retry.notify_one();
    }

    /// Completes when someone asks for quarantined partitions to be retried.
    pub async fn retry_requested(&self) {
        self.retry.notified().await;
    }

    /// Records that there is work and that some was just done or attempted. A failed attempt counts, since waiting for an
    /// unavailable database does not mean being stuck.
    pub fn progress(&self) {
        *lock(&self.progress) = Some(Instant::now());
    }

    /// Records that there is no work.
    pub fn idle(&self) {
        *lock(&self.progress) = None;
    }

    /// Returns how long work has made no progress, if that is longer than `limit`.
    #[must_use]
    pub fn stalled(&self, limit: Duration) -> Option<Duration> {
        let progress = *lock(&self.progress);
        progress.map(|at| at.elapsed()).filter(|since| *since > limit)
    }

    /// What the process does, in numbers.
    #[must_use]
    pub const fn status(&self) -> &ProcessStatus {
        &self.status
    }

    fn change(&self, apply: impl FnOnce(&mut BTreeMap<Component, String>)) {
        let mut faults = lock(&self.faults);
        apply(&mut faults);
        metrics::gauge!(metric::READY).set(if faults.is_empty() { 1.0 } else { 0.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_no_component_has_a_fault() {
        let health = Health::starting();
        assert_eq!(health.faults().len(), 3);
        for component in [Component::Model, Component::Database, Component::Kafka] {
            health.clear_fault(component);
        }
        assert!(health.faults().is_empty());
        health.set_fault(Component::Database, "away");
        assert_eq!(health.faults(), ["database: away"]);
    }

    #[test]
    fn stalled_when_there_is_work_but_no_progress() {
        let health = Health::default();
        assert_eq!(health.stalled(Duration::ZERO), None);
        health.progress();
        assert!(health.stalled(Duration::ZERO).is_some());
        assert_eq!(health.stalled(Duration::from_secs(3_600)), None);
        health.idle();
        assert_eq!(health.stalled(Duration::ZERO), None);
    }
}
