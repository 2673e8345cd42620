//! Tracks the work in progress, to detect idle sessions.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts units of work: windows not yet divided into batches, and batches that are queued or running. Clones share the count.
#[derive(Debug, Clone)]
pub(super) struct Workload(Arc<watch::Sender<usize>>);

/// A unit of work, counted until it is dropped.
#[derive(Debug)]
pub(super) struct WorkUnit(Workload);

impl Workload {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Adds a unit.
    pub(super) fn unit(&self) -> WorkUnit {
        self.0.send_modify(|units| *units += 1);
        WorkUnit(self.clone())
    }

    /// Completes once there are fewer than `units` units.
    pub(super) async fn below(&self, units: usize) {
        // Can't fail, because `self` holds the sender.
        let _ = self.0.subscribe().wait_for(|now| *now < units).await;
    }
}

impl WorkUnit {
    /// Adds a unit to the same workload.
    pub(super) fn another(&self) -> Self {
        self.0.unit()
    }
}

impl Drop for WorkUnit {
    fn drop(&mut self) {
        self.0.0.send_modify(|units| *units -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn below_waits_for_units_to_be_dropped() {
        let workload = Workload::new();
        let first = workload.unit();
        let second = first.another();
        let mut below_two = pin!(workload.below(2));
        assert!(below_two.as_mut().now_or_never().is_none());
        drop(first);
        below_two.await;
        assert!(workload.below(1).now_or_never().is_none());
        drop(second);
        workload.below(1).await;
    }
}
