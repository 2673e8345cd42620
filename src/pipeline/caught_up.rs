//! Waits until all records that were in the topics at the start are committed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::watch;

use super::summary::Totals;
use crate::{
    kafka::{self, Assignment, KafkaOptions, Partition, Watermarks},
    store::Store,
};

/// How often Postgres is queried while this member commits nothing, since other members may commit the rest.
const POLL: Duration = Duration::from_millis(250);

/// How long to wait for an answer of the broker.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The ends of all partitions as they were at the start.
#[derive(Debug)]
pub(super) struct Target {
    ends: HashMap<Partition, i64>,
    /// Offsets beyond their partition's end: the topic was recreated, and the partition isn't read until its offset changes.
    out_of_range: HashMap<Partition, i64>,
}

impl Target {
    /// Queries the broker and the database.
    pub(super) async fn find(options: &KafkaOptions, store: &Store, group: &str) -> anyhow::Result<Self> {
        let mut watermarks = watermarks(options).await?;
        let partitions: Vec<Partition> = watermarks.keys().cloned().collect();
        let stored = store.next_offsets(group, &partitions).await?;
        if !out_of_range(&stored, &watermarks).is_empty() {
            // Other members may have advanced since. An offset that is in range can't be beyond an end queried after it.
            watermarks = self::watermarks(options).await?;
        }
        let out_of_range = out_of_range(&stored, &watermarks);
        // An empty partition has nothing to wait for.
        let ends = watermarks
            .into_iter()
            .filter(|(_, watermarks)| !watermarks.is_empty())
            .map(|(partition, watermarks)| (partition, watermarks.high))
            .collect();
        Ok(Self { ends, out_of_range })
    }

    /// Waits until every partition is committed up to its end, by any member of the group.
    ///
    /// # Errors
    /// All remaining partitions are quarantined at this member.
    pub(super) async fn reached(
        mut self,
        store: &Store,
        group: &str,
        mut totals: watch::Receiver<Totals>,
        assignment: &Assignment,
    ) -> anyhow::Result<()> {
        let partitions: Vec<Partition> = self.ends.keys().chain(self.out_of_range.keys()).cloned().collect();
        loop {
            totals.mark_unchanged();
            // Before the offsets, so that a partition that leaves quarantine in between is not taken for stuck.
            let quarantined = assignment.quarantined();
            match store.next_offsets(group, &partitions).await {
                Ok(known) => {
                    let remaining = self.remaining(&known);
                    if remaining.is_empty() {
                        return Ok(());
                    }
                    let cause = |partition| quarantined.iter().find(|(other, _)| other == partition);
                    let causes: Vec<_> = remaining.iter().filter_map(cause).collect();
                    if causes.len() == remaining.len() {
                        let details: Vec<&str> = causes.iter().map(|(_, cause)| cause.detail.as_str()).collect();
                        anyhow::bail!("partitions are in quarantine: {}", details.join("; "));
                    }
                }
                Err(error) => tracing::warn!(%error, "can't read the committed offsets; retrying"),
            }
            // A dropped sender means that the committing stage has ended, which the pipeline handles.
            let _ = tokio::time::timeout(POLL, totals.changed()).await;
        }
    }

    /// The partitions that are not committed up to their end.
    fn remaining(&mut self, known: &HashMap<Partition, i64>) -> BTreeSet<Partition> {
        self.out_of_range
            .retain(|partition, stored| known.get(partition) == Some(stored));
        let before_end = |(partition, end): &(&Partition, &i64)| known.get(*partition).is_none_or(|next| next < *end);
        let before_end = self.ends.iter().filter(before_end).map(|(partition, _)| partition);
        before_end.chain(self.out_of_range.keys()).cloned().collect()
    }
}

async fn watermarks(options: &KafkaOptions) -> anyhow::Result<BTreeMap<Partition, Watermarks>> {
    kafka::watermarks(options, TIMEOUT)
        .await
        .context("can't query the topics' watermarks")
}

fn out_of_range(
    stored: &HashMap<Partition, i64>,
    watermarks: &BTreeMap<Partition, Watermarks>,
) -> HashMap<Partition, i64> {
    let mut out_of_range = stored.clone();
    out_of_range.retain(|partition, next| {
        watermarks
            .get(partition)
            .is_some_and(|watermarks| *next > watermarks.high)
    });
    out_of_range
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_remains_once_every_partition_is_at_its_end() {
        let mut target = Target {
            ends: HashMap::from([(("a".into(), 0), 10), (("a".into(), 1), 5)]),
            out_of_range: HashMap::new(),
        };
        assert!(!target.remaining(&HashMap::from([(("a".into(), 0), 10)])).is_empty());
        assert!(
            !target
                .remaining(&HashMap::from([(("a".into(), 0), 9), (("a".into(), 1), 5)]))
                .is_empty()
        );
        assert!(
            target
                .remaining(&HashMap::from([(("a".into(), 0), 12), (("a".into(), 1), 5)]))
                .is_empty()
        );
    }

    #[test]
    fn a_partition_whose_offset_is_beyond_the_end_remains_until_the_offset_changes() {
        let partition: Partition = ("a".into(), 0);
        let stored = HashMap::from([(partition.clone(), 20)]);
        let watermarks = |end| BTreeMap::from([(partition.clone(), Watermarks { low: 0, high: end })]);
        assert_eq!(out_of_range(&stored, &watermarks(20)), HashMap::new());
        let mut target = Target {
            ends: HashMap::from([(partition.clone(), 10)]),
            out_of_range: out_of_range(&stored, &watermarks(10)),
        };
        assert!(!target.remaining(&stored).is_empty());
        assert!(!target.remaining(&HashMap::from([(partition.clone(), 0)])).is_empty());
        assert!(target.remaining(&HashMap::from([(partition, 10)])).is_empty());
    }
}
