//! Finds exact and near duplicates.
//!
//! Exact duplicates have equal [`key`]s: the text without case, punctuation, handles and links. Near duplicates have keys
//! whose sets of character 5-grams have a Jaccard similarity of at least the threshold. Candidates come from MinHash
//! signatures in an LSH index (16 bands of 4 hashes: a pair with similarity 0.8 is missed once in 5,000 times, one with 0.3
//! is a candidate one time in eight), and each is verified with the sets.

use std::collections::HashMap;

use moodstream::clean::Profile;

/// Characters of a shingle.
const SHINGLE: usize = 5;
/// Bands of the LSH index.
const BANDS: usize = 16;
/// Hashes in a band.
const ROWS: usize = 4;
/// The number of members of a bucket that a new one is compared with. This bounds the cost of large buckets; a few members
/// are enough, since duplicates in a bucket are joined already.
const MAX_COMPARED: usize = 64;

/// What exact duplicates have in common: the cleaned, lower-case words without punctuation, handles and links. Empty for a
/// text without words.
#[must_use]
pub fn key(text: &str) -> String {
    let clean = Profile::TwitterRoberta.clean(text).to_lowercase();
    let mut key = String::with_capacity(clean.len());
    for word in clean.split_whitespace() {
        if matches!(
            word.trim_matches(|c: char| c.is_ascii_punctuation() && c != '@'),
            "@user" | "http"
        ) {
            continue;
        }
        let start = key.len();
        if start > 0 {
            key.push(' ');
        }
        let word_start = key.len();
        key.extend(
            word.chars()
                .filter(|&c| c.is_alphanumeric() || (!c.is_ascii() && !is_quote(c))),
        );
        if key.len() == word_start {
            key.truncate(start);
        }
    }
    key
}

fn is_quote(c: char) -> bool {
    matches!(c, '\u{2010}'..='\u{2027}' | '«' | '»' | '¡' | '¿' | '´')
}

/// The group of each key, as the position of its first member. Each empty key is its own group.
#[must_use]
pub(crate) fn groups<K: AsRef<str>>(keys: &[K], threshold: f64) -> Vec<usize> {
    let mut groups = Groups {
        parent: (0..keys.len()).collect(),
    };
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut distinct = Vec::new();
    for (at, key) in keys.iter().map(AsRef::as_ref).enumerate() {
        if key.is_empty() {
            continue;
        }
        match seen.get(key) {
            Some(&first) => groups.join(first, at),
            None => {
                seen.insert(key, at);
                distinct.push((at, shingles(key)));
            }
        }
    }
    if threshold < 1.0 {
        join_near(&mut groups, &distinct, threshold);
    }
    (0..keys.len()).map(|at| groups.find(at)).collect()
}

fn join_near(groups: &mut Groups, distinct: &[(usize, Vec<u32>)], threshold: f64) {
    let mut index: HashMap<(usize, u64), Vec<usize>> = HashMap::new();
    for (this, (at, set)) in distinct.iter().enumerate() {
        if set.is_empty() {
            continue;
        }
        let signature = signature(set);
        for (band, hashes) in signature.chunks_exact(ROWS).enumerate() {
            let bucket = index
                .entry((band, hashes.iter().fold(0, |sum, &hash| mix(sum ^ u64::from(hash)))))
                .or_default();
            for &other in bucket.iter().rev().take(MAX_COMPARED) {
                let (other_at, other_set) = &distinct[other];
                if groups.find(*at) != groups.find(*other_at) && jaccard(set, other_set) >= threshold {
                    groups.join(*at, *other_at);
                }
            }
            bucket.push(this);
        }
    }
}

/// Union-find whose representative is the lowest position.
struct Groups {
    parent: Vec<usize>,
}

impl Groups {
    fn find(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        self.parent[one.max(other)] = one.min(other);
    }
}

/// The hashed character 5-grams of a key, sorted, without repeats. There are none for a key of fewer than five characters,
/// which is too short to compare.
fn shingles(key: &str) -> Vec<u32> {
    let chars: Vec<char> = key.chars().collect();
    let mut set: Vec<u32> = chars
        .windows(SHINGLE)
        .map(|window| (window.iter().fold(0, |sum, &c| mix(sum ^ u64::from(c))) >> 32) as u32)
        .collect();
    set.sort_unstable();
    set.dedup();
    set
}

fn signature(set: &[u32]) -> [u32; BANDS * ROWS] {
    let mut signature = [u32::MAX; BANDS * ROWS];
    for &shingle in set {
        for (seed, lowest) in (1_u64..).zip(&mut signature) {
            let hash = (mix(u64::from(shingle) ^ (seed << 32)) >> 32) as u32;
            *lowest = hash.min(*lowest);
        }
    }
    signature
}

/// The finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

fn jaccard(one: &[u32], other: &[u32]) -> f64 {
    let (mut left, mut right, mut common) = (0, 0, 0_usize);
    while left < one.len() && right < other.len() {
        match one[left].cmp(&other[right]) {
            std::cmp::Ordering::Less => left += 1,
            std::cmp::Ordering::Greater => right += 1,
            std::cmp::Ordering::Equal => {
                left += 1;
                right += 1;
                common += 1;
            }
        }
    }
    let all = one.len() + other.len() - common;
    if all == 0 { 0.0 } else { common as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_leave_out_case_punctuation_handles_and_links() {
        assert_eq!(key("RT @ann: So HAPPY!!! https://t.co/x 😂 @bob"), "so happy 😂");
        assert_eq!(key("so happy 😂"), "so happy 😂");
        assert_eq!(key("“don’t”"), key("dont"));
        assert_eq!(key("@ann ... http"), "");
    }

    #[test]
    fn near_duplicates_are_joined_and_others_are_not() {
        let keys = [
            "i really can not believe that this is happening to me today",
            "completely different words about the weather in paris",
            "i really can not believe that this is happening to me toda",
            "short",
            "i really can not believe that this is happening to me today",
            "",
            "",
            "shirt",
        ];
        assert_eq!(groups(&keys, 0.8), [0, 1, 0, 3, 0, 5, 6, 7]);
        assert_eq!(groups(&keys, 1.0), [0, 1, 2, 3, 0, 5, 6, 7]);
    }

    #[test]
    fn the_index_finds_almost_all_pairs() {
        let words = [
            "so", "happy", "today", "sad", "rain", "never", "again", "love", "this", "song", "work", "late",
        ];
        let mut state = 7;
        let mut next = |bound: u64| {
            state = mix(state);
            (state % bound) as usize
        };
        let mut texts: Vec<String> = (0..300)
            .map(|_| (0..14).map(|_| words[next(12)]).collect::<Vec<_>>().join(" "))
            .collect();
        for at in 0..300 {
            let mut copy = texts[at].clone();
            copy.insert(next(copy.len() as u64), 'x');
            texts.push(copy);
        }
        let found = groups(&texts, 0.8);
        let sets: Vec<Vec<u32>> = texts.iter().map(|text| shingles(text)).collect();
        let mut missed = 0;
        for one in 0..texts.len() {
            for other in 0..one {
                missed += usize::from(jaccard(&sets[one], &sets[other]) >= 0.8 && found[one] != found[other]);
            }
        }
        assert!(missed <= 1, "{missed} pairs missed");
        assert!((300..600).all(|at| found[at] != at || jaccard(&sets[at], &sets[at - 300]) < 0.8 || missed > 0));
    }

    proptest! {
        #[test]
        fn groups_are_named_by_their_first_member(keys in prop::collection::vec("[ab ]{0,8}", 0..40)) {
            let found = groups(&keys, 0.8);
            for (at, &first) in found.iter().enumerate() {
                prop_assert!(first <= at && found[first] == first);
                let same = keys.iter().position(|key| *key == keys[at] && !key.is_empty());
                prop_assert!(same.is_none_or(|same| found[same] == first));
            }
        }
    }
}
