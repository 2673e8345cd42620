//! Dead letters: writing records that can't be processed to a topic of their own, and reading them back.

mod letter;
mod producer;
mod reader;
mod topic;

pub use self::{
    letter::{DeadLetter, header},
    producer::{DeadLetterCounts, DeadLetterError, DeadLetters},
    reader::{REPLAYED_FROM, Replay, StoredDeadLetter, read_dead_letters},
    topic::prepare_dead_letter_topic,
};
