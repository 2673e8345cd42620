//! Finds where partitions start, beside the consumer's thread.

use std::{
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use tokio::{runtime::Handle, time};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    assignment::Assignment,
    budget::Waker,
    error::KafkaError,
    message::Partition,
    offsets::{StartOffsets, StartOffsetsError},
    options::{KafkaOptions, OutOfRange, StartFrom},
    probe::{self, Extent},
    worker::Command,
};
use crate::observe::metric;

/// The first and the longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A try that takes longer counts as failed.
const TRY: Duration = Duration::from_secs(15);

/// Asks for starts in tasks of their own; they end with it.
pub(super) struct Resolver {
    runtime: Handle,
    task: Task,
    _stop: DropGuard,
}

#[derive(Clone)]
struct Task {
    options: Arc<KafkaOptions>,
    offsets: Arc<dyn StartOffsets>,
    assignment: Assignment,
    commands: Sender<Command>,
    waker: Arc<Waker>,
    stopped: CancellationToken,
}

impl Resolver {
    pub(super) fn new(
        runtime: Handle,
        options: KafkaOptions,
        offsets: Arc<dyn StartOffsets>,
        assignment: Assignment,
        commands: Sender<Command>,
        waker: Arc<Waker>,
    ) -> Self {
        let stopped = CancellationToken::new();
        let stop = stopped.clone().drop_guard();
        Self {
            runtime,
            task: Task {
                options: Arc::new(options),
                offsets,
                assignment,
                commands,
                waker,
                stopped,
            },
            _stop: stop,
        }
    }

    /// Finds where the partitions start, and tells the consumer's thread.
    pub(super) fn start(&self, partitions: Vec<(Partition, u64)>) {
        let task = self.task.clone();
        self.runtime.spawn(async move {
            let stopped = task.stopped.clone();
            stopped.run_until_cancelled(task.start(partitions)).await;
        });
    }

    /// Looks how far the partitions held reach, for the lag to be true while nothing is fetched.
    pub(super) fn look(&self) {
        let task = self.task.clone();
        self.runtime.spawn(async move {
            let known: Vec<(Partition, i64)> = task
                .assignment
                .current()
                .into_iter()
                .map(|held| ((held.topic, held.partition), held.end.unwrap_or(held.position)))
                .collect();
            // A failed look is made good by the next.
            let Some(Ok(ends)) = task
                .stopped
                .run_until_cancelled(probe::ends(&task.options, known, TRY))
                .await
            else {
                return;
            };
            for (partition, end) in ends {
                task.assignment.looked_at(&partition, end);
            }
        });
    }

    /// Settles where a partition goes on whose next offset is not at the broker.
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
        let mut pause = PAUSE.0;
        loop {
            // Taken away meanwhile: no longer ours to start.
            waiting.retain(|(partition, ticket)| self.assignment.awaits(partition, *ticket));
            if waiting.is_empty() {
                return;
            }
            match attempt(self.try_start(&mut waiting)).await {
                Ok(()) => {}
                Err(error) => pause = rest(pause, &error, waiting.len()).await,
            }
        }
    }

    /// Starts what can be started; the rest stays in `waiting`.
    async fn try_start(&self, waiting: &mut Vec<(Partition, u64)>) -> Result<(), StartOffsetsError> {
        let partitions: Vec<Partition> = waiting.iter().map(|(partition, _)| partition.clone()).collect();
        let stored = self.offsets.start_offsets(&partitions).await?;
        let stored = |partition: &Partition| stored.get(partition).copied().flatten();
        // What is known flows at once, and doesn't wait for the rest.
        waiting.retain(|(partition, ticket)| match stored(partition) {
            Some(offset) => {
                self.tell_start(partition, *ticket, offset);
                false
            }
            None => true,
        });
        if waiting.is_empty() {
            return Ok(());
        }
        let unread = waiting.iter().map(|(partition, _)| partition.clone()).collect();
        let extents = probe::extents(&self.options, unread, TRY).await?;
        while let Some((partition, ticket)) = waiting.last() {
            let Some(extent) = extents.get(partition) else {
                return Err("the broker has not told where the partition starts".into());
            };
            let offset = match self.options.start {
                StartFrom::Earliest => extent.start,
                StartFrom::Latest => extent.end,
            };
            let offset = self.offsets.begin(&partition.0, partition.1, offset).await?;
            self.tell_start(partition, *ticket, offset);
            waiting.pop();
        }
        Ok(())
    }

    async fn out_of_range(self, partition: Partition, ticket: u64, offset: i64) {
        let mut pause = PAUSE.0;
        while self.assignment.awaits(&partition, ticket) {
            match attempt(self.try_reset(&partition, ticket, offset)).await {
                Ok(()) => return,
                Err(error) => pause = rest(pause, &error, 1).await,
            }
        }
    }

    async fn try_reset(&self, partition: &Partition, ticket: u64, offset: i64) -> Result<(), StartOffsetsError> {
        let extents = probe::extents(&self.options, vec![partition.clone()], TRY).await?;
        let Some(Extent { start, end }) = extents.get(partition).copied() else {
            return Err("the broker has not told what the partition holds".into());
        };
        if (start..=end).contains(&offset) {
            // A passing fault, such as a new leader that was behind: it is there after all.
            self.tell_start(partition, ticket, offset);
            return Ok(());
        }
        let to = match self.options.on_offset_out_of_range {
            OutOfRange::Stop => {
                let (topic, partition) = (partition.0.to_string(), partition.1);
                self.tell(Command::Fail(KafkaError::OffsetOutOfRange {
                    topic,
                    partition,
                    offset,
                    low: start,
                    high: end,
                }));
                return Ok(());
            }
            OutOfRange::Earliest => start,
            OutOfRange::Latest => end,
        };
        let next = self.offsets.reset(&partition.0, partition.1, offset, to).await?;
        tracing::warn!(topic = %partition.0, partition = partition.1, stored = offset, low = start, high = end, next, "offset not at the broker; going on elsewhere");
        self.tell_start(partition, ticket, next);
        Ok(())
    }

    fn tell_start(&self, partition: &Partition, ticket: u64, offset: i64) {
        self.tell(Command::Start {
            partition: partition.clone(),
            ticket,
            offset,
        });
    }

    fn tell(&self, command: Command) {
        // A consumer that has ended needs no telling.
        let _ = self.commands.send(command);
        self.waker.wake();
    }
}

async fn attempt(work: impl Future<Output = Result<(), StartOffsetsError>>) -> Result<(), StartOffsetsError> {
    match time::timeout(TRY * 2, work).await {
        Ok(result) => result,
        Err(_) => Err("no answer in time".into()),
    }
}

/// Waits before the next try; returns the pause after that.
async fn rest(pause: Duration, error: &StartOffsetsError, partitions: usize) -> Duration {
    let what = if error.is::<KafkaError>() { "kafka" } else { "database" };
    metrics::counter!(metric::RETRIES, "what" => what).increment(1);
    // The pauses bound the rate of this line.
    tracing::warn!(%error, partitions, retry_in = ?pause, "finding where partitions start; their reading waits");
    time::sleep(pause).await;
    (pause * 2).min(PAUSE.1)
}
