//! Finds the offset at which each assigned partition starts, in tasks beside the consumer's thread.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{runtime::Handle, time};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    assignment::Assignment,
    check,
    error::KafkaError,
    event::{ConsumerEvent, EventSender},
    offset_store::{OffsetStore, OffsetStoreError, StoredOffset},
    options::{KafkaOptions, OnTopicChanged, OutOfRange, StartFrom},
    partition::Partition,
    quarantine::{Cause, QuarantineReason},
    topic_name::is_meant,
    watermarks::{self, Watermarks},
};
use crate::{backoff::Backoff, telemetry::metric};

/// The first and the longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A try that takes longer counts as failed.
const TRY: Duration = Duration::from_secs(15);

/// How far a stored offset is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// As it is. That it is not at the broker shows when it is read from.
    Stored,
    /// If the broker has it.
    InRange,
    /// Not at all: the record before it is another one. The partition begins anew.
    Nothing,
}

/// Looks up start offsets in tasks, which end when it is dropped.
pub(super) struct StartOffsetFinder {
    runtime: Handle,
    task: Task,
    _stop: DropGuard,
}

#[derive(Clone)]
struct Task {
    options: Arc<KafkaOptions>,
    /// The id of the cluster that the brokers belong to, where known.
    cluster: Option<String>,
    offsets: Arc<dyn OffsetStore>,
    assignment: Assignment,
    events: EventSender,
    stopped: CancellationToken,
}

impl StartOffsetFinder {
    pub(super) fn new(
        runtime: Handle,
        options: KafkaOptions,
        offsets: Arc<dyn OffsetStore>,
        assignment: Assignment,
        events: EventSender,
    ) -> Self {
        let stopped = CancellationToken::new();
        let stop = stopped.clone().drop_guard();
        Self {
            runtime,
            task: Task {
                options: Arc::new(options),
                cluster: None,
                offsets,
                assignment,
                events,
                stopped,
            },
            _stop: stop,
        }
    }

    /// Finds where the partitions start, and sends it to the consumer's thread. `cluster` is the id of the cluster that the
    /// brokers belong to.
    pub(super) fn find(&self, partitions: Vec<(Partition, u64)>, cluster: Option<String>, trust: Trust) {
        let task = Task {
            cluster,
            ..self.task.clone()
        };
        self.runtime.spawn(async move {
            let stopped = task.stopped.clone();
            stopped.run_until_cancelled(task.find(partitions, trust)).await;
        });
    }

    /// Refreshes the high watermarks of the assigned partitions, so that the lag stays right while nothing is fetched.
    pub(super) fn refresh_watermarks(&self) {
        let task = self.task.clone();
        self.runtime.spawn(async move {
            let known: Vec<(Partition, i64)> = task
                .assignment
                .current()
                .into_iter()
                .map(|held| ((held.topic, held.partition), held.end.unwrap_or(held.position)))
                .collect();
            // The next refresh makes up for one that fails.
            let Some(Ok(ends)) = task
                .stopped
                .run_until_cancelled(watermarks::ends(&task.options, known, TRY))
                .await
            else {
                return;
            };
            for (partition, end) in ends {
                task.assignment.refresh_high_watermark(&partition, end);
            }
        });
    }
}

impl Task {
    async fn find(self, mut waiting: Vec<(Partition, u64)>, mut trust: Trust) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            // Those revoked in the meantime are no longer ours to start.
            waiting.retain(|(partition, ticket)| self.assignment.awaits(partition, *ticket));
            if waiting.is_empty() {
                return;
            }
            match attempt(self.try_find(&mut waiting, trust)).await {
                // What is left was written down now: it is read again, as another member may have been first.
                Ok(()) if trust == Trust::Nothing => trust = Trust::Stored,
                Ok(()) => {}
                Err(error) => wait(&mut backoff, &error, waiting.len()).await,
            }
        }
    }

    /// Starts what can be started, and quarantines what can't. Stores an offset for the rest, which stays in `waiting`.
    async fn try_find(&self, waiting: &mut Vec<(Partition, u64)>, trust: Trust) -> Result<(), OffsetStoreError> {
        let partitions: Vec<Partition> = waiting.iter().map(|(partition, _)| partition.clone()).collect();
        let stored = self.offsets.start_offsets(&partitions).await?;
        self.adopt(&stored).await?;
        // Most can start at once, and don't wait for the others.
        waiting.retain(|(partition, ticket)| {
            let Some(stored) = stored.get(partition) else {
                return true;
            };
            match self.foreign(stored) {
                Some(cluster) if self.options.on_topic_changed == OnTopicChanged::Stop => {
                    self.quarantine_foreign(partition, *ticket, stored, cluster);
                    false
                }
                None if trust == Trust::Stored => {
                    self.send_start(partition, *ticket, stored.clone());
                    false
                }
                _ => true,
            }
        });
        let unread: Vec<Partition> = waiting
            .iter()
            .map(|(partition, _)| partition.clone())
            .filter(|partition| !stored.contains_key(partition))
            .collect();
        let begun = match unread.is_empty() {
            true => Ok(()),
            false => self.begin(unread).await,
        };
        self.replace(waiting, &stored, trust).await?;
        begun
    }

    /// Checks the stored offsets of those waiting against the broker, or has their partitions begin anew. Takes out those that
    /// need nothing more.
    async fn replace(
        &self,
        waiting: &mut Vec<(Partition, u64)>,
        stored: &HashMap<Partition, StoredOffset>,
        trust: Trust,
    ) -> Result<(), OffsetStoreError> {
        let known = waiting.iter().filter(|(partition, _)| stored.contains_key(partition));
        let known: Vec<(Partition, u64)> = known.cloned().collect();
        if known.is_empty() {
            return Ok(());
        }
        let partitions = known.iter().map(|(partition, _)| partition.clone()).collect();
        let watermarks = watermarks::log_watermarks(&self.options, partitions, TRY).await?;
        let mut silent = Vec::new();
        for (partition, ticket) in known {
            let (Some(stored), Some(found)) = (stored.get(&partition), watermarks.get(&partition)) else {
                silent.push(partition);
                continue;
            };
            if trust == Trust::Nothing || self.foreign(stored).is_some() {
                let to = start_of(*found, self.options.start);
                let why = "the topic was made anew, or is another cluster's";
                self.reset(&partition, stored, to, why).await?;
            } else if self.start_in_range(&partition, ticket, stored, *found).await? {
                waiting.retain(|(other, _)| *other != partition);
            }
        }
        all_answer(&silent)
    }

    /// Starts a partition whose offset the broker has, and does with others what the settings say. Returns whether the
    /// partition needs nothing more.
    async fn start_in_range(
        &self,
        partition: &Partition,
        ticket: u64,
        stored: &StoredOffset,
        Watermarks { low, high }: Watermarks,
    ) -> Result<bool, OffsetStoreError> {
        if (low..=high).contains(&stored.next) {
            // The record before the first one that the broker has can't be compared any more.
            let last = stored.last.filter(|_| stored.next > low);
            self.send_start(partition, ticket, StoredOffset { last, ..stored.clone() });
            return Ok(true);
        }
        let to = match self.options.on_offset_out_of_range {
            OutOfRange::Stop => {
                let out_of_range = KafkaError::OffsetOutOfRange {
                    topic: partition.0.to_string(),
                    partition: partition.1,
                    offset: stored.next,
                    low,
                    high,
                };
                let cause = Cause::new(QuarantineReason::OffsetOutOfRange, out_of_range);
                self.quarantine(partition, ticket, cause);
                return Ok(true);
            }
            OutOfRange::Earliest => low,
            OutOfRange::Latest => high,
        };
        self.reset(partition, stored, to, "the stored offset is not at the broker")
            .await?;
        Ok(false)
    }

    async fn reset(
        &self,
        partition: &Partition,
        stored: &StoredOffset,
        to: i64,
        why: &'static str,
    ) -> Result<(), OffsetStoreError> {
        let cluster = self.cluster.as_deref().or(stored.cluster.as_deref());
        self.offsets.reset(partition, stored, to, cluster).await?;
        tracing::warn!(topic = %partition.0, partition = partition.1, stored = stored.next, next = to, "{why}; continuing from another offset");
        Ok(())
    }

    /// Writes down where partitions start that were never read.
    ///
    /// Where reading starts at the latest records, all partitions of a topic are written down when the first of them begins.
    /// One without an offset was then added later, and all its records are as new as those that are read.
    async fn begin(&self, unread: Vec<Partition>) -> Result<(), OffsetStoreError> {
        let mut at_end: BTreeSet<Partition> = BTreeSet::new();
        if self.options.start == StartFrom::Latest {
            let begun = self.offsets.begun_topics().await?;
            let is_fresh = |entry: &&str| !begun.iter().any(|topic| is_meant(entry, topic));
            let entries: BTreeSet<&str> = unread
                .iter()
                .map(|(topic, _)| self.options.entries_of(topic))
                .filter(|entries| entries.iter().all(is_fresh))
                .flatten()
                .collect();
            if !entries.is_empty() {
                let options = KafkaOptions {
                    topics: entries.into_iter().map(str::to_owned).collect(),
                    ..(*self.options).clone()
                };
                at_end.extend(check::blocking(move || check::partitions(&options, TRY)).await?);
            }
        }
        let all: BTreeSet<Partition> = at_end.iter().cloned().chain(unread).collect();
        let watermarks = watermarks::log_watermarks(&self.options, all.iter().cloned().collect(), TRY).await?;
        let mut silent = all;
        silent.retain(|partition| !watermarks.contains_key(partition));
        if !at_end.is_empty() {
            // Written down later, they would seem to have been added later.
            all_answer(&silent)?;
        }
        let starts: Vec<(Partition, i64)> = watermarks
            .into_iter()
            .map(|(partition, found)| {
                let from = if at_end.contains(&partition) {
                    StartFrom::Latest
                } else {
                    StartFrom::Earliest
                };
                (partition, start_of(found, from))
            })
            .collect();
        self.offsets.begin(&starts, self.cluster.as_deref()).await?;
        all_answer(&silent)
    }

    /// The cluster of a stored offset, if it is not the one that the brokers belong to.
    fn foreign<'a>(&self, stored: &'a StoredOffset) -> Option<&'a str> {
        let ours = self.cluster.as_deref()?;
        let policy = self.options.on_topic_changed;
        stored
            .cluster
            .as_deref()
            .filter(|theirs| *theirs != ours && policy != OnTopicChanged::Continue)
    }

    /// Notes the brokers' cluster for offsets that were stored without one, or that hold in this cluster too.
    async fn adopt(&self, stored: &HashMap<Partition, StoredOffset>) -> Result<(), OffsetStoreError> {
        let Some(ours) = &self.cluster else {
            return Ok(());
        };
        let is_adopted = |stored: &StoredOffset| match &stored.cluster {
            None => true,
            Some(theirs) => theirs != ours && self.options.on_topic_changed == OnTopicChanged::Continue,
        };
        let adopted: Vec<Partition> = stored
            .iter()
            .filter(|(_, stored)| is_adopted(stored))
            .map(|(partition, _)| partition.clone())
            .collect();
        if adopted.is_empty() {
            return Ok(());
        }
        self.offsets.adopt(&adopted, ours).await?;
        if stored.values().any(|stored| stored.cluster.is_some()) {
            tracing::warn!(cluster = %ours, partitions = adopted.len(), "the offsets are of another cluster; going on at the same ones");
        }
        Ok(())
    }

    fn quarantine_foreign(&self, partition: &Partition, ticket: u64, stored: &StoredOffset, cluster: &str) {
        let changed = KafkaError::ClusterChanged {
            topic: partition.0.to_string(),
            partition: partition.1,
            offset: stored.next,
            stored: cluster.to_owned(),
            found: self.cluster.clone().unwrap_or_default(),
        };
        self.quarantine(partition, ticket, Cause::new(QuarantineReason::TopicChanged, changed));
    }

    fn quarantine(&self, partition: &Partition, ticket: u64, cause: Cause) {
        self.events.send(ConsumerEvent::Quarantine {
            partition: partition.clone(),
            ticket: Some(ticket),
            cause,
        });
    }

    fn send_start(&self, partition: &Partition, ticket: u64, start: StoredOffset) {
        self.events.send(ConsumerEvent::StartOffset {
            partition: partition.clone(),
            ticket,
            start,
        });
    }
}

const fn start_of(found: Watermarks, from: StartFrom) -> i64 {
    match from {
        StartFrom::Earliest => found.low,
        StartFrom::Latest => found.high,
    }
}

/// Names the partitions that no broker answers for; the others need not wait for them.
fn all_answer<'a>(silent: impl IntoIterator<Item = &'a Partition>) -> Result<(), OffsetStoreError> {
    let names: Vec<String> = silent
        .into_iter()
        .map(|(topic, partition)| format!("{topic}/{partition}"))
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(format!("no broker answers for {}, which may have no leader", names.join(", ")).into())
}

async fn attempt(work: impl Future<Output = Result<(), OffsetStoreError>>) -> Result<(), OffsetStoreError> {
    match time::timeout(TRY * 2, work).await {
        Ok(result) => result,
        Err(_) => Err("no answer in time".into()),
    }
}

/// Waits before the next attempt.
async fn wait(backoff: &mut Backoff, error: &OffsetStoreError, partitions: usize) {
    let pause = backoff.pause();
    let what = if error.is::<KafkaError>() { "kafka" } else { "database" };
    metrics::counter!(metric::RETRIES, "what" => what).increment(1);
    // The pauses bound the rate of this line.
    tracing::warn!(%error, partitions, retry_in = ?pause, "can't find where partitions start; trying again");
    time::sleep(pause).await;
}
