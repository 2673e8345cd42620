//! A record's position in Kafka, and the fingerprint that distinguishes it from another record at the same position.

use std::{fmt, sync::Arc};

use time::OffsetDateTime;
use xxhash_rust::xxh3::Xxh3;

/// The position of a record, which identifies it.
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
    /// Returns the topic and the partition.
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

/// Distinguishes a record from another one at the same offset, as found in a recreated topic or in another cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// The record's timestamp, or `None` if it is before 1970, which not every database can store.
    pub timestamp: Option<OffsetDateTime>,
    /// A hash of the key and the value.
    pub hash: u64,
}

impl Fingerprint {
    /// Computes the fingerprint of a record.
    #[must_use]
    pub fn of(timestamp: Option<OffsetDateTime>, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let mut hasher = Xxh3::new();
        for part in [key, value] {
            // The length prefix distinguishes how bytes are split between key and value, and an absent part from an empty one.
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
