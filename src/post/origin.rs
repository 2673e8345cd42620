//! Where a record lies in Kafka, by which every stage names it, and what tells it from another record at the same place.

use std::{fmt, sync::Arc};

use time::OffsetDateTime;
use xxhash_rust::xxh3::Xxh3;

/// Where a record lies: its identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition within the topic.
    pub partition: i32,
    /// The offset within the partition.
    pub offset: i64,
}

impl Origin {
    /// The partition that the record lies in.
    #[must_use]
    pub fn topic_partition(&self) -> (Arc<str>, i32) {
        (Arc::clone(&self.topic), self.partition)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// Tells a record from another one at the same offset, as a topic that was deleted and made anew, or that of another
/// cluster, has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// The record's timestamp, where it is one that every database can hold: none before 1970.
    pub timestamp: Option<OffsetDateTime>,
    /// A hash of its key and value.
    pub hash: u64,
}

impl Fingerprint {
    /// The fingerprint of a record.
    #[must_use]
    pub fn of(timestamp: Option<OffsetDateTime>, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let mut hasher = Xxh3::new();
        for part in [key, value] {
            // The length in front: what moves from the key to the value changes the hash, and so does an absent part.
            let length = part.map_or(u64::MAX, |bytes| bytes.len() as u64);
            hasher.update(&length.to_le_bytes());
            hasher.update(part.unwrap_or_default());
        }
        Self {
            timestamp: timestamp.filter(|timestamp| *timestamp >= OffsetDateTime::UNIX_EPOCH),
            hash: hasher.digest(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_differ_where_time_key_or_value_do() {
        let time = OffsetDateTime::UNIX_EPOCH;
        let all = [
            Fingerprint::of(None, None, None),
            Fingerprint::of(Some(time), None, None),
            Fingerprint::of(None, Some(b""), None),
            Fingerprint::of(None, None, Some(b"")),
            Fingerprint::of(None, Some(b"a"), Some(b"b")),
            Fingerprint::of(None, Some(b"ab"), Some(b"")),
            Fingerprint::of(None, Some(b""), Some(b"ab")),
        ];
        for (place, one) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == one), Some(place));
        }
    }
}
