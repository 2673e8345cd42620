//! The consumer's thread: always handles events, and polls the partitions' queues while there is room for records.

mod faults;

use std::{
    sync::Arc,
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
    event::{ConsumerEvent, EventReceiver, EventSender},
    in_flight::InFlightLimit,
    offset_store::StartOffset,
    partition_reader::{PartitionReader, Polled},
    quarantine::{QuarantineCause, QuarantineReason, Recovery},
    rebalance::{GroupContext, partition_list},
    record::Record,
    start_offsets::{StartOffsetFinder, UseStored},
};
use crate::kafka::{
    client::count_error,
    error::{KafkaError, describe, is_authentication},
    options::KafkaOptions,
    partition::Partition,
};
use crate::telemetry::{log_limiter::LogLimiter, metric};

/// The most records polled from one partition before the next one's turn.
const MAX_RECORDS_PER_TURN: usize = 256;
/// How often the high watermarks are queried while nothing is fetched. Longer than one such query may take.
const WATERMARK_REFRESH: Duration = Duration::from_secs(20);
/// The longest wait for an event, which bounds the delay that a missed wake-up could cause.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// The result of handing out a record.
enum Delivery {
    Sent,
    /// The limit on records in flight is reached.
    NoRoom,
    /// The receiver is gone.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Consuming,
    /// Hands out no more records, but keeps its partitions.
    Draining,
    Closed,
}

/// The parts of a [`PollLoop`].
pub(super) struct Parts {
    pub(super) consumer: Arc<BaseConsumer<GroupContext>>,
    pub(super) assignment: Assignment,
    pub(super) in_flight: Arc<InFlightLimit>,
    pub(super) events: EventReceiver,
    /// Wakes the loop when a queue is no longer empty.
    pub(super) wake: EventSender,
    pub(super) records: mpsc::Sender<Record>,
    pub(super) start_offsets: StartOffsetFinder,
    pub(super) options: KafkaOptions,
}

pub(super) struct PollLoop {
    // Declared before the consumer: the queues must be dropped first.
    readers: Vec<PartitionReader>,
    consumer: Arc<BaseConsumer<GroupContext>>,
    assignment: Assignment,
    in_flight: Arc<InFlightLimit>,
    events: EventReceiver,
    wake: EventSender,
    /// `None` once no more records are handed out.
    records: Option<mpsc::Sender<Record>>,
    start_offsets: StartOffsetFinder,
    options: KafkaOptions,
    state: State,
    /// A polled record that waits for room.
    waiting: Option<Record>,
    /// While there is no room: since when, or when the high watermarks were last refreshed.
    paused: Option<Instant>,
    /// The reader whose turn is next.
    turn: usize,
    log_limiter: LogLimiter,
}

impl PollLoop {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            readers: Vec::new(),
            consumer: parts.consumer,
            assignment: parts.assignment,
            in_flight: parts.in_flight,
            events: parts.events,
            wake: parts.wake,
            records: Some(parts.records),
            start_offsets: parts.start_offsets,
            options: parts.options,
            state: State::Consuming,
            waiting: None,
            paused: None,
            turn: 0,
            log_limiter: LogLimiter::default(),
        }
    }

    /// Runs until closed or failed. Dropping the loop leaves the group.
    pub(super) fn run(&mut self) -> Result<(), KafkaError> {
        let result = self.poll_until_closed();
        // The channel must close before the consumer leaves the group, which takes a moment.
        self.stop_reading();
        result
    }

    fn poll_until_closed(&mut self) -> Result<(), KafkaError> {
        loop {
            self.poll_callbacks(Duration::ZERO)?;
            while let Some(event) = self.events.try_next() {
                self.handle(event)?;
            }
            if self.state == State::Closed {
                return Ok(());
            }
            self.drop_stale_readers();
            self.retry_quarantined()?;
            let busy = self.state == State::Consuming && self.read()?;
            self.refresh_watermarks_while_paused();
            self.report_metrics();
            if !busy {
                // A poll without a timeout runs one callback; this one runs all pending callbacks before the wait.
                self.poll_callbacks(Duration::from_millis(1))?;
                if let Some(event) = self.events.next_within(MAX_WAIT) {
                    self.handle(event)?;
                }
            }
        }
    }

    fn handle(&mut self, event: ConsumerEvent) -> Result<(), KafkaError> {
        match event {
            ConsumerEvent::Assigned(tickets) => {
                if self.state == State::Consuming && !tickets.is_empty() {
                    self.start_offsets.find(tickets, self.cluster(), UseStored::Always);
                }
            }
            ConsumerEvent::OutOfRange(partitions) => {
                for partition in partitions {
                    self.out_of_range(&partition)?;
                }
            }
            ConsumerEvent::StartOffset {
                partition,
                ticket,
                start,
            } => self.start(&partition, ticket, &start)?,
            ConsumerEvent::Quarantine {
                partition,
                ticket,
                cause,
            } => {
                if ticket.is_none_or(|ticket| self.assignment.awaits(&partition, ticket)) {
                    self.quarantine(&partition, cause)?;
                }
            }
            ConsumerEvent::Restart(partition) => self.restart(&partition)?,
            ConsumerEvent::Commit(offsets) => self.commit(&offsets),
            ConsumerEvent::Drain => {
                if self.state == State::Consuming {
                    self.state = State::Draining;
                }
                self.stop_reading();
            }
            ConsumerEvent::Close => self.state = State::Closed,
            ConsumerEvent::Wake => {}
        }
        Ok(())
    }

    /// Runs librdkafka's callbacks: rebalances, statistics, commit results, errors.
    fn poll_callbacks(&mut self, timeout: Duration) -> Result<(), KafkaError> {
        let consumer = Arc::clone(&self.consumer);
        match consumer.poll(timeout) {
            None => Ok(()),
            Some(Err(error)) => {
                self.assignment.note_error(describe(&error));
                self.handle_error(&error)
            }
            // Every partition's queue is split off before its records are fetched, so none arrive here.
            Some(Ok(record)) => Err(KafkaError::Fatal(format!(
                "unexpected record {}/{}/{}",
                record.topic(),
                record.partition(),
                record.offset()
            ))),
        }
    }

    fn start(&mut self, partition: &Partition, ticket: u64, start: &StartOffset) -> Result<(), KafkaError> {
        if self.records.is_none() {
            return Ok(());
        }
        let Some(epoch) = self.assignment.begin(partition, ticket, start.next) else {
            return Ok(());
        };
        match PartitionReader::start(&self.consumer, partition, epoch, start, self.wake.clone()) {
            Ok(reader) => {
                tracing::info!(topic = %partition.0, partition = partition.1, offset = start.next, epoch, "partition started");
                if !reader.is_unverified() {
                    self.assignment.quarantine().recovered(partition, Recovery::Start);
                }
                self.readers.push(reader);
                Ok(())
            }
            Err(error) => {
                self.assignment.interrupt(&partition.0, partition.1, epoch);
                self.assignment.restart(partition);
                self.enter_quarantine(partition, QuarantineCause::new(QuarantineReason::ConsumerError, error));
                Ok(())
            }
        }
    }

    fn restart(&mut self, partition: &Partition) -> Result<(), KafkaError> {
        let Some((ticket, fetching)) = self.assignment.restart(partition) else {
            return Ok(());
        };
        self.stop_fetching(partition, fetching)?;
        if self.records.is_some() {
            self.start_offsets
                .find(vec![(partition.clone(), ticket)], self.cluster(), UseStored::Always);
        }
        Ok(())
    }

    fn stop_fetching(&mut self, partition: &Partition, fetching: bool) -> Result<(), KafkaError> {
        if fetching {
            self.consumer
                .incremental_unassign(&partition_list([partition]))
                .map_err(|error| KafkaError::client("stopping the fetch of a partition", &error))?;
        }
        self.drop_stale_readers();
        Ok(())
    }

    fn commit(&mut self, offsets: &[(Arc<str>, i32, i64)]) {
        let mut next = TopicPartitionList::new();
        for (topic, partition, offset) in offsets {
            if let Err(error) = next.add_partition_offset(topic, *partition, Offset::Offset(*offset)) {
                tracing::warn!(error = %describe(&error), "can't commit an offset to Kafka");
            }
        }
        if let Err(error) = self.consumer.commit(&next, CommitMode::Async) {
            count_error("commit");
            if let Some(more) = self.log_limiter.allow("commit") {
                tracing::warn!(error = %describe(&error), more, "committing offsets to Kafka failed");
            }
        }
    }

    fn stop_reading(&mut self) {
        self.records = None;
        self.waiting = None;
        self.set_paused(false);
    }

    fn drop_stale_readers(&mut self) {
        let assignment = &self.assignment;
        self.readers.retain(|reader| {
            let current = assignment.holds(&reader.partition.0, reader.partition.1, reader.epoch);
            if !current {
                reader.discard();
            }
            current
        });
    }

    /// Hands out records from the partitions' queues, taking turns. Returns whether there were any.
    fn read(&mut self) -> Result<bool, KafkaError> {
        let mut busy = false;
        if let Some(record) = self.waiting.take() {
            match self.deliver(record) {
                Delivery::Sent => busy = true,
                Delivery::NoRoom | Delivery::Closed => return Ok(false),
            }
        }
        let readers = self.readers.len();
        for step in 0..readers {
            let index = (self.turn + step) % readers;
            for _ in 0..MAX_RECORDS_PER_TURN {
                match self.poll_partition(index)? {
                    None => break,
                    Some(Delivery::Sent) => busy = true,
                    Some(Delivery::NoRoom) => {
                        // This partition is first once there is room.
                        self.turn = index;
                        return Ok(busy);
                    }
                    Some(Delivery::Closed) => return Ok(false),
                }
            }
        }
        self.turn = self.turn.wrapping_add(1);
        Ok(busy)
    }

    /// Polls one record of a partition and hands it out. Returns `None` if there is none.
    fn poll_partition(&mut self, index: usize) -> Result<Option<Delivery>, KafkaError> {
        let Some(reader) = self.readers.get_mut(index) else {
            return Ok(None);
        };
        let was_unverified = reader.is_unverified();
        let polled = reader.poll(&self.in_flight);
        if was_unverified && !reader.is_unverified() && !matches!(polled, Polled::Mismatch) {
            self.assignment
                .quarantine()
                .recovered(&reader.partition, Recovery::Start);
        }
        if matches!(polled, Polled::Record(_)) && reader.is_first() {
            self.assignment
                .quarantine()
                .recovered(&reader.partition, Recovery::Record);
        }
        let (partition, epoch) = (reader.partition.clone(), reader.epoch);
        match polled {
            Polled::Nothing => return Ok(None),
            Polled::Record(record) => return Ok(Some(self.deliver(record))),
            Polled::Verified => return Ok(Some(Delivery::Sent)),
            Polled::Mismatch => self.topic_changed(&partition, epoch)?,
            Polled::Error(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                self.out_of_range(&partition)?;
            }
            Polled::Error(error) => {
                if faults::must_halt(&error) {
                    self.halt(index, &error);
                }
                self.handle_error(&error)?;
            }
        }
        Ok(None)
    }

    /// Sends a record to the pipeline, or keeps it until there is room. Drops a record whose partition was revoked or
    /// restarted in the meantime.
    fn deliver(&mut self, mut record: Record) -> Delivery {
        let (partition, epoch) = (record.origin.topic_partition(), record.epoch);
        if !self.assignment.holds(&partition.0, partition.1, epoch) {
            // No record waits for room any more; the next one finds out whether there is room.
            self.set_paused(false);
            return Delivery::Sent;
        }
        let Some(records) = &self.records else {
            return Delivery::Closed;
        };
        if !record.permit.try_acquire() {
            self.waiting = Some(record);
            self.set_paused(true);
            return Delivery::NoRoom;
        }
        let next = record.origin.offset + 1;
        match records.try_send(record) {
            Ok(()) => {
                self.assignment.advance(&partition, epoch, next);
                self.set_paused(false);
                Delivery::Sent
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.stop_reading();
                Delivery::Closed
            }
            Err(mpsc::error::TrySendError::Full(mut record)) => {
                // The permit of an earlier record may be released before its slot in the channel is free.
                record.permit.release();
                self.waiting = Some(record);
                Delivery::NoRoom
            }
        }
    }

    fn handle_error(&mut self, error: &RdError) -> Result<(), KafkaError> {
        let detail = describe(error);
        if let RdError::MessageConsumptionFatal(_) = error {
            return Err(KafkaError::Fatal(detail));
        }
        count_error("consume");
        let code = error.rdkafka_error_code();
        if code.is_some_and(is_authentication) {
            tracing::debug!(brokers = %self.options.brokers, error = %detail, "login refused");
        }
        // Connections are re-established automatically; topics may still be created and permissions granted.
        if let Some(more) = self.log_limiter.allow(&detail) {
            tracing::warn!(error = %detail, more, "error while consuming; retrying");
        }
        Ok(())
    }

    fn set_paused(&mut self, paused: bool) {
        if self.paused.is_some() != paused {
            self.paused = paused.then(Instant::now);
            metrics::gauge!(metric::PAUSED).set(if paused { 1.0 } else { 0.0 });
        }
    }

    /// Queries the high watermarks at intervals while there is no room. Full queues stop the fetching, and without fetch
    /// responses the lag would not grow.
    fn refresh_watermarks_while_paused(&mut self) {
        if self.paused.is_some_and(|since| since.elapsed() >= WATERMARK_REFRESH) {
            self.paused = Some(Instant::now());
            self.start_offsets.refresh_watermarks();
        }
    }

    // Gauges take doubles.
    #[allow(clippy::cast_precision_loss)]
    fn report_metrics(&self) {
        let (records, bytes) = self.in_flight.in_flight();
        metrics::gauge!(metric::QUEUE_DEPTH, "queue" => "records").set(records as f64);
        metrics::gauge!(metric::QUEUE_BYTES, "queue" => "records").set(bytes as f64);
    }
}
