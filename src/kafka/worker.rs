//! The consumer's thread: polls the group's events all the time, and the partitions' queues
//! while there is room for records.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError as RdError,
    types::RDKafkaErrorCode,
};
use tokio::sync::mpsc;

use super::{
    assignment::Assignment,
    budget::{Budget, Waker},
    client::count_error,
    context::{GroupContext, list},
    error::{KafkaError, describe, is_authentication},
    lane::{Lane, OVERHEAD, Stranded},
    message::{Message, Partition},
    options::KafkaOptions,
    resolver::Resolver,
};
use crate::observe::{metric, quiet::Quiet};

/// What the handle and the resolver tell the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// A partition's start is known.
    Start {
        partition: Partition,
        ticket: u64,
        offset: i64,
    },
    /// A partition was interrupted and is to be started anew.
    Again(Partition),
    /// Nothing helps: the consumer ends.
    Fail(KafkaError),
    Commit(Vec<(Arc<str>, i32, i64)>),
    Drain,
    Close,
}

/// Records taken of one partition before the next has its turn.
const TURN: usize = 256;
/// How often the broker is asked for the partitions' ends while nothing is fetched.
/// Longer than such a look may take.
const LOOK: Duration = Duration::from_secs(20);
/// The longest sleep: a bound on what a lost wake could cost.
const NAP: Duration = Duration::from_millis(100);

enum Delivery {
    Sent,
    NoRoom,
    /// The receiver is gone.
    Unwanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Consuming,
    Draining,
}

pub(super) struct Worker {
    // Declared before the consumer: queues must go first.
    lanes: Vec<Lane>,
    consumer: Arc<BaseConsumer<GroupContext>>,
    assignment: Assignment,
    budget: Arc<Budget>,
    waker: Arc<Waker>,
    sender: Option<mpsc::Sender<Message>>,
    inbox: Receiver<Command>,
    resolver: Resolver,
    brokers: String,
    stranded: Option<Stranded>,
    /// Since when no room is left, or since the last look at the ends.
    paused: Option<Instant>,
    quiet: Quiet,
    turn: usize,
}

impl Worker {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        consumer: Arc<BaseConsumer<GroupContext>>,
        assignment: Assignment,
        budget: Arc<Budget>,
        waker: Arc<Waker>,
        sender: mpsc::Sender<Message>,
        inbox: Receiver<Command>,
        resolver: Resolver,
        options: &KafkaOptions,
    ) -> Self {
        Self {
            lanes: Vec::new(),
            consumer,
            assignment,
            budget,
            waker,
            sender: Some(sender),
            inbox,
            resolver,
            brokers: options.brokers.clone(),
            stranded: None,
            paused: None,
            quiet: Quiet::default(),
            turn: 0,
        }
    }

    /// Runs until closed or failed. Dropping the worker leaves the group.
    pub(super) fn run(&mut self) -> Result<(), KafkaError> {
        self.waker.register();
        let result = self.serve();
        // The receiver must see the end before the group is left, which takes a moment.
        self.stop_reading();
        result
    }

    fn serve(&mut self) -> Result<(), KafkaError> {
        let mut state = State::Consuming;
        loop {
            self.poll_events(Duration::ZERO)?;
            match self.obey()? {
                Some(State::Draining) => {
                    state = State::Draining;
                    self.stop_reading();
                }
                Some(State::Consuming) => {}
                None => return Ok(()),
            }
            let given = self.consumer.context().take_given();
            if state == State::Consuming && !given.is_empty() {
                self.resolver.start(given);
            }
            for partition in self.consumer.context().take_beyond() {
                self.out_of_range(&partition)?;
            }
            self.drop_stale_lanes();
            let busy = state == State::Consuming && self.read()?;
            self.look_while_paused();
            self.show();
            if !busy {
                // One poll serves one event; this one serves all there are before the nap.
                self.poll_events(Duration::from_millis(1))?;
                thread::park_timeout(NAP);
            }
        }
    }

    /// Serves rebalances, statistics, commits' results and errors.
    fn poll_events(&mut self, timeout: Duration) -> Result<(), KafkaError> {
        let consumer = Arc::clone(&self.consumer);
        match consumer.poll(timeout) {
            None => Ok(()),
            Some(Err(error)) => self.trouble(&error),
            // Every partition's queue is split off before it is fetched, so none comes this way.
            Some(Ok(record)) => Err(KafkaError::Fatal(format!(
                "record {}/{}/{} came unasked",
                record.topic(),
                record.partition(),
                record.offset()
            ))),
        }
    }

    /// Carries out what was told; `None` is the order to close.
    fn obey(&mut self) -> Result<Option<State>, KafkaError> {
        let mut state = State::Consuming;
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Start {
                    partition,
                    ticket,
                    offset,
                }) => self.start(partition, ticket, offset)?,
                Ok(Command::Again(partition)) => self.again(&partition)?,
                Ok(Command::Fail(error)) => return Err(error),
                Ok(Command::Commit(offsets)) => self.commit(&offsets),
                Ok(Command::Drain) => state = State::Draining,
                Ok(Command::Close) | Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => return Ok(Some(state)),
            }
        }
    }

    fn start(&mut self, partition: Partition, ticket: u64, offset: i64) -> Result<(), KafkaError> {
        if self.sender.is_none() {
            return Ok(());
        }
        let Some(epoch) = self.assignment.begin(&partition, ticket, offset) else {
            return Ok(());
        };
        // Split first: what is fetched then stays in the queue of its own from the first record on.
        let Some(mut queue) = self.consumer.split_partition_queue(&partition.0, partition.1) else {
            return Err(KafkaError::Fatal(format!(
                "{}/{} has no queue",
                partition.0, partition.1
            )));
        };
        let waker = Arc::clone(&self.waker);
        queue.set_nonempty_callback(move || waker.wake());
        let mut starts = TopicPartitionList::new();
        starts
            .add_partition_offset(&partition.0, partition.1, Offset::Offset(offset))
            .and_then(|()| self.consumer.incremental_assign(&starts))
            .map_err(|error| KafkaError::client("starting a partition", &error))?;
        tracing::info!(topic = %partition.0, partition = partition.1, offset, epoch, "reading");
        let topic = metric::topic_label(&partition.0);
        self.lanes.push(Lane {
            partition,
            epoch,
            queue,
            records: metrics::counter!(metric::RECORDS, "topic" => topic.clone()),
            bytes: metrics::counter!(metric::RECORD_BYTES, "topic" => topic),
        });
        Ok(())
    }

    fn again(&mut self, partition: &Partition) -> Result<(), KafkaError> {
        let Some((ticket, fetching)) = self.assignment.again(partition) else {
            return Ok(());
        };
        self.stop_fetching(partition, fetching)?;
        if self.sender.is_some() {
            self.resolver.start(vec![(partition.clone(), ticket)]);
        }
        Ok(())
    }

    fn stop_fetching(&mut self, partition: &Partition, fetching: bool) -> Result<(), KafkaError> {
        if fetching {
            self.consumer
                .incremental_unassign(&list([partition]))
                .map_err(|error| KafkaError::client("interrupting a partition", &error))?;
        }
        self.drop_stale_lanes();
        Ok(())
    }

    fn commit(&mut self, offsets: &[(Arc<str>, i32, i64)]) {
        let mut next = TopicPartitionList::new();
        for (topic, partition, offset) in offsets {
            if let Err(error) = next.add_partition_offset(topic, *partition, Offset::Offset(*offset)) {
                tracing::warn!(error = %describe(&error), "naming an offset to commit");
            }
        }
        if let Err(error) = self.consumer.commit(&next, CommitMode::Async) {
            count_error("commit");
            if let Some(more) = self.quiet.allow("commit") {
                tracing::warn!(error = %describe(&error), more, "committing offsets to kafka");
            }
        }
    }

    fn stop_reading(&mut self) {
        self.sender = None;
        self.stranded = None;
        self.set_paused(false);
    }

    fn drop_stale_lanes(&mut self) {
        let assignment = &self.assignment;
        self.lanes.retain(|lane| {
            let current = assignment.holds(&lane.partition.0, lane.partition.1, lane.epoch);
            if !current {
                // Frees what was fetched ahead: librdkafka drops outdated records when they are polled.
                let _ = lane.queue.poll(Duration::ZERO);
            }
            current
        });
    }

    /// Takes what the partitions have, in turns. Whether anything was there.
    fn read(&mut self) -> Result<bool, KafkaError> {
        let mut busy = false;
        if let Some(stranded) = self.stranded.take() {
            match self.deliver(stranded) {
                Delivery::Sent => busy = true,
                Delivery::NoRoom => return Ok(false),
                Delivery::Unwanted => return Ok(false),
            }
        }
        let lanes = self.lanes.len();
        for step in 0..lanes {
            let index = (self.turn + step) % lanes;
            for _ in 0..TURN {
                match self.take(index)? {
                    None => break,
                    Some(Delivery::Sent) => busy = true,
                    Some(Delivery::NoRoom) => {
                        // Who had no room has the first turn when there is.
                        self.turn = index;
                        return Ok(busy);
                    }
                    Some(Delivery::Unwanted) => return Ok(false),
                }
            }
        }
        self.turn = self.turn.wrapping_add(1);
        Ok(busy)
    }

    /// Takes one record of a partition; `None` if there is none.
    fn take(&mut self, index: usize) -> Result<Option<Delivery>, KafkaError> {
        let Some(lane) = self.lanes.get(index) else {
            return Ok(None);
        };
        let record = match lane.queue.poll(Duration::ZERO) {
            None => return Ok(None),
            Some(Ok(record)) => record,
            Some(Err(error)) => {
                let partition = lane.partition.clone();
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
                    self.out_of_range(&partition)?;
                } else {
                    self.trouble(&error)?;
                }
                return Ok(None);
            }
        };
        let stranded = Stranded::of(&record, lane);
        drop(record);
        lane.records.increment(1);
        lane.bytes.increment((stranded.bytes() - OVERHEAD) as u64);
        Ok(Some(self.deliver(stranded)))
    }

    fn deliver(&mut self, record: Stranded) -> Delivery {
        if !self
            .assignment
            .holds(&record.origin.topic, record.origin.partition, record.epoch)
        {
            // Nothing waits for room any more: what comes next finds out whether there is some.
            self.set_paused(false);
            return Delivery::Sent;
        }
        let Some(sender) = &self.sender else {
            return Delivery::Unwanted;
        };
        let Some(permit) = self.budget.try_acquire(record.bytes()) else {
            self.set_paused(true);
            self.stranded = Some(record);
            return Delivery::NoRoom;
        };
        let (partition, epoch, next) = (record.origin.topic_partition(), record.epoch, record.origin.offset + 1);
        match sender.try_send(record.with(permit)) {
            Ok(()) => {
                self.assignment.advance(&partition, epoch, next);
                self.set_paused(false);
                Delivery::Sent
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.stop_reading();
                Delivery::Unwanted
            }
            Err(mpsc::error::TrySendError::Full(message)) => {
                // A permit may be dropped before its message's place in the channel is free again.
                self.stranded = Some(Stranded::without_room(message));
                Delivery::NoRoom
            }
        }
    }

    /// The stored offset is not at the broker.
    fn out_of_range(&mut self, partition: &Partition) -> Result<(), KafkaError> {
        let held = self
            .assignment
            .current()
            .into_iter()
            .find(|held| held.topic == partition.0 && held.partition == partition.1);
        let Some(held) = held else { return Ok(()) };
        count_error("consume");
        self.assignment.interrupt(&partition.0, partition.1, held.epoch);
        let Some((ticket, fetching)) = self.assignment.again(partition) else {
            return Ok(());
        };
        self.stop_fetching(partition, fetching)?;
        self.resolver.out_of_range(partition.clone(), ticket, held.position);
        Ok(())
    }

    fn trouble(&mut self, error: &RdError) -> Result<(), KafkaError> {
        let detail = describe(error);
        if let RdError::MessageConsumptionFatal(_) = error {
            return Err(KafkaError::Fatal(detail));
        }
        count_error("consume");
        let code = error.rdkafka_error_code();
        if code.is_some_and(is_authentication) {
            tracing::debug!(brokers = %self.brokers, error = %detail, "login refused");
        }
        // Connections come back by themselves, topics may yet be created, rights be granted.
        if let Some(more) = self.quiet.allow(&detail) {
            tracing::warn!(error = %detail, more, "consuming; trying again");
        }
        Ok(())
    }

    fn set_paused(&mut self, paused: bool) {
        if self.paused.is_some() != paused {
            self.paused = paused.then(Instant::now);
            metrics::gauge!(metric::PAUSED).set(if paused { 1.0 } else { 0.0 });
        }
    }

    /// A full queue ends the fetching, and with it the news of the partitions' ends: just then
    /// the lag must not seem to stand still.
    fn look_while_paused(&mut self) {
        if self.paused.is_some_and(|since| since.elapsed() >= LOOK) {
            self.paused = Some(Instant::now());
            self.resolver.look();
        }
    }

    // Gauges take doubles.
    #[allow(clippy::cast_precision_loss)]
    fn show(&self) {
        let (records, bytes) = self.budget.in_flight();
        metrics::gauge!(metric::QUEUE_DEPTH, "queue" => "records").set(records as f64);
        metrics::gauge!(metric::QUEUE_BYTES, "queue" => "records").set(bytes as f64);
    }
}
