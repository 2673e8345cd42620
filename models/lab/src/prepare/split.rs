//! Splitting, weighting, over-sampling and shuffling. Results depend on the seed alone, not on the machine.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// The random numbers for one purpose: each purpose has its own sequence.
pub(crate) fn random(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(purpose);
    random
}

/// Positions by class. A post with several labels belongs to the class of the rarest one, so that rare labels are
/// stratified as well.
pub(super) fn strata(labels: &[&[String]]) -> BTreeMap<String, Vec<usize>> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for label in labels.iter().copied().flatten() {
        *counts.entry(label).or_default() += 1;
    }
    let mut strata: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, labels) in labels.iter().enumerate() {
        let rarest = labels
            .iter()
            .min_by_key(|label| (counts.get(label.as_str()), label.as_str()));
        strata.entry(rarest.cloned().unwrap_or_default()).or_default().push(at);
    }
    strata
}

/// A part of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Training.
    Train,
    /// Validation: choosing models, early stopping, fitting thresholds.
    Valid,
    /// Final evaluation.
    Test,
}

/// Splits posts so that each class has its share in each part, rounded to whole posts.
pub(crate) fn split(labels: &[&[String]], valid: f64, test: f64, random: &mut ChaCha8Rng) -> Vec<Part> {
    let mut parts = vec![Part::Train; labels.len()];
    for mut stratum in strata(labels).into_values() {
        stratum.shuffle(random);
        let tests = (stratum.len() as f64 * test).round() as usize;
        let valids = (stratum.len() as f64 * valid).round() as usize;
        for (rank, at) in stratum.into_iter().enumerate() {
            parts[at] = match rank {
                rank if rank < tests => Part::Test,
                rank if rank < tests + valids => Part::Valid,
                _ => Part::Train,
            };
        }
    }
    parts
}

/// The number of copies of a post with `weight`: its integer part, and one more with the probability of its fraction.
pub(super) fn copies(weight: f64, random: &mut ChaCha8Rng) -> usize {
    let whole = weight.floor();
    whole as usize + usize::from(random.random::<f64>() < weight - whole)
}

/// The positions of posts to add, drawn at random from classes with fewer than `ratio` times the posts of the largest.
pub(super) fn oversample(labels: &[&[String]], ratio: f64, random: &mut ChaCha8Rng) -> Vec<usize> {
    let strata = strata(labels);
    let largest = strata.values().map(Vec::len).max().unwrap_or(0);
    let wanted = (largest as f64 * ratio).round() as usize;
    let mut added = Vec::new();
    for stratum in strata.values() {
        added.extend((stratum.len()..wanted).map(|_| stratum[random.random_range(0..stratum.len())]));
    }
    added
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels_of(classes: &[usize]) -> Vec<Vec<String>> {
        classes.iter().map(|class| vec![format!("l{class}")]).collect()
    }

    fn slices(labels: &[Vec<String>]) -> Vec<&[String]> {
        labels.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn a_post_is_stratified_by_its_rarest_label() {
        let labels = [
            vec!["a".to_owned()],
            vec!["a".to_owned(), "b".to_owned()],
            vec!["a".to_owned()],
        ];
        assert_eq!(
            strata(&slices(&labels)).into_iter().collect::<Vec<_>>(),
            [("a".into(), vec![0, 2]), ("b".into(), vec![1])]
        );
    }

    #[test]
    fn the_mean_number_of_copies_is_the_weight() {
        let mut random = random(1, 1);
        assert_eq!(copies(2.0, &mut random), 2);
        assert_eq!(copies(0.0, &mut random), 0);
        let sum: usize = (0..10_000).map(|_| copies(1.25, &mut random)).sum();
        assert!((12_200..12_800).contains(&sum), "{sum}");
    }

    proptest! {
        #[test]
        fn each_class_has_its_share(classes in prop::collection::vec(0_usize..4, 0..200), seed in any::<u64>()) {
            let labels = labels_of(&classes);
            let parts = split(&slices(&labels), 0.2, 0.1, &mut random(seed, 0));
            prop_assert_eq!(&parts, &split(&slices(&labels), 0.2, 0.1, &mut random(seed, 0)));
            for class in 0..4 {
                let of = |part| (0..classes.len()).filter(|&at| classes[at] == class && part == parts[at]).count() as f64;
                let all = classes.iter().filter(|&&other| other == class).count() as f64;
                prop_assert!((of(Part::Valid) - all * 0.2).abs() <= 0.5 && (of(Part::Test) - all * 0.1).abs() <= 0.5);
            }
        }

        #[test]
        fn over_sampling_reaches_the_ratio_and_adds_to_minorities_only(classes in prop::collection::vec(0_usize..4, 1..100)) {
            let labels = labels_of(&classes);
            let added = oversample(&slices(&labels), 0.5, &mut random(1, 2));
            let count = |class| classes.iter().filter(|&&other| other == class).count();
            let largest = (0..4).map(count).max().unwrap_or(0);
            let wanted = (largest as f64 * 0.5).round() as usize;
            for class in (0..4).filter(|&class| count(class) > 0) {
                let more = added.iter().filter(|&&at| classes[at] == class).count();
                prop_assert_eq!(more, wanted.saturating_sub(count(class)));
            }
        }
    }
}
