//! A dead letter: a record that can't be processed, unchanged, with reason and origin in headers.

use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use xxhash_rust::xxh3::xxh3_64;

use crate::kafka::consumer::Origin;

/// The names of a dead letter's headers.
pub mod header {
    /// The reason, one of a bounded set.
    pub const REASON: &str = "reason";
    /// One line: what was wrong and where.
    pub const DETAIL: &str = "detail";
    /// The topic that the record came from.
    pub const ORIGIN_TOPIC: &str = "origin_topic";
    /// The partition that the record came from.
    pub const ORIGIN_PARTITION: &str = "origin_partition";
    /// The record's offset there.
    pub const ORIGIN_OFFSET: &str = "origin_offset";
    /// The record's own timestamp, RFC 3339; absent if it had none.
    pub const ORIGIN_TIMESTAMP: &str = "origin_timestamp";
    /// When the dead letter was written, RFC 3339.
    pub const TIMESTAMP: &str = "timestamp";
    /// The version of the service that wrote it.
    pub const VERSION: &str = "version";
    /// `true` if the broker accepted only the first bytes of the value.
    pub const TRUNCATED: &str = "truncated";
    /// The length of the record's value in bytes, if it is truncated.
    pub const ORIGINAL_LENGTH: &str = "original_length";
    /// The XXH3 hash (64 bits, hexadecimal) of the record's whole value, if it is truncated.
    pub const ORIGINAL_XXH3: &str = "original_xxh3";
    /// `true` if the broker accepted the dead letter only without the record's key.
    pub const KEY_OMITTED: &str = "key_omitted";
    /// The length of the record's key in bytes, if it is omitted.
    pub const ORIGINAL_KEY_LENGTH: &str = "original_key_length";
    /// The XXH3 hash (64 bits, hexadecimal) of the record's key, if it is omitted.
    pub const ORIGINAL_KEY_XXH3: &str = "original_key_xxh3";
    /// `true` if the broker accepted the dead letter only without the record's own headers.
    pub const HEADERS_OMITTED: &str = "headers_omitted";
}

/// A record that can't be processed.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Where the record was read.
    pub origin: Origin,
    /// The record's timestamp.
    pub timestamp: Option<OffsetDateTime>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's value; `None` for a tombstone.
    pub value: Option<Bytes>,
    /// The record's own headers. In the dead letter, those of [`header`] follow them.
    pub headers: Option<OwnedHeaders>,
    /// The reason, one of a bounded set.
    pub reason: &'static str,
    /// One line: what was wrong and where.
    pub detail: String,
}

/// The bytes to which the value of a dead letter that is too large for the broker is truncated.
const TRUNCATED_BYTES: usize = 64 << 10;

impl DeadLetter {
    pub(super) fn value_bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// The part of a dead letter that is sent: the first bytes of its value, with or without the record's key and its own
/// headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) bytes: usize,
    pub(super) key: bool,
    pub(super) headers: bool,
}

impl Cut {
    pub(super) fn whole(letter: &DeadLetter) -> Self {
        Self {
            bytes: letter.value_bytes(),
            key: letter.key.is_some(),
            headers: letter.headers.is_some(),
        }
    }

    /// The parts to try, one after the other. First the value is truncated, then emptied; if that is not enough, the
    /// headers are omitted, then the key, then both.
    pub(super) fn all(letter: &DeadLetter) -> Vec<Self> {
        let whole = Self::whole(letter);
        let truncated = whole.bytes.min(TRUNCATED_BYTES);
        let mut cuts = vec![whole];
        for (key, headers) in [(true, true), (true, false), (false, true), (false, false)] {
            cuts.extend([truncated, 0].map(|bytes| Self {
                bytes,
                key: key && whole.key,
                headers: headers && whole.headers,
            }));
        }
        // Some are equal for a record without a key or headers, or with a short value.
        let mut distinct: Vec<Self> = Vec::with_capacity(cuts.len());
        for cut in cuts {
            if !distinct.contains(&cut) {
                distinct.push(cut);
            }
        }
        distinct
    }

    /// The headers of the dead letter: the record's own, unless omitted, and those of [`header`].
    pub(super) fn headers(self, letter: &DeadLetter) -> OwnedHeaders {
        let DeadLetter {
            origin,
            timestamp,
            key,
            value,
            headers: own,
            reason,
            detail,
        } = letter;
        let rfc3339 = |time: OffsetDateTime| time.format(&Rfc3339).ok();
        let mut headers = vec![
            (header::REASON, Some((*reason).to_owned())),
            (header::DETAIL, Some(detail.clone())),
            (header::ORIGIN_TOPIC, Some(origin.topic.to_string())),
            (header::ORIGIN_PARTITION, Some(origin.partition.to_string())),
            (header::ORIGIN_OFFSET, Some(origin.offset.to_string())),
            (header::ORIGIN_TIMESTAMP, timestamp.and_then(rfc3339)),
            (header::TIMESTAMP, rfc3339(OffsetDateTime::now_utc())),
            (header::VERSION, Some(env!("CARGO_PKG_VERSION").to_owned())),
        ];
        let xxh3 = |bytes: &Bytes| format!("{:016x}", xxh3_64(bytes));
        if let Some(value) = value.as_ref().filter(|value| self.bytes < value.len()) {
            headers.push((header::TRUNCATED, Some("true".to_owned())));
            headers.push((header::ORIGINAL_LENGTH, Some(value.len().to_string())));
            headers.push((header::ORIGINAL_XXH3, Some(xxh3(value))));
        }
        if let Some(key) = key.as_ref().filter(|_| !self.key) {
            headers.push((header::KEY_OMITTED, Some("true".to_owned())));
            headers.push((header::ORIGINAL_KEY_LENGTH, Some(key.len().to_string())));
            headers.push((header::ORIGINAL_KEY_XXH3, Some(xxh3(key))));
        }
        if own.is_some() && !self.headers {
            headers.push((header::HEADERS_OMITTED, Some("true".to_owned())));
        }
        let own = own.as_ref().filter(|_| self.headers);
        headers
            .iter()
            .filter_map(|(key, value)| Some((*key, value.as_ref()?)))
            .fold(own.cloned().unwrap_or_default(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    pub(in crate::kafka::dead_letters) fn letter(bytes: usize) -> DeadLetter {
        DeadLetter {
            origin: Origin {
                topic: Arc::from("posts"),
                partition: 0,
                offset: 0,
            },
            timestamp: None,
            key: None,
            value: Some(Bytes::from(vec![0; bytes])),
            headers: None,
            reason: "not_json",
            detail: String::new(),
        }
    }

    #[test]
    fn dead_letters_are_cut_to_smaller_and_smaller_distinct_parts() {
        let cuts = |letter: &DeadLetter| -> Vec<(usize, bool)> {
            Cut::all(letter).into_iter().map(|cut| (cut.bytes, cut.key)).collect()
        };
        let (long, key) = (2 * TRUNCATED_BYTES, Some(Bytes::from_static(b"k")));
        assert_eq!(
            cuts(&letter(long)),
            [(long, false), (TRUNCATED_BYTES, false), (0, false)]
        );
        assert_eq!(cuts(&letter(0)), [(0, false)]);
        assert_eq!(
            cuts(&DeadLetter {
                key: key.clone(),
                ..letter(long)
            }),
            [
                (long, true),
                (TRUNCATED_BYTES, true),
                (0, true),
                (TRUNCATED_BYTES, false),
                (0, false)
            ]
        );
        assert_eq!(
            cuts(&DeadLetter { key, ..letter(9) }),
            [(9, true), (0, true), (9, false), (0, false)]
        );
        let headers = OwnedHeaders::new().insert(Header {
            key: "trace",
            value: Some("1"),
        });
        let cuts = Cut::all(&DeadLetter {
            key: Some(Bytes::from_static(b"k")),
            headers: Some(headers),
            ..letter(9)
        });
        // If only the headers are too large, value and key are kept.
        let kept: Vec<(usize, bool, bool)> = cuts.iter().map(|cut| (cut.bytes, cut.key, cut.headers)).collect();
        assert_eq!(kept[..3], [(9, true, true), (0, true, true), (9, true, false)]);
        assert_eq!(kept.last(), Some(&(0, false, false)));
    }
}
