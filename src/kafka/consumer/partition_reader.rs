//! A partition that is being read, and the check that the stored offset belongs to its log.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::KafkaError as RdError,
};

use super::{
    event::EventSender, in_flight::InFlightLimit, offset_store::StartOffset, rebalance::GroupContext, record::Record,
};
use crate::kafka::{error::KafkaError, partition::Partition};
use crate::{post::Fingerprint, telemetry::metric};

/// The result of polling a partition once.
pub(super) enum Polled {
    Nothing,
    /// The record before the start offset is the one that was committed there.
    Verified,
    /// The record before the start offset is a different one.
    Mismatch,
    Record(Record),
    Error(RdError),
}

/// A partition that is being read, with the queue into which librdkafka fetches its records.
pub(super) struct PartitionReader {
    pub(super) partition: Partition,
    pub(super) epoch: u64,
    queue: PartitionQueue<GroupContext>,
    /// The start offset, and the fingerprint that the record before it must have. That record is read first.
    before: Option<(i64, Fingerprint)>,
    /// Whether a record was read.
    has_read: bool,
    /// Whether reading has stopped because the client library would skip records.
    halted: bool,
    records: metrics::Counter,
    bytes: metrics::Counter,
}

impl PartitionReader {
    /// Starts fetching a partition.
    pub(super) fn start(
        consumer: &Arc<BaseConsumer<GroupContext>>,
        partition: &Partition,
        epoch: u64,
        start: &StartOffset,
        wake: EventSender,
    ) -> Result<Self, KafkaError> {
        // Split off before the fetch, so that all records go to the partition's own queue.
        let Some(mut queue) = consumer.split_partition_queue(&partition.0, partition.1) else {
            return Err(KafkaError::Fatal(format!(
                "{}/{} has no queue",
                partition.0, partition.1
            )));
        };
        queue.set_nonempty_callback(move || wake.wake());
        let before = start.last.filter(|_| start.next > 0).map(|last| (start.next, last));
        let first = start.next - i64::from(before.is_some());
        let mut starts = TopicPartitionList::new();
        starts
            .add_partition_offset(&partition.0, partition.1, Offset::Offset(first))
            .and_then(|()| consumer.incremental_assign(&starts))
            .map_err(|error| KafkaError::client("starting a partition", &error))?;
        let topic = metric::topic_label(&partition.0);
        Ok(Self {
            partition: partition.clone(),
            epoch,
            queue,
            before,
            has_read: false,
            halted: false,
            records: metrics::counter!(metric::RECORDS, "topic" => topic.clone()),
            bytes: metrics::counter!(metric::RECORD_BYTES, "topic" => topic),
        })
    }

    /// Whether the record before the start offset has yet to be compared.
    pub(super) fn is_unverified(&self) -> bool {
        self.before.is_some()
    }

    /// Stops reading. Records already read stay valid.
    pub(super) fn halt(&mut self) {
        self.halted = true;
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halted
    }

    /// Whether the record just read is the first one. To be called once for each record.
    pub(super) fn is_first(&mut self) -> bool {
        !std::mem::replace(&mut self.has_read, true)
    }

    /// Polls the partition's queue.
    pub(super) fn poll(&mut self, in_flight: &Arc<InFlightLimit>) -> Polled {
        if self.halted {
            return Polled::Nothing;
        }
        let message = match self.queue.poll(Duration::ZERO) {
            None => return Polled::Nothing,
            Some(Ok(message)) => message,
            Some(Err(error)) => return Polled::Error(error),
        };
        let record = Record::copy_of(&message, &self.partition, self.epoch, in_flight);
        drop(message);
        // If that record is gone, for example by compaction, there is nothing to compare.
        if let Some((start, before)) = self.before.take()
            && record.origin.offset < start
        {
            return if record.fingerprint == before {
                Polled::Verified
            } else {
                Polled::Mismatch
            };
        }
        self.records.increment(1);
        self.bytes.increment(record.bytes() as u64);
        Polled::Record(record)
    }

    /// Frees prefetched records of a reader that is no longer needed: librdkafka drops outdated records when its queue is
    /// polled.
    pub(super) fn discard(&self) {
        let _ = self.queue.poll(Duration::ZERO);
    }
}
