//! A set of words as the fingerprints of their hashes, in a layout that is searched where it is embedded in the program.
//!
//! The highest 13 bits of a word's 64-bit XXH3 hash select a bucket, and the lowest 32 are its fingerprint. The bytes are, in
//! little endian: the start of each bucket, counted in fingerprints, and the end of the last one; then the fingerprints. With
//! WordNet's 55,000 nouns a bucket has 7, so the probability of a false positive is 2 in 10⁹.

use xxhash_rust::xxh3::xxh3_64;

const BUCKET_BITS: u32 = 13;
const BUCKETS: usize = 1 << BUCKET_BITS;

/// The bucket and the fingerprint of a word.
fn place(word: &str) -> (usize, u32) {
    let hash = xxh3_64(word.as_bytes());
    ((hash >> (u64::BITS - BUCKET_BITS)) as usize, hash as u32)
}

/// Returns the table of these words.
#[allow(dead_code, reason = "build.rs writes tables, the program reads them")]
pub(super) fn bytes<'a>(words: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut places: Vec<(usize, u32)> = words.map(place).collect();
    places.sort_unstable();
    places.dedup();
    let starts = (0..=BUCKETS).map(|bucket| places.partition_point(|&(of, _)| of < bucket) as u32);
    let fingerprints = places.iter().map(|&(_, fingerprint)| fingerprint);
    starts.chain(fingerprints).flat_map(u32::to_le_bytes).collect()
}

/// A table returned by [`bytes()`].
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "build.rs writes tables, the program reads them")]
pub(super) struct Words(pub(super) &'static [u8]);

#[allow(dead_code, reason = "build.rs writes tables, the program reads them")]
impl Words {
    /// Whether the word is in the set.
    pub(super) fn contains(self, word: &str) -> bool {
        let (bucket, fingerprint) = place(word);
        let at = |number: usize| self.0.get(4 * number..4 * number + 4);
        let start = |bucket: usize| {
            let bytes = at(bucket).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes) as usize
        };
        let fingerprints = self
            .0
            .get(4 * (BUCKETS + 1 + start(bucket))..4 * (BUCKETS + 1 + start(bucket + 1)));
        let (fingerprints, _) = fingerprints.unwrap_or_default().as_chunks();
        fingerprints.contains(&fingerprint.to_le_bytes())
    }
}
