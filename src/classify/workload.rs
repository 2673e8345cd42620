//! What the sessions have to do.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts pieces of work: windows yet to be cut into batches, and batches that wait or run. Clones share the count.
#[derive(Debug, Clone)]
pub(super) struct Workload(Arc<watch::Sender<usize>>);

/// A piece of work, until it is dropped.
#[derive(Debug)]
pub(super) struct WorkUnit(Workload);

impl Workload {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// One piece more.
    pub(super) fn unit(&self) -> WorkUnit {
        self.0.send_modify(|units| *units += 1);
        WorkUnit(self.clone())
    }

    /// Resolves once there are fewer pieces than this.
    pub(super) async fn below(&self, units: usize) {
        // Fails only without a sender, which is in `self`.
        let _ = self.0.subscribe().wait_for(|now| *now < units).await;
    }
}

impl WorkUnit {
    /// One piece more.
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
    async fn waits_until_enough_is_done() {
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
