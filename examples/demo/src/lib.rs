//! The sample posts of `moodstream-demo`: half an hour of a small, made-up social network.

mod damage;
mod draft;
mod languages;
mod phrases;
mod wire;
mod writer;

pub use writer::{Counts, Intent, Sample, Writer};

/// The name and hashtags of each story in the samples.
pub fn stories() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    phrases::STORIES.iter().map(|story| (story.name, story.hashtags))
}
