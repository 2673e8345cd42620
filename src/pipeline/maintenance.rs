//! Maintenance of the tables.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::{sync::oneshot, time::MissedTickBehavior};

use crate::{
    config::StoreSettings,
    store::{Store, StoreError},
    telemetry::metric,
};

/// Maintains the tables, at once and then at intervals. The start doesn't wait for it, since partitions to drop may be in use
/// and there may be many keys to delete. `maintained` resolves after the first round.
pub(super) async fn run(store: Store, settings: StoreSettings, maintained: oneshot::Sender<()>) {
    let mut maintained = Some(maintained);
    let mut ticks = tokio::time::interval(Duration::from_secs(settings.maintenance_interval_seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = maintain(&store, &settings).await {
            tracing::warn!(%error, "maintenance of the tables failed; retrying at the next interval");
        }
        if let Some(maintained) = maintained.take() {
            let _ = maintained.send(());
        }
    }
}

/// Creates the coming days' partitions, applies retention and merges the shards of closed days.
async fn maintain(store: &Store, settings: &StoreSettings) -> Result<(), StoreError> {
    let now = OffsetDateTime::now_utc();
    store.ensure_partitions(now, settings.partitions_ahead).await?;
    let outcome = store.apply_retention(&settings.retention(), now).await?;
    metrics::counter!(metric::STORE_PARTITIONS_DROPPED).increment(outcome.days.len() as u64);
    if let Some(before) = settings.unseen_deletions_before(now) {
        store.forget_unseen_deletions(before).await?;
    }
    store.merge_shards(now).await?;
    Ok(())
}
