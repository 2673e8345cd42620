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

mod assignment;
mod check;
pub(crate) mod client;
mod consumer;
mod dead_letter;
mod dead_letter_reader;
mod dead_letter_topic;
pub(crate) mod error;
mod event;
mod in_flight;
mod offset_store;
mod options;
mod partition;
mod partition_reader;
mod poll_loop;
mod properties;
mod quarantine;
mod rebalance;
mod record;
mod secret;
mod start_offsets;
mod topic;
mod topic_name;
mod watermarks;

pub use assignment::{AssignedPartition, Assignment};
pub(crate) use check::fetch_metadata;
pub use check::{BrokerReport, DeadLetterTopic, check_broker, check_clients, retention};
pub use consumer::Consumer;
pub use dead_letter::{DeadLetter, DeadLetterError, DeadLetters, Sent, header};
pub use dead_letter_reader::{REPLAYED_FROM, Replay, StoredDeadLetter, read_dead_letters};
pub use dead_letter_topic::prepare_dead_letter_topic;
pub use error::KafkaError;
pub use in_flight::InFlightPermit;
pub use offset_store::{OffsetStore, OffsetStoreError, StoredOffset};
pub use options::{KafkaOptions, OnTopicChanged, OutOfRange, StartFrom};
pub use partition::Partition;
pub use properties::{Properties, Value};
pub use quarantine::{Cause, QuarantineReason};
pub use rdkafka::message::OwnedHeaders;
pub use record::{Origin, Record};
pub(crate) use topic::create_topic;
pub use watermarks::{Watermarks, watermarks};
