//! The consumer of a group, and dead letters.
//!
//! [`Consumer`] reads the topics as a member of a consumer group, on its own thread, and sends
//! [`Record`]s through a bounded channel. It asks an [`OffsetStore`] where each partition starts, so the offsets can
//! live in the same database as the effects. [`Assignment`] tells whether records still belong to this member.
//! [`DeadLetters`] writes records that can't be processed to the dead-letter topic, [`watermarks()`] returns the
//! partitions' watermarks, and [`check_broker`] reports what is wrong with the broker or the topics.
//!
//! Every partition has its own librdkafka queue. Back pressure means not polling these queues: `pause` would discard
//! the records already fetched, and `resume` would fetch them again. The group's events have a separate queue that is
//! always polled, so a consumer that waits for a slow database stays in the group.

mod check;
pub(crate) mod client;
mod consumer;
mod dead_letters;
pub(crate) mod error;
mod options;
mod partition;
mod secret;
mod statistics;
mod topic;
mod watermarks;

pub use rdkafka::message::OwnedHeaders;

pub(crate) use self::{check::fetch_metadata, topic::create_topic};
pub use self::{
    check::{BrokerReport, DeadLetterTopic, check_broker, check_clients, retention},
    consumer::{
        AssignedPartition, Assignment, Consumer, InFlightPermit, OffsetStore, OffsetStoreError, Origin,
        QuarantineCause, QuarantineReason, Record, StartOffset,
    },
    dead_letters::{
        DeadLetter, DeadLetterCounts, DeadLetterError, DeadLetters, REPLAYED_FROM, Replay, StoredDeadLetter, header,
        prepare_dead_letter_topic, read_dead_letters,
    },
    error::KafkaError,
    options::{KafkaOptions, OnTopicChanged, OutOfRange, Properties, PropertyValue, StartFrom},
    partition::Partition,
    watermarks::{Watermarks, watermarks},
};
