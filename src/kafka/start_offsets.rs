//! Finds the offset at which each assigned partition starts, in tasks beside the consumer's thread.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, time};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    assignment::Assignment,
    error::KafkaError,
    event::{ConsumerEvent, EventSender},
    offset_store::{OffsetStore, OffsetStoreError},
    options::{KafkaOptions, OutOfRange, StartFrom},
    partition::Partition,
    watermarks::{self, Watermarks},
};
use crate::{backoff::Backoff, telemetry::metric};

/// The first and the longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A try that takes longer counts as failed.
const TRY: Duration = Duration::from_secs(15);

/// Looks up start offsets in tasks, which end when it is dropped.
pub(super) struct StartOffsetFinder {
    runtime: Handle,
    task: Task,
    _stop: DropGuard,
}

#[derive(Clone)]
struct Task {
    options: Arc<KafkaOptions>,
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
                offsets,
                assignment,
                events,
                stopped,
            },
            _stop: stop,
        }
    }

    /// Finds where the partitions start, and sends it to the consumer's thread.
    pub(super) fn start(&self, partitions: Vec<(Partition, u64)>) {
        let task = self.task.clone();
        self.runtime.spawn(async move {
            let stopped = task.stopped.clone();
            stopped.run_until_cancelled(task.start(partitions)).await;
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

    /// Decides where to go on with a partition whose next offset is not at the broker.
    pub(super) fn out_of_range(&self, partition: Partition, ticket: u64, offset: i64) {
        let task = self.task.clone();
        self.runtime.spawn(async move {
            let stopped = task.stopped.clone();
            stopped
                .run_until_cancelled(task.out_of_range(partition, ticket, offset))
                .await;
        });
    }
}

impl Task {
    async fn start(self, mut waiting: Vec<(Partition, u64)>) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            // Those revoked in the meantime are no longer ours to start.
            waiting.retain(|(partition, ticket)| self.assignment.awaits(partition, *ticket));
            if waiting.is_empty() {
                return;
            }
            match attempt(self.try_start(&mut waiting)).await {
                Ok(()) => {}
                Err(error) => wait(&mut backoff, &error, waiting.len()).await,
            }
        }
    }

    /// Starts what can be started; the rest stays in `waiting`.
    async fn try_start(&self, waiting: &mut Vec<(Partition, u64)>) -> Result<(), OffsetStoreError> {
        let partitions: Vec<Partition> = waiting.iter().map(|(partition, _)| partition.clone()).collect();
        let stored = self.offsets.start_offsets(&partitions).await?;
        let stored = |partition: &Partition| stored.get(partition).copied().flatten();
        // Partitions with a stored offset start at once and don't wait for the others.
        waiting.retain(|(partition, ticket)| match stored(partition) {
            Some(offset) => {
                self.send_start_offset(partition, *ticket, offset);
                false
            }
            None => true,
        });
        if waiting.is_empty() {
            return Ok(());
        }
        let unread = waiting.iter().map(|(partition, _)| partition.clone()).collect();
        let watermarks = watermarks::log_watermarks(&self.options, unread, TRY).await?;
        while let Some((partition, ticket)) = waiting.last() {
            let Some(watermarks) = watermarks.get(partition) else {
                return Err("the broker did not report the partition's watermarks".into());
            };
            let offset = match self.options.start {
                StartFrom::Earliest => watermarks.low,
                StartFrom::Latest => watermarks.high,
            };
            let offset = self.offsets.begin(&partition.0, partition.1, offset).await?;
            self.send_start_offset(partition, *ticket, offset);
            waiting.pop();
        }
        Ok(())
    }

    async fn out_of_range(self, partition: Partition, ticket: u64, offset: i64) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        while self.assignment.awaits(&partition, ticket) {
            match attempt(self.try_reset(&partition, ticket, offset)).await {
                Ok(()) => return,
                Err(error) => wait(&mut backoff, &error, 1).await,
            }
        }
    }

    async fn try_reset(&self, partition: &Partition, ticket: u64, offset: i64) -> Result<(), OffsetStoreError> {
        let watermarks = watermarks::log_watermarks(&self.options, vec![partition.clone()], TRY).await?;
        let Some(Watermarks { low, high }) = watermarks.get(partition).copied() else {
            return Err("the broker did not report the partition's watermarks".into());
        };
        if (low..=high).contains(&offset) {
            // It was a transient error, such as a new leader that was behind: the offset is there after all.
            self.send_start_offset(partition, ticket, offset);
            return Ok(());
        }
        let to = match self.options.on_offset_out_of_range {
            OutOfRange::Stop => {
                let (topic, partition) = (partition.0.to_string(), partition.1);
                self.events.send(ConsumerEvent::Fatal(KafkaError::OffsetOutOfRange {
                    topic,
                    partition,
                    offset,
                    low,
                    high,
                }));
                return Ok(());
            }
            OutOfRange::Earliest => low,
            OutOfRange::Latest => high,
        };
        let next = self.offsets.reset(&partition.0, partition.1, offset, to).await?;
        tracing::warn!(topic = %partition.0, partition = partition.1, stored = offset, low, high, next, "the stored offset is not at the broker; continuing from another one");
        self.send_start_offset(partition, ticket, next);
        Ok(())
    }

    fn send_start_offset(&self, partition: &Partition, ticket: u64, offset: i64) {
        self.events.send(ConsumerEvent::StartOffset {
            partition: partition.clone(),
            ticket,
            offset,
        });
    }
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
