//! A sample post before it is encoded.

use fastrand::Rng;
use time::OffsetDateTime;

use crate::phrases::Mood;

/// A post before it is encoded in a wire format.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) wire: Wire,
    /// Unique within the sample, ascending in time; each wire format makes its own kind of id from it.
    pub(crate) serial: u64,
    pub(crate) at: OffsetDateTime,
    pub(crate) author: u32,
    pub(crate) lang: &'static str,
    pub(crate) text: String,
    /// What it is meant to express.
    pub(crate) mood: Mood,
    pub(crate) relation: Relation,
}

/// How a post relates to an earlier one.
#[derive(Debug, Clone)]
pub(crate) enum Relation {
    Original,
    RepostOf(Box<Draft>),
    Quotes(Box<Draft>),
}

/// The formats of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    TwitterV1,
    TwitterV2,
    ActivityStreams,
    Jetstream,
    Mastodon,
    Plain,
    Text,
}

impl Wire {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        match rng.u8(..100) {
            0..34 => Self::TwitterV1,
            34..52 => Self::TwitterV2,
            52..58 => Self::ActivityStreams,
            58..78 => Self::Jetstream,
            78..92 => Self::Mastodon,
            92..99 => Self::Plain,
            _ => Self::Text,
        }
    }

    pub(crate) const fn has_id(self) -> bool {
        !matches!(self, Self::Text)
    }

    pub(crate) const fn has_time(self) -> bool {
        !matches!(self, Self::Text)
    }

    pub(crate) const fn has_lang(self) -> bool {
        !matches!(self, Self::Text)
    }

    pub(crate) const fn has_reposts(self) -> bool {
        matches!(
            self,
            Self::TwitterV1 | Self::TwitterV2 | Self::ActivityStreams | Self::Mastodon
        )
    }

    pub(crate) const fn has_quotes(self) -> bool {
        matches!(self, Self::TwitterV1 | Self::TwitterV2)
    }
}
