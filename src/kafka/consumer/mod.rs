//! Consuming in a group: the consumer's handle, its thread, and which records still belong to this member.

mod assignment;
mod event;
mod in_flight;
mod offset_store;
mod partition_reader;
mod poll_loop;
mod quarantine;
mod rebalance;
mod record;
mod start_offsets;

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

pub(super) use self::record::{bytes_of, read_headers};
pub use self::{
    assignment::{AssignedPartition, Assignment},
    in_flight::InFlightPermit,
    offset_store::{OffsetStore, OffsetStoreError, StartOffset},
    quarantine::{QuarantineCause, QuarantineReason},
    record::{Origin, Record},
};
use self::{
    event::{ConsumerEvent, EventSender},
    in_flight::InFlightLimit,
    poll_loop::{Parts, PollLoop},
    rebalance::GroupContext,
    start_offsets::StartOffsetFinder,
};
use super::{error::KafkaError, options::KafkaOptions, partition::Partition};
use crate::sync::lock;

/// A member of the consumer group, on its own thread.
///
/// It has three states. While *consuming* it hands out records. After
/// [`Consumer::drain`] it hands out no more, but keeps its partitions, so that the records in flight
/// can be processed and committed. [`Consumer::close`], or dropping it, leaves the group.
#[derive(Debug)]
pub struct Consumer {
    assignment: Assignment,
    in_flight: Arc<InFlightLimit>,
    events: EventSender,
    end: Mutex<Option<End>>,
}

/// Reports how the thread ended, and when it has left the group.
#[derive(Debug)]
struct End {
    result: oneshot::Receiver<Result<(), KafkaError>>,
    left: oneshot::Receiver<()>,
}

impl Consumer {
    /// How long leaving the group may take. While the broker is unreachable librdkafka would try for longer than the session
    /// timeout. Giving up is harmless: the authoritative offsets are not the broker's, and the group removes the member
    /// after the session timeout.
    pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

    /// Subscribes to the topics and starts handing out their records, in order within each
    /// partition. Must be called within a tokio runtime, on which `offsets` is called.
    ///
    /// The channel closes when the consumer is drained or has failed; [`Consumer::close`] returns which.
    ///
    /// # Errors
    /// [`KafkaError`] for invalid settings. An unreachable broker is no error: the consumer waits for it.
    pub fn start(
        options: &KafkaOptions,
        offsets: Arc<dyn OffsetStore>,
    ) -> Result<(Self, mpsc::Receiver<Record>), KafkaError> {
        options.check()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| KafkaError::Client {
            what: "starting the consumer",
            detail: error.to_string(),
        })?;
        let assignment = Assignment::default();
        let (events, inbox) = event::channel();
        let consumer = Arc::new(subscribe(options, &assignment, &events)?);
        let in_flight = InFlightLimit::new(
            options.max_in_flight_records,
            options.max_in_flight_bytes,
            events.clone(),
        );
        // The limit bounds the records in flight, so there is room in the channel for every record with a permit.
        let (records, receiver) = mpsc::channel(options.max_in_flight_records);
        let (ended, result) = oneshot::channel();
        let (leave, left) = oneshot::channel();
        let mut poll_loop = PollLoop::new(Parts {
            start_offsets: StartOffsetFinder::new(
                runtime,
                options.clone(),
                offsets,
                assignment.clone(),
                events.clone(),
            ),
            consumer,
            assignment: assignment.clone(),
            in_flight: Arc::clone(&in_flight),
            events: inbox,
            wake: events.clone(),
            records,
            options: options.clone(),
        });
        thread::Builder::new()
            .name("kafka-consumer".into())
            .spawn(move || {
                // The receiver may be gone.
                let _ = ended.send(poll_loop.run());
                drop(poll_loop);
                let _ = leave.send(());
            })
            .map_err(|error| KafkaError::Client {
                what: "starting the consumer's thread",
                detail: error.to_string(),
            })?;
        Ok((
            Self {
                assignment,
                in_flight,
                events,
                end: Mutex::new(Some(End { result, left })),
            },
            receiver,
        ))
    }

    /// A shared view of the assigned partitions.
    #[must_use]
    pub fn assignment(&self) -> Assignment {
        self.assignment.clone()
    }

    /// Records and bytes handed out and not yet dropped.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        self.in_flight.in_flight()
    }

    /// Commits to Kafka the offsets that are committed in the database. Returns at once; a failure is
    /// counted and logged, and does no harm, as the database's offsets are authoritative.
    pub fn commit(&self, offsets: &[(Arc<str>, i32, i64)]) {
        if offsets.is_empty() {
            return;
        }
        for (topic, partition, offset) in offsets {
            self.assignment.committed(&(Arc::clone(topic), *partition), *offset);
        }
        self.events.send(ConsumerEvent::Commit(offsets.to_vec()));
    }

    /// Restarts a fenced partition: looks up its start offset again and continues from there under a new epoch.
    /// Records of `epoch` become stale. Does nothing if `epoch` is no longer current.
    pub fn restart(&self, topic: &Arc<str>, partition: i32, epoch: u64) {
        if self.assignment.interrupt(topic, partition, epoch) {
            let partition: Partition = (Arc::clone(topic), partition);
            self.events.send(ConsumerEvent::Restart(partition));
        }
    }

    /// Quarantines a partition with a record that can be neither stored nor rejected, for the reason in `detail`. Records of
    /// `epoch` become stale. Does nothing if `epoch` is no longer current.
    pub fn quarantine(&self, topic: &Arc<str>, partition: i32, epoch: u64, detail: &str) {
        if self.assignment.interrupt(topic, partition, epoch) {
            self.events.send(ConsumerEvent::Quarantine {
                partition: (Arc::clone(topic), partition),
                ticket: None,
                cause: QuarantineCause::new(QuarantineReason::RecordRefused, detail),
            });
        }
    }

    /// Stops handing out records; the channel closes after those already sent. The partitions
    /// stay with this member, and offsets can still be committed.
    pub fn drain(&self) {
        self.events.send(ConsumerEvent::Drain);
    }

    /// Leaves the group after sending the last commits, and returns how the consumer ended.
    ///
    /// # Errors
    /// The [`KafkaError`] with which it failed before, or one that says that the broker did not answer within
    /// [`Consumer::LEAVE_TIMEOUT`]. In the latter case librdkafka keeps trying until the process ends.
    pub async fn close(self) -> Result<(), KafkaError> {
        self.events.send(ConsumerEvent::Close);
        let Some(End { result, left }) = lock(&self.end).take() else {
            return Ok(());
        };
        let lost = |_| Err(KafkaError::Fatal("the consumer's thread ended without a result".into()));
        let result = result.await.unwrap_or_else(lost);
        let left = timeout(Self::LEAVE_TIMEOUT, left).await;
        result?;
        if left.is_err() {
            return Err(KafkaError::Client {
                what: "leaving the group",
                detail: format!("the broker did not answer within {} s", Self::LEAVE_TIMEOUT.as_secs()),
            });
        }
        Ok(())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.events.send(ConsumerEvent::Close);
    }
}

/// Creates the librdkafka consumer and subscribes to the topics.
fn subscribe(
    options: &KafkaOptions,
    assignment: &Assignment,
    events: &EventSender,
) -> Result<BaseConsumer<GroupContext>, KafkaError> {
    let context = GroupContext::new(assignment.clone(), events.clone(), options.read_committed());
    let mut consumer: BaseConsumer<GroupContext> = options
        .consumer_config()
        .create_with_context(context)
        .map_err(|error| KafkaError::client("creating the consumer", &error))?;
    let wake = events.clone();
    consumer.set_nonempty_callback(move || wake.wake());
    let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
    consumer
        .subscribe(&topics)
        .map_err(|error| KafkaError::client("subscribing", &error))?;
    Ok(consumer)
}
