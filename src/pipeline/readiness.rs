//! The consumer's part of `/ready`.

use std::time::Duration;

use crate::{
    kafka::{Assignment, Partition, QuarantineCause},
    telemetry::health::{Component, Health},
};

/// Reports whether partitions are assigned to this member, their lag, and which of them are quarantined. Retries quarantined
/// partitions on demand.
pub(super) async fn report(assignment: Assignment, health: Health) {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = health.retry_requested() => assignment.retry_quarantined(),
        }
        let quarantined = assignment.quarantined();
        health.set_quarantined(quarantined.into_iter().map(describe_quarantined).collect());
        let (partitions, lag) = assignment.totals();
        health
            .status()
            .update(|status| (status.partitions, status.lag) = (partitions, lag));
        let last_error = assignment.last_error();
        if assignment.is_ready() {
            health.clear_fault(Component::Kafka);
            // Without partitions this is no fault: there may be more members than partitions, or the topic may be gone.
            health.set_note(Component::Kafka, last_error);
        } else {
            let why = last_error.map(|error| format!(": {error}")).unwrap_or_default();
            health.set_fault(Component::Kafka, format!("waiting for the group's assignment{why}"));
        }
    }
}

fn describe_quarantined(((topic, partition), cause): (Partition, QuarantineCause)) -> String {
    format!("{topic}/{partition}: {}: {}", cause.reason.as_str(), cause.detail)
}
