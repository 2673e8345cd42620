//! The types of a post's fields. Their constructors enforce the database's limits.

use std::{fmt, ops::Deref};

use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// A value outside its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Empty, or only whitespace.
    #[error("it is empty")]
    Empty,
    /// Longer than an index entry may be.
    #[error("it has {bytes} bytes, more than {max}")]
    TooLong {
        /// The length in bytes.
        bytes: usize,
        /// The maximum length in bytes.
        max: usize,
    },
    /// A time outside the supported years.
    #[error("it is outside the years 1970 to 2200")]
    Year,
}

/// Implements conversions and comparisons with `&str` for a string type.
macro_rules! string {
    ($name:ident) => {
        impl $name {
            /// The value as a string slice.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = FieldError;

            fn try_from(text: &str) -> Result<Self, FieldError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = FieldError;

            fn try_from(text: String) -> Result<Self, FieldError> {
                Self::new(text)
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }
    };
}

/// The identifier of a post or an author within its source: 1 to [`Id::MAX_BYTES`] bytes, without NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// The maximum length in bytes; ids are part of an index entry. Some servers use complete URIs as ids.
    pub const MAX_BYTES: usize = 512;

    /// Creates an id, removing NUL characters.
    ///
    /// # Errors
    /// [`FieldError::Empty`] or [`FieldError::TooLong`].
    pub fn new(text: impl Into<String>) -> Result<Self, FieldError> {
        bounded(without_nul(text.into()), Self::MAX_BYTES).map(Self)
    }
}

string!(Id);

/// A hashtag without `#`, in lower case: 1 to [`Hashtag::MAX_BYTES`] bytes, without NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hashtag(String);

impl Hashtag {
    /// The maximum length in bytes; hashtags are index entries. A longer one is not extracted from the text.
    pub const MAX_BYTES: usize = 512;

    /// Creates a hashtag from a word in any case, with or without `#`, removing NUL characters.
    ///
    /// # Errors
    /// [`FieldError::Empty`] or [`FieldError::TooLong`].
    pub fn new(text: impl AsRef<str>) -> Result<Self, FieldError> {
        let word = text.as_ref().trim().trim_start_matches(['#', '＃']);
        bounded(without_nul(word.to_lowercase()), Self::MAX_BYTES).map(Self)
    }
}

string!(Hashtag);

/// The text of a post: not only whitespace, and without NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(String);

impl Text {
    /// Creates a text, removing NUL characters. The settings bound its length: see [`super::Limits`].
    ///
    /// # Errors
    /// [`FieldError::Empty`].
    pub fn new(text: impl Into<String>) -> Result<Self, FieldError> {
        let text = without_nul(text.into());
        if text.trim().is_empty() {
            return Err(FieldError::Empty);
        }
        Ok(Self(text))
    }
}

string!(Text);

/// When a post was published: UTC, truncated to microseconds (Postgres's resolution), within the years 1970 to 2200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventTime(OffsetDateTime);

impl EventTime {
    /// Converts a time to UTC and truncates it to microseconds.
    ///
    /// # Errors
    /// [`FieldError::Year`].
    pub fn new(time: OffsetDateTime) -> Result<Self, FieldError> {
        let time = time.checked_to_offset(UtcOffset::UTC).ok_or(FieldError::Year)?;
        let time = time
            .replace_nanosecond(time.nanosecond() / 1_000 * 1_000)
            .map_err(|_| FieldError::Year)?;
        if !(1970..=2200).contains(&time.year()) {
            return Err(FieldError::Year);
        }
        Ok(Self(time))
    }

    /// The time.
    #[must_use]
    pub const fn get(self) -> OffsetDateTime {
        self.0
    }
}

impl TryFrom<OffsetDateTime> for EventTime {
    type Error = FieldError;

    fn try_from(time: OffsetDateTime) -> Result<Self, FieldError> {
        Self::new(time)
    }
}

impl PartialEq<OffsetDateTime> for EventTime {
    fn eq(&self, other: &OffsetDateTime) -> bool {
        self.0 == *other
    }
}

/// Formats as RFC 3339.
impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

fn bounded(text: String, max: usize) -> Result<String, FieldError> {
    match text.len() {
        0 => Err(FieldError::Empty),
        bytes if bytes > max => Err(FieldError::TooLong { bytes, max }),
        _ => Ok(text),
    }
}

/// Removes NUL, which Postgres does not accept.
fn without_nul(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn lengths_are_bytes_without_nul() {
        let max = Id::MAX_BYTES;
        assert_eq!(Id::new("é".repeat(max / 2)).unwrap().len(), max);
        let bytes = max + 2;
        assert_eq!(Id::new("é".repeat(bytes / 2)), Err(FieldError::TooLong { bytes, max }));
        assert_eq!(Id::new("\0"), Err(FieldError::Empty));
        assert_eq!(Id::new("a\0b").unwrap(), "ab");
        assert_eq!(Hashtag::new("＃#Ärger\0").unwrap(), "ärger");
        assert_eq!(Hashtag::new(" # "), Err(FieldError::Empty));
        assert_eq!(Text::new(" \0\n"), Err(FieldError::Empty));
    }

    #[test]
    fn times_are_cut_to_microseconds_of_utc() {
        let time = EventTime::new(datetime!(2019-07-03 00:30:59.999_999_999 +02:00)).unwrap();
        assert_eq!(time, datetime!(2019-07-02 22:30:59.999_999 UTC));
        assert_eq!(
            EventTime::new(datetime!(1970-01-01 00:30 +01:00)),
            Err(FieldError::Year)
        );
    }

    proptest! {
        /// Lower case can be longer than upper case: `İ` is two bytes, `i̇` three.
        #[test]
        fn constructed_values_are_within_the_limits(text in "[\\PC\0]{0,300}") {
            if let Ok(id) = Id::new(text.clone()) {
                prop_assert!((1..=Id::MAX_BYTES).contains(&id.len()) && !id.contains('\0'));
            }
            if let Ok(tag) = Hashtag::new(&text) {
                prop_assert!((1..=Hashtag::MAX_BYTES).contains(&tag.len()) && !tag.contains('\0'));
            }
            if let Ok(text) = Text::new(text) {
                prop_assert!(!text.trim().is_empty() && !text.contains('\0'));
            }
        }
    }
}
