//! Sample posts, as `moodstream-demo` feeds them: a small, made-up social network, half an hour at a time.

mod damage;
mod draft;
mod languages;
mod phrases;
mod wire;
mod writer;

pub use writer::{Counts, Intent, Sample, Writer};

/// The stories that the samples tell: each one's name and hashtags.
pub fn stories() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    phrases::STORIES.iter().map(|story| (story.name, story.hashtags))
}
