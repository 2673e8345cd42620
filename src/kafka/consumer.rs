//! The consumer's handle.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    assignment::{Assignment, Held},
    budget::{Budget, Waker, lock},
    context::GroupContext,
    error::KafkaError,
    message::{Message, Partition},
    offsets::StartOffsets,
    options::KafkaOptions,
    resolver::Resolver,
    worker::{Command, Worker},
};

/// A member of the consumer group, on a thread of its own.
///
/// It lives in three states. While *consuming* it hands out messages. After
/// [`Consumer::drain`] it hands out no more, but keeps its partitions, so that what is in flight
/// can be finished and committed. [`Consumer::close`], or dropping it, leaves the group.
#[derive(Debug)]
pub struct Consumer {
    assignment: Assignment,
    budget: Arc<Budget>,
    commands: Sender<Command>,
    waker: Arc<Waker>,
    end: Mutex<Option<End>>,
}

/// What is heard of the thread's end.
#[derive(Debug)]
struct End {
    result: oneshot::Receiver<Result<(), KafkaError>>,
    left: oneshot::Receiver<()>,
}

impl Consumer {
    /// How long leaving the group may take. With the broker away librdkafka would go on for the session's timeout and
    /// longer, though nothing depends on it: the offsets that count are not the broker's, and the group notices by itself.
    pub const LEAVING: Duration = Duration::from_secs(5);

    /// Subscribes to the topics and starts handing out their messages, in order within each
    /// partition. Must be called within a tokio runtime, where `offsets` is asked.
    ///
    /// The receiver ends when the consumer is drained or has failed; [`Consumer::close`] tells which.
    ///
    /// # Errors
    /// [`KafkaError`] for settings that can't be right. A broker that is away is no error: the
    /// consumer waits for it.
    pub fn start(
        options: &KafkaOptions,
        offsets: Arc<dyn StartOffsets>,
    ) -> Result<(Self, mpsc::Receiver<Message>), KafkaError> {
        options.check()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| KafkaError::Client {
            what: "starting the consumer",
            detail: error.to_string(),
        })?;
        let assignment = Assignment::default();
        let waker = Arc::new(Waker::default());
        let context = GroupContext::new(assignment.clone(), options.read_committed());
        let mut consumer: BaseConsumer<GroupContext> = options
            .consumer_config()
            .create_with_context(context)
            .map_err(|error| KafkaError::client("making the consumer", &error))?;
        let on_event = Arc::clone(&waker);
        consumer.set_nonempty_callback(move || on_event.wake());
        let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
        consumer
            .subscribe(&topics)
            .map_err(|error| KafkaError::client("subscribing", &error))?;

        let budget = Budget::new(
            options.max_in_flight_records,
            options.max_in_flight_bytes,
            Arc::clone(&waker),
        );
        // Permits bound the records in flight, so the channel is never full when one is at hand.
        let (sender, receiver) = mpsc::channel(options.max_in_flight_records);
        let (commands, inbox) = channel();
        let (ended, result) = oneshot::channel();
        let (leave, left) = oneshot::channel();
        let resolver = Resolver::new(
            runtime,
            options.clone(),
            offsets,
            assignment.clone(),
            commands.clone(),
            Arc::clone(&waker),
        );
        let mut worker = Worker::new(
            Arc::new(consumer),
            assignment.clone(),
            Arc::clone(&budget),
            Arc::clone(&waker),
            sender,
            inbox,
            resolver,
            options,
        );
        thread::Builder::new()
            .name("kafka-consumer".into())
            .spawn(move || {
                // No one may be left to hear how it ended.
                let _ = ended.send(worker.run());
                drop(worker);
                let _ = leave.send(());
            })
            .map_err(|error| KafkaError::Client {
                what: "starting the consumer's thread",
                detail: error.to_string(),
            })?;
        Ok((
            Self {
                assignment,
                budget,
                commands,
                waker,
                end: Mutex::new(Some(End { result, left })),
            },
            receiver,
        ))
    }

    /// The partitions held, shared.
    #[must_use]
    pub fn assignment(&self) -> Assignment {
        self.assignment.clone()
    }

    /// Position, committed offset and end of each partition held. The end is as old as the
    /// latest fetch of the partition; statistics bring it every second.
    #[must_use]
    pub fn positions(&self) -> Vec<Held> {
        self.assignment.current()
    }

    /// Records between what is committed and the ends of the partitions held, as far as known.
    #[must_use]
    pub fn lag(&self) -> i64 {
        self.assignment.current().iter().filter_map(Held::lag).sum()
    }

    /// Records and bytes handed out and not yet dropped.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        self.budget.in_flight()
    }

    /// Tells Kafka the offsets that are committed in the database. Returns at once; a failure is
    /// counted and logged, and costs nothing: the database holds the truth.
    pub fn commit(&self, offsets: &[(Arc<str>, i32, i64)]) {
        if offsets.is_empty() {
            return;
        }
        for (topic, partition, offset) in offsets {
            self.assignment.committed(&(Arc::clone(topic), *partition), *offset);
        }
        self.tell(Command::Commit(offsets.to_vec()));
    }

    /// For a fenced partition: asks anew where it starts and goes on there under a new epoch.
    /// Messages of `epoch` are stale from now on. Does nothing if `epoch` is no longer current.
    pub fn rewind(&self, topic: &Arc<str>, partition: i32, epoch: u64) {
        if self.assignment.interrupt(topic, partition, epoch) {
            let partition: Partition = (Arc::clone(topic), partition);
            self.tell(Command::Again(partition));
        }
    }

    /// Hands out no more messages; the receiver ends after those already sent. The partitions
    /// stay with this member, and offsets can still be committed.
    pub fn drain(&self) {
        self.tell(Command::Drain);
    }

    /// Leaves the group after sending the last commits, and tells how the consumer ended.
    ///
    /// # Errors
    /// The [`KafkaError`] that had ended it before, or one that says that the broker did not let it go within
    /// [`Consumer::LEAVING`]: librdkafka then goes on trying until the process ends.
    pub async fn close(self) -> Result<(), KafkaError> {
        self.tell(Command::Close);
        let Some(End { result, left }) = lock(&self.end).take() else {
            return Ok(());
        };
        let lost = |_| Err(KafkaError::Fatal("the consumer's thread ended without a word".into()));
        let result = result.await.unwrap_or_else(lost);
        let left = timeout(Self::LEAVING, left).await;
        result?;
        if left.is_err() {
            return Err(KafkaError::Client {
                what: "leaving the group",
                detail: format!("the broker did not answer within {} s", Self::LEAVING.as_secs()),
            });
        }
        Ok(())
    }

    fn tell(&self, command: Command) {
        // A thread that has ended needs no telling.
        let _ = self.commands.send(command);
        self.waker.wake();
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.tell(Command::Close);
    }
}
