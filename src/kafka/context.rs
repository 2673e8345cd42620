//! What librdkafka calls back: rebalances, statistics, errors, logs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError as RdError, KafkaResult},
    types::RDKafkaRespErr,
};
use serde::Deserialize;

use super::{assignment::Assignment, budget::lock, client, message::Partition};
use crate::observe::{metric, quiet::Quiet};

/// The part of librdkafka's statistics that is read here; see its STATISTICS.md.
#[derive(Debug, Deserialize)]
pub(super) struct Statistics {
    #[serde(default)]
    pub(super) topics: HashMap<String, TopicStatistics>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TopicStatistics {
    #[serde(default)]
    pub(super) partitions: HashMap<i32, PartitionStatistics>,
}

/// Offsets as the latest fetch has told them; negative where none did yet.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct PartitionStatistics {
    pub(super) lo_offset: i64,
    pub(super) hi_offset: i64,
    pub(super) ls_offset: i64,
}

impl PartitionStatistics {
    /// The log's first offset.
    pub(super) fn start(self) -> Option<i64> {
        (self.lo_offset >= 0).then_some(self.lo_offset)
    }

    /// How far a consumer can read: open transactions end it for one that reads what is committed.
    pub(super) fn end(self, read_committed: bool) -> Option<i64> {
        let end = if read_committed && self.ls_offset >= 0 {
            self.ls_offset
        } else {
            self.hi_offset
        };
        (end >= 0).then_some(end)
    }
}

/// The group consumer's side of librdkafka's callbacks; all run on the consumer's thread.
pub(super) struct GroupContext {
    pub(super) assignment: Assignment,
    pub(super) read_committed: bool,
    /// Given by the group, to be asked for their starts, with their tickets.
    given: Mutex<Vec<(Partition, u64)>>,
    /// Whose position lies beyond what the broker has.
    beyond: Mutex<Vec<Partition>>,
    names: Mutex<HashMap<String, Arc<str>>>,
    quiet: Quiet,
}

impl GroupContext {
    pub(super) fn new(assignment: Assignment, read_committed: bool) -> Self {
        Self {
            assignment,
            read_committed,
            given: Mutex::default(),
            beyond: Mutex::default(),
            names: Mutex::default(),
            quiet: Quiet::default(),
        }
    }

    /// Takes what the group has given since the last call.
    pub(super) fn take_given(&self) -> Vec<(Partition, u64)> {
        std::mem::take(&mut lock(&self.given))
    }

    /// Takes the partitions found since the last call whose position the broker doesn't have.
    pub(super) fn take_beyond(&self) -> Vec<Partition> {
        std::mem::take(&mut lock(&self.beyond))
    }

    fn partitions(&self, list: &TopicPartitionList) -> Vec<Partition> {
        let mut names = lock(&self.names);
        list.elements()
            .iter()
            .map(|element| {
                let name = names
                    .entry(element.topic().to_owned())
                    .or_insert_with(|| Arc::from(element.topic()));
                (Arc::clone(name), element.partition())
            })
            .collect()
    }
}

/// The list that librdkafka wants.
pub(super) fn list<'a>(partitions: impl IntoIterator<Item = &'a Partition>) -> TopicPartitionList {
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
        if let Some(more) = self.quiet.allow(&error.to_string()) {
            tracing::warn!(error = %super::error::describe(&error), reason, more, "kafka client");
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else {
            return;
        };
        for (topic, statistics) in &statistics.topics {
            for (partition, statistics) in &statistics.partitions {
                if let Some(end) = statistics.end(self.read_committed) {
                    // Kafka refuses to fetch there; others answer with nothing for ever.
                    lock(&self.beyond).extend(self.assignment.ends_at(topic, *partition, end, statistics.hi_offset));
                }
            }
        }
    }
}

impl ConsumerContext for GroupContext {
    /// Answers the group at once: what it gives is accepted without beginning to fetch, so that a
    /// database that is away delays only this member's new partitions, never the group.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = self.partitions(list);
        let answered = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            metrics::counter!(metric::REBALANCES, "kind" => "assign").increment(1);
            tracing::info!(partitions = ?Shown(&partitions), "the group gives partitions");
            lock(&self.given).extend(self.assignment.given(partitions));
            consumer.incremental_assign(&TopicPartitionList::new())
        } else {
            let kind = if consumer.assignment_lost() { "lost" } else { "revoke" };
            metrics::counter!(metric::REBALANCES, "kind" => kind).increment(1);
            tracing::info!(partitions = ?Shown(&partitions), kind, "the group takes partitions");
            let fetched = self.assignment.taken(&partitions);
            consumer.incremental_unassign(&super::context::list(&fetched))
        };
        if let Err(error) = answered {
            client::count_error("consume");
            tracing::warn!(error = %super::error::describe(&error), "answering a rebalance");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        let Err(error) = result else { return };
        client::count_error("commit");
        if let Some(more) = self.quiet.allow(&error.to_string()) {
            // Postgres holds the truth; Kafka's copy serves lag tools only.
            tracing::warn!(error = %super::error::describe(&error), more, "committing offsets to kafka");
        }
    }
}

/// Partitions as people write them.
struct Shown<'a>(&'a [Partition]);

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(topic, partition)| format!("{topic}/{partition}")))
            .finish()
    }
}
