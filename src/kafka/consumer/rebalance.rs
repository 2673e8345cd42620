//! librdkafka's callbacks: rebalances, statistics, errors, logs.

use rdkafka::{
    ClientContext, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError as RdError, KafkaResult},
    types::RDKafkaRespErr,
};

use super::{
    assignment::Assignment,
    event::{ConsumerEvent, EventSender},
};
use crate::kafka::{client, partition::Partition, statistics::Statistics};
use crate::telemetry::{log_limiter::LogLimiter, metric};

/// The callbacks of the group's consumer. They all run on the consumer's thread, within a poll.
pub(super) struct GroupContext {
    pub(super) assignment: Assignment,
    pub(super) read_committed: bool,
    events: EventSender,
    log_limiter: LogLimiter,
}

impl GroupContext {
    pub(super) fn new(assignment: Assignment, events: EventSender, read_committed: bool) -> Self {
        Self {
            assignment,
            read_committed,
            events,
            log_limiter: LogLimiter::default(),
        }
    }
}

/// The partitions as librdkafka's list.
pub(super) fn partition_list<'a>(partitions: impl IntoIterator<Item = &'a Partition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

impl ClientContext for GroupContext {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: RdError, reason: &str) {
        client::count_error("broker");
        if !self.assignment.has_joined() {
            self.assignment.note_error(reason.to_owned());
        }
        if let Some(more) = self.log_limiter.allow(&error.to_string()) {
            tracing::warn!(error = %crate::kafka::error::describe(&error), reason, more, "Kafka client error");
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else {
            return;
        };
        let mut out_of_range = Vec::new();
        for (topic, statistics) in &statistics.topics {
            for (partition, statistics) in &statistics.partitions {
                if let Some(end) = statistics.end(self.read_committed) {
                    // Kafka refuses to fetch beyond the end; other brokers keep returning empty responses.
                    out_of_range.extend(self.assignment.observe_watermark(
                        topic,
                        *partition,
                        end,
                        statistics.hi_offset,
                    ));
                }
            }
        }
        if !out_of_range.is_empty() {
            self.events.send(ConsumerEvent::OutOfRange(out_of_range));
        }
    }
}

impl ConsumerContext for GroupContext {
    /// Completes the rebalance at once: accepts assigned partitions without starting to fetch them. So a database
    /// that is down delays only this member's new partitions, not the group.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let elements = list.elements();
        let partitions: Vec<Partition> = elements.iter().map(|it| (it.topic().into(), it.partition())).collect();
        let result = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            metrics::counter!(metric::REBALANCES, "kind" => "assign").increment(1);
            tracing::info!(partitions = ?PartitionNames(&partitions), "partitions assigned");
            let tickets = self.assignment.assigned(partitions);
            self.events.send(ConsumerEvent::Assigned(tickets));
            consumer.incremental_assign(&TopicPartitionList::new())
        } else {
            let kind = if consumer.assignment_lost() { "lost" } else { "revoke" };
            metrics::counter!(metric::REBALANCES, "kind" => kind).increment(1);
            tracing::info!(partitions = ?PartitionNames(&partitions), kind, "partitions revoked");
            let fetched = self.assignment.revoked(&partitions);
            consumer.incremental_unassign(&partition_list(&fetched))
        };
        if let Err(error) = result {
            client::count_error("consume");
            tracing::warn!(error = %crate::kafka::error::describe(&error), "completing a rebalance failed");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        let Err(error) = result else { return };
        client::count_error("commit");
        if let Some(more) = self.log_limiter.allow(&error.to_string()) {
            // The offsets in Postgres are authoritative; Kafka's are for lag tools only.
            tracing::warn!(error = %crate::kafka::error::describe(&error), more, "committing offsets to Kafka failed");
        }
    }
}

/// Partitions as `topic/partition`, for the log.
struct PartitionNames<'a>(&'a [Partition]);

impl std::fmt::Debug for PartitionNames<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(topic, partition)| format!("{topic}/{partition}")))
            .finish()
    }
}
