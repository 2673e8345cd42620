//! Whether everything is committed that was in the topics at the start.

use std::{collections::HashMap, time::Duration};

use anyhow::Context as _;
use tokio::sync::watch;

use super::summary::Totals;
use crate::{
    kafka::{self, KafkaOptions, Partition},
    store::Store,
};

/// How often Postgres is asked while this member commits nothing: other members may do the rest.
const POLL: Duration = Duration::from_millis(250);

/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The ends of all partitions as they were at the start.
#[derive(Debug)]
pub(super) struct Target {
    ends: HashMap<Partition, i64>,
}

impl Target {
    /// Asks the broker.
    pub(super) async fn find(options: &KafkaOptions) -> anyhow::Result<Self> {
        let extents = kafka::end_offsets(options, TIMEOUT)
            .await
            .context("can't tell how far the topics reach")?;
        // An empty partition has nothing to wait for.
        let ends = extents
            .into_iter()
            .filter(|(_, extent)| !extent.is_empty())
            .map(|(partition, extent)| (partition, extent.end))
            .collect();
        Ok(Self { ends })
    }

    /// Waits until every partition is committed up to its end, by whichever member of the group.
    pub(super) async fn reached(
        &self,
        store: &Store,
        group: &str,
        mut totals: watch::Receiver<Totals>,
    ) -> anyhow::Result<()> {
        let partitions: Vec<Partition> = self.ends.keys().cloned().collect();
        loop {
            totals.mark_unchanged();
            match store.start_offsets(group, &partitions).await {
                Ok(known) if self.met_by(&known) => return Ok(()),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "can't read the committed offsets; asking again"),
            }
            // A sender gone means that settling has ended; the pipeline hears of it by itself.
            let _ = tokio::time::timeout(POLL, totals.changed()).await;
        }
    }

    fn met_by(&self, known: &HashMap<Partition, i64>) -> bool {
        self.ends
            .iter()
            .all(|(partition, end)| known.get(partition).is_some_and(|next| next >= end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn met_when_every_partition_is_at_its_end() {
        let target = Target {
            ends: HashMap::from([(("a".into(), 0), 10), (("a".into(), 1), 5)]),
        };
        assert!(!target.met_by(&HashMap::from([(("a".into(), 0), 10)])));
        assert!(!target.met_by(&HashMap::from([(("a".into(), 0), 9), (("a".into(), 1), 5)])));
        assert!(target.met_by(&HashMap::from([(("a".into(), 0), 12), (("a".into(), 1), 5)])));
    }
}
