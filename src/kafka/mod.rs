//! Consuming, assignment and pausing, dead letters, feeding.
//!
//! [`Consumer`] reads the topics in a consumer group on a thread of its own and hands out
//! [`Message`]s through a bounded channel. Where each partition starts is asked of a
//! [`StartOffsets`], so the offsets' truth may live in the same database as the effects.
//! [`Assignment`] says which records still belong to this member. [`DeadLetters`] writes what
//! can't be handled to a topic of its own; [`feed()`] fills a topic from a file; [`end_offsets`]
//! tells how far the topics reach; [`check_broker`] tells what stands in the way.
//!
//! Every partition keeps its own librdkafka queue. Back pressure is not polling those queues:
//! `pause` would throw away what was fetched already, and would fetch it again on `resume`.
//! The group's events have a queue of their own, which is polled all the time, so a consumer
//! that waits for a slow database keeps its place in the group.

mod assignment;
mod budget;
mod check;
mod client;
mod consumer;
mod context;
mod dead_letter;
mod error;
mod feed;
mod lane;
mod lines;
mod message;
mod offsets;
mod options;
mod pace;
mod probe;
mod properties;
pub mod rebase;
mod resolver;
mod topic;
mod worker;

pub use assignment::{Assignment, Held};
pub use budget::Permit;
pub use check::{BrokerReport, check_broker};
pub use consumer::Consumer;
pub use dead_letter::{DeadLetter, DeadLetterError, DeadLetters, Sent, header};
pub use error::KafkaError;
pub use feed::{FeedError, FeedOptions, FeedProgress, FeedSummary, feed};
pub use lines::Source as FeedSource;
pub use message::{Message, Origin, Partition};
pub use offsets::{StartOffsets, StartOffsetsError};
pub use options::{KafkaOptions, OutOfRange, StartFrom};
pub use probe::{Extent, end_offsets};
pub use properties::{Properties, Value};
