//! Looks up the start offsets of assigned partitions, in tasks outside the consumer's thread.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{runtime::Handle, time};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    assignment::Assignment,
    event::{ConsumerEvent, EventSender},
    offset_store::{OffsetStore, OffsetStoreError, StartOffset},
    quarantine::{QuarantineCause, QuarantineReason},
};
use crate::kafka::{
    check,
    error::KafkaError,
    options::entry_matches,
    options::{KafkaOptions, OnTopicChanged, OutOfRange, StartFrom},
    partition::Partition,
    watermarks::{self, Watermarks},
};
use crate::{backoff::Backoff, telemetry::metric};

/// The first and the longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long to wait for an answer of the broker.
const TIMEOUT: Duration = Duration::from_secs(15);

/// When a stored offset may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UseStored {
    /// Always. The first fetch shows whether it is out of range.
    Always,
    /// Only if it is in the broker's range.
    IfInRange,
    /// Never, since the record before it is a different one. The partition restarts where `kafka.start` says.
    Never,
}

/// Looks up start offsets in tasks, which are cancelled when it is dropped.
pub(super) struct StartOffsetFinder {
    runtime: Handle,
    task: Task,
    _stop: DropGuard,
}

#[derive(Clone)]
struct Task {
    options: Arc<KafkaOptions>,
    /// The id of the cluster to which the brokers belong, if known.
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

    /// Looks up where the partitions start, and sends it to the consumer's thread. `cluster` is the id of the cluster to
    /// which the brokers belong.
    pub(super) fn find(&self, partitions: Vec<(Partition, u64)>, cluster: Option<String>, use_stored: UseStored) {
        let task = Task {
            cluster,
            ..self.task.clone()
        };
        self.runtime.spawn(async move {
            let stopped = task.stopped.clone();
            stopped.run_until_cancelled(task.find(partitions, use_stored)).await;
        });
    }

    /// Refreshes the high watermarks of the assigned partitions, so that the lag stays current while nothing is fetched.
    pub(super) fn refresh_watermarks(&self) {
        let task = self.task.clone();
        self.runtime.spawn(async move {
            let known: Vec<(Partition, i64)> = task
                .assignment
                .current()
                .into_iter()
                .map(|held| ((held.topic, held.partition), held.end.unwrap_or(held.position)))
                .collect();
            // If it fails, the next refresh may succeed.
            let Some(Ok(ends)) = task
                .stopped
                .run_until_cancelled(watermarks::ends(&task.options, known, TIMEOUT))
                .await
            else {
                return;
            };
            for (partition, end) in ends {
                task.assignment.refresh_end(&partition, end);
            }
        });
    }
}

impl Task {
    async fn find(self, mut waiting: Vec<(Partition, u64)>, mut use_stored: UseStored) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            // Skip partitions that were revoked in the meantime.
            waiting.retain(|(partition, ticket)| self.assignment.awaits(partition, *ticket));
            if waiting.is_empty() {
                return;
            }
            match attempt(self.try_find(&mut waiting, use_stored)).await {
                // Offsets of the rest were stored. They are read again, since another member may have stored others first.
                Ok(()) if use_stored == UseStored::Never => use_stored = UseStored::Always,
                Ok(()) => {}
                Err(error) => wait(&mut backoff, &error, waiting.len()).await,
            }
        }
    }

    /// Starts the partitions that can be started, and quarantines those that can't. Stores an offset for the rest, which
    /// stay in `waiting`.
    async fn try_find(
        &self,
        waiting: &mut Vec<(Partition, u64)>,
        use_stored: UseStored,
    ) -> Result<(), OffsetStoreError> {
        let partitions: Vec<Partition> = waiting.iter().map(|(partition, _)| partition.clone()).collect();
        let stored = self.offsets.start_offsets(&partitions).await?;
        self.adopt(&stored).await?;
        // Most can start at once without waiting for the others.
        waiting.retain(|(partition, ticket)| {
            let Some(stored) = stored.get(partition) else {
                return true;
            };
            match self.foreign(stored) {
                Some(cluster) if self.options.on_topic_changed == OnTopicChanged::Stop => {
                    self.quarantine_foreign(partition, *ticket, stored, cluster);
                    false
                }
                None if use_stored == UseStored::Always => {
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
        let inserted = match unread.is_empty() {
            true => Ok(()),
            false => self.insert_start_offsets(unread).await,
        };
        self.check_or_reset(waiting, &stored, use_stored).await?;
        inserted
    }

    /// Checks the stored offsets of waiting partitions against the broker's range, or resets them. Removes from `waiting`
    /// those that need nothing more.
    async fn check_or_reset(
        &self,
        waiting: &mut Vec<(Partition, u64)>,
        stored: &HashMap<Partition, StartOffset>,
        use_stored: UseStored,
    ) -> Result<(), OffsetStoreError> {
        let known = waiting.iter().filter(|(partition, _)| stored.contains_key(partition));
        let known: Vec<(Partition, u64)> = known.cloned().collect();
        if known.is_empty() {
            return Ok(());
        }
        let partitions = known.iter().map(|(partition, _)| partition.clone()).collect();
        let watermarks = watermarks::log_watermarks(&self.options, partitions, TIMEOUT).await?;
        let mut unanswered = Vec::new();
        for (partition, ticket) in known {
            let (Some(stored), Some(found)) = (stored.get(&partition), watermarks.get(&partition)) else {
                unanswered.push(partition);
                continue;
            };
            if use_stored == UseStored::Never || self.foreign(stored).is_some() {
                let to = start_of(*found, self.options.start);
                let why = "the topic was recreated, or belongs to another cluster";
                self.reset(&partition, stored, to, why).await?;
            } else if self.start_in_range(&partition, ticket, stored, *found).await? {
                waiting.retain(|(other, _)| *other != partition);
            }
        }
        fail_if_any(&unanswered)
    }

    /// Starts a partition whose offset is in the broker's range, and otherwise applies `kafka.on_offset_out_of_range`.
    /// Returns whether the partition needs nothing more.
    async fn start_in_range(
        &self,
        partition: &Partition,
        ticket: u64,
        stored: &StartOffset,
        Watermarks { low, high }: Watermarks,
    ) -> Result<bool, OffsetStoreError> {
        if (low..=high).contains(&stored.next) {
            // At the log start offset, the broker no longer has the record before it.
            let last = stored.last.filter(|_| stored.next > low);
            self.send_start(partition, ticket, StartOffset { last, ..stored.clone() });
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
                let cause = QuarantineCause::new(QuarantineReason::OffsetOutOfRange, out_of_range);
                self.quarantine(partition, ticket, cause);
                return Ok(true);
            }
            OutOfRange::Earliest => low,
            OutOfRange::Latest => high,
        };
        self.reset(partition, stored, to, "the stored offset is out of range")
            .await?;
        Ok(false)
    }

    async fn reset(
        &self,
        partition: &Partition,
        stored: &StartOffset,
        to: i64,
        why: &'static str,
    ) -> Result<(), OffsetStoreError> {
        let cluster = self.cluster.as_deref().or(stored.cluster.as_deref());
        self.offsets.reset(partition, stored, to, cluster).await?;
        tracing::warn!(topic = %partition.0, partition = partition.1, stored = stored.next, next = to, "{why}; continuing from another offset");
        Ok(())
    }

    /// Stores start offsets for partitions that were never read.
    ///
    /// With `kafka.start = "latest"`, the offsets of all partitions of a topic are stored when the first of them starts. So a
    /// partition without an offset was added later, and is read from its beginning.
    async fn insert_start_offsets(&self, unread: Vec<Partition>) -> Result<(), OffsetStoreError> {
        let mut at_end: BTreeSet<Partition> = BTreeSet::new();
        if self.options.start == StartFrom::Latest {
            let known = self.offsets.topics_with_offsets().await?;
            let is_fresh = |entry: &&str| !known.iter().any(|topic| entry_matches(entry, topic));
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
                at_end.extend(check::blocking(move || check::partitions(&options, TIMEOUT)).await?);
            }
        }
        let all: BTreeSet<Partition> = at_end.iter().cloned().chain(unread).collect();
        let watermarks = watermarks::log_watermarks(&self.options, all.iter().cloned().collect(), TIMEOUT).await?;
        let mut unanswered = all;
        unanswered.retain(|partition| !watermarks.contains_key(partition));
        if !at_end.is_empty() {
            // Without an offset they would later be taken for partitions that were added since.
            fail_if_any(&unanswered)?;
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
        self.offsets
            .insert_start_offsets(&starts, self.cluster.as_deref())
            .await?;
        fail_if_any(&unanswered)
    }

    /// The cluster of a stored offset that belongs to another cluster than the brokers. `None` with
    /// [`OnTopicChanged::Continue`].
    fn foreign<'a>(&self, stored: &'a StartOffset) -> Option<&'a str> {
        let ours = self.cluster.as_deref()?;
        let policy = self.options.on_topic_changed;
        stored
            .cluster
            .as_deref()
            .filter(|theirs| *theirs != ours && policy != OnTopicChanged::Continue)
    }

    /// Stores the brokers' cluster with offsets that have none, or that are valid in this cluster too.
    async fn adopt(&self, stored: &HashMap<Partition, StartOffset>) -> Result<(), OffsetStoreError> {
        let Some(ours) = &self.cluster else {
            return Ok(());
        };
        let is_adopted = |stored: &StartOffset| match &stored.cluster {
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
            tracing::warn!(cluster = %ours, partitions = adopted.len(), "the offsets belong to another cluster; continuing at the same offsets");
        }
        Ok(())
    }

    fn quarantine_foreign(&self, partition: &Partition, ticket: u64, stored: &StartOffset, cluster: &str) {
        let changed = KafkaError::ClusterChanged {
            topic: partition.0.to_string(),
            partition: partition.1,
            offset: stored.next,
            stored: cluster.to_owned(),
            found: self.cluster.clone().unwrap_or_default(),
        };
        self.quarantine(
            partition,
            ticket,
            QuarantineCause::new(QuarantineReason::TopicChanged, changed),
        );
    }

    fn quarantine(&self, partition: &Partition, ticket: u64, cause: QuarantineCause) {
        self.events.send(ConsumerEvent::Quarantine {
            partition: partition.clone(),
            ticket: Some(ticket),
            cause,
        });
    }

    fn send_start(&self, partition: &Partition, ticket: u64, start: StartOffset) {
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

/// Fails with the names of the partitions for which no broker answered, if there are any.
fn fail_if_any<'a>(unanswered: impl IntoIterator<Item = &'a Partition>) -> Result<(), OffsetStoreError> {
    let names: Vec<String> = unanswered
        .into_iter()
        .map(|(topic, partition)| format!("{topic}/{partition}"))
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(format!("no broker answers for {}; there may be no leader", names.join(", ")).into())
}

async fn attempt(work: impl Future<Output = Result<(), OffsetStoreError>>) -> Result<(), OffsetStoreError> {
    match time::timeout(TIMEOUT * 2, work).await {
        Ok(result) => result,
        Err(_) => Err("no answer in time".into()),
    }
}

/// Waits before the next attempt.
async fn wait(backoff: &mut Backoff, error: &OffsetStoreError, partitions: usize) {
    let pause = backoff.pause();
    let what = if error.is::<KafkaError>() { "kafka" } else { "database" };
    metrics::counter!(metric::RETRIES, "what" => what).increment(1);
    // The backoff bounds the rate of this line.
    tracing::warn!(%error, partitions, retry_in = ?pause, "can't look up the partitions' start offsets; retrying");
    time::sleep(pause).await;
}
