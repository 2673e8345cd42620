//! Faults of single partitions: a partition is restarted or quarantined while the others continue.

use std::time::Duration;

use rdkafka::{consumer::Consumer as _, error::KafkaError as RdError, types::RDKafkaErrorCode};

use super::{PollLoop, State};
use crate::kafka::{
    client::count_error,
    consumer::{
        quarantine::{QuarantineCause, QuarantineReason},
        start_offsets::UseStored,
    },
    error::{KafkaError, describe},
    options::OnTopicChanged,
    partition::Partition,
};

/// Whether, after this error of a partition, the client library skips records, or stops reading without reporting it again.
pub(super) fn must_halt(error: &RdError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::NotImplemented
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}

impl PollLoop {
    /// Stops reading a partition after an error, so that no record is skipped, and quarantines it. Its epoch stays current,
    /// so that the records already read are committed.
    pub(super) fn halt(&mut self, index: usize, error: &RdError) {
        let Some(reader) = self.readers.get_mut(index) else {
            return;
        };
        reader.halt();
        let (partition, epoch) = (reader.partition.clone(), reader.epoch);
        let unreadable = KafkaError::Unreadable {
            topic: partition.0.to_string(),
            partition: partition.1,
            offset: self
                .assignment
                .position(&partition)
                .filter(|&(current, _)| current == epoch)
                .map_or(0, |(_, position)| position),
            detail: describe(error),
        };
        self.enter_quarantine(
            &partition,
            QuarantineCause::new(QuarantineReason::ConsumerError, unreadable),
        );
    }

    /// Stops fetching an interrupted partition and quarantines it.
    pub(super) fn quarantine(&mut self, partition: &Partition, cause: QuarantineCause) -> Result<(), KafkaError> {
        let Some((_, fetching)) = self.assignment.restart(partition) else {
            return Ok(());
        };
        self.stop_fetching(partition, fetching)?;
        self.enter_quarantine(partition, cause);
        Ok(())
    }

    /// Lists a partition as quarantined, and logs it if it wasn't listed for this reason before.
    pub(super) fn enter_quarantine(&self, partition: &Partition, cause: QuarantineCause) {
        let retry = self.options.quarantine_retry();
        let (reason, detail) = (cause.reason.as_str(), cause.detail.clone());
        if self.assignment.quarantine().put(partition, cause, retry) {
            count_error("consume");
            let retry_in = retry.map_or(0, |pause| pause.as_secs());
            tracing::error!(topic = %partition.0, partition = partition.1, reason, retry_in_seconds = retry_in, "partition quarantined, the others continue: {detail}");
        }
    }

    /// Retries quarantined partitions that are due. Each restarts from the offset that is stored now.
    pub(super) fn retry_quarantined(&mut self) -> Result<(), KafkaError> {
        if self.state != State::Consuming {
            return Ok(());
        }
        let mut tickets: Vec<(Partition, u64)> = Vec::new();
        for partition in self.assignment.quarantine().due(self.options.quarantine_retry()) {
            let mut readers = self.readers.iter();
            if let Some(halted) = readers.find(|reader| reader.is_halted() && reader.partition == partition) {
                self.assignment.interrupt(&partition.0, partition.1, halted.epoch);
            }
            let Some((ticket, fetching)) = self.assignment.restart(&partition) else {
                continue;
            };
            self.stop_fetching(&partition, fetching)?;
            tickets.push((partition, ticket));
        }
        if !tickets.is_empty() {
            self.start_offsets.find(tickets, self.cluster(), UseStored::IfInRange);
        }
        Ok(())
    }

    /// The id of the cluster to which the brokers belong, if they have reported one.
    pub(super) fn cluster(&self) -> Option<String> {
        self.consumer.client().fetch_cluster_id(Duration::ZERO)
    }

    /// Handles a position that is out of range: looks up the start offset and checks it against the broker's range.
    pub(super) fn out_of_range(&mut self, partition: &Partition) -> Result<(), KafkaError> {
        count_error("consume");
        self.look_up_start_offset(partition, UseStored::IfInRange)
    }

    /// Handles a record before the start offset that is not the one that was committed there.
    pub(super) fn topic_changed(&mut self, partition: &Partition, epoch: u64) -> Result<(), KafkaError> {
        if self.options.on_topic_changed == OnTopicChanged::Restart {
            return self.look_up_start_offset(partition, UseStored::Never);
        }
        let position = self
            .assignment
            .position(partition)
            .filter(|&(current, _)| current == epoch)
            .map_or(0, |(_, position)| position);
        self.assignment.interrupt(&partition.0, partition.1, epoch);
        let changed = KafkaError::RecordChanged {
            topic: partition.0.to_string(),
            partition: partition.1,
            offset: position - 1,
        };
        self.quarantine(partition, QuarantineCause::new(QuarantineReason::TopicChanged, changed))
    }

    /// Interrupts a partition and looks up its start offset again.
    fn look_up_start_offset(&mut self, partition: &Partition, use_stored: UseStored) -> Result<(), KafkaError> {
        let Some((epoch, _)) = self.assignment.position(partition) else {
            return Ok(());
        };
        self.assignment.interrupt(&partition.0, partition.1, epoch);
        let Some((ticket, fetching)) = self.assignment.restart(partition) else {
            return Ok(());
        };
        self.stop_fetching(partition, fetching)?;
        self.start_offsets
            .find(vec![(partition.clone(), ticket)], self.cluster(), use_stored);
        Ok(())
    }
}
