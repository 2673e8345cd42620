//! Figures of classifiers, shared by training, evaluation and fitting.
//!
//! Macro averages are over the classes that occur among the true labels, so that a model can be evaluated on data that has
//! only some of its labels. A post with a wrong prediction outside these still lowers the recall of its true label.

use std::fmt::Write as _;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Bins of the calibration error: the usual 15.
const CALIBRATION_BINS: usize = 15;

/// The figures of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    /// The label.
    pub label: String,
    /// The share of posts predicted to have this label that have it; 0 if there are none.
    pub precision: f64,
    /// The share of posts with this label that are predicted to have it; 0 if there are none.
    pub recall: f64,
    /// The harmonic mean of both; 0 if both are 0.
    pub f1: f64,
    /// Posts that have this label.
    pub support: u64,
}

/// The figures of one classifier on one set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Number of posts.
    pub posts: u64,
    /// Share of posts whose label, or whole set of labels, is right.
    pub accuracy: f64,
    /// Mean F1 over the classes that occur among the true labels.
    pub macro_f1: f64,
    /// F1 over all decisions; with one label a post it equals the accuracy.
    pub micro_f1: f64,
    /// Mean F1 weighted by support.
    pub weighted_f1: f64,
    /// The figures by class, in the order of the labels.
    pub classes: Vec<ClassReport>,
    /// `confusion[truth][predicted]`, in the order of the labels; `None` with several labels a post.
    pub confusion: Option<Vec<Vec<u64>>>,
}

/// True positives, false positives and false negatives of a class.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    hit: u64,
    false_alarm: u64,
    miss: u64,
}

impl Counts {
    fn precision(self) -> f64 {
        ratio(self.hit, self.hit + self.false_alarm)
    }

    fn recall(self) -> f64 {
        ratio(self.hit, self.hit + self.miss)
    }

    fn f1(self) -> f64 {
        ratio(2 * self.hit, 2 * self.hit + self.false_alarm + self.miss)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The figures of posts with one true and one predicted label each, as positions in `labels`.
///
/// Pairs beyond the shorter slice, or with positions beyond `labels`, are left out.
#[must_use]
pub fn single_label<L: AsRef<str>>(labels: &[L], truth: &[usize], predicted: &[usize]) -> Report {
    let size = labels.len();
    let mut confusion = vec![vec![0_u64; size]; size];
    let mut posts = 0;
    for (&truth, &predicted) in truth.iter().zip(predicted) {
        if truth < size && predicted < size {
            confusion[truth][predicted] += 1;
            posts += 1;
        }
    }
    let counts: Vec<Counts> = (0..size)
        .map(|class| Counts {
            hit: confusion[class][class],
            false_alarm: (0..size)
                .filter(|&other| other != class)
                .map(|other| confusion[other][class])
                .sum(),
            miss: (0..size)
                .filter(|&other| other != class)
                .map(|other| confusion[class][other])
                .sum(),
        })
        .collect();
    let right = counts.iter().map(|counts| counts.hit).sum();
    Report {
        confusion: Some(confusion),
        ..report(labels, &counts, posts, right)
    }
}

/// The figures of posts with any number of labels: for each post, a flag for each label.
///
/// Rows beyond the shorter slice are left out; missing flags count as not set.
#[must_use]
pub fn multi_label<L: AsRef<str>, F: AsRef<[bool]>>(labels: &[L], truth: &[F], predicted: &[F]) -> Report {
    let mut counts = vec![Counts::default(); labels.len()];
    let mut right = 0;
    let mut posts = 0;
    for (truth, predicted) in truth.iter().map(AsRef::as_ref).zip(predicted.iter().map(AsRef::as_ref)) {
        let mut same = true;
        for (class, counts) in counts.iter_mut().enumerate() {
            let flags = (truth.get(class) == Some(&true), predicted.get(class) == Some(&true));
            match flags {
                (true, true) => counts.hit += 1,
                (false, true) => counts.false_alarm += 1,
                (true, false) => counts.miss += 1,
                (false, false) => {}
            }
            same &= flags.0 == flags.1;
        }
        right += u64::from(same);
        posts += 1;
    }
    report(labels, &counts, posts, right)
}

fn report<L: AsRef<str>>(labels: &[L], counts: &[Counts], posts: u64, right: u64) -> Report {
    let classes: Vec<ClassReport> = labels
        .iter()
        .zip(counts)
        .map(|(label, counts)| ClassReport {
            label: label.as_ref().to_owned(),
            precision: counts.precision(),
            recall: counts.recall(),
            f1: counts.f1(),
            support: counts.hit + counts.miss,
        })
        .collect();
    let occurring: Vec<&ClassReport> = classes.iter().filter(|class| class.support > 0).collect();
    let all = counts.iter().fold(Counts::default(), |sum, counts| Counts {
        hit: sum.hit + counts.hit,
        false_alarm: sum.false_alarm + counts.false_alarm,
        miss: sum.miss + counts.miss,
    });
    let support: u64 = occurring.iter().map(|class| class.support).sum();
    let weighted: f64 = occurring.iter().map(|class| class.f1 * class.support as f64).sum();
    Report {
        posts,
        accuracy: ratio(right, posts),
        macro_f1: mean(occurring.iter().map(|class| class.f1)),
        micro_f1: all.f1(),
        weighted_f1: if support == 0 { 0.0 } else { weighted / support as f64 },
        classes,
        confusion: None,
    }
}

/// The mean; 0 for no values.
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    if count == 0 {
        0.0
    } else {
        values.sum::<f64>() / count as f64
    }
}

impl Report {
    /// The length of the longest label in characters.
    fn label_width(&self) -> usize {
        let widths = self.classes.iter().map(|class| class.label.chars().count());
        widths.max().unwrap_or(0)
    }

    /// The report as a table for a terminal, without the confusion matrix.
    #[must_use]
    pub fn table(&self) -> String {
        let width = self.label_width().max(9);
        let mut out = format!("{:width$}  precision  recall      F1  support\n", "");
        for class in &self.classes {
            let ClassReport {
                label,
                precision,
                recall,
                f1,
                support,
            } = class;
            let _ = writeln!(
                out,
                "{label:width$}  {precision:9.4}  {recall:6.4}  {f1:6.4}  {support:7}"
            );
        }
        for (name, value) in [
            ("macro F1", self.macro_f1),
            ("micro F1", self.micro_f1),
            ("weighted", self.weighted_f1),
            ("accuracy", self.accuracy),
        ] {
            let _ = writeln!(out, "{name:width$}  {:9}  {:6}  {value:6.4}  {:7}", "", "", self.posts);
        }
        out
    }

    /// The confusion matrix as a table for a terminal, one row for each true label; empty if there is none.
    #[must_use]
    pub fn confusion_table(&self) -> String {
        let Some(confusion) = &self.confusion else {
            return String::new();
        };
        let width = self.label_width().max(7);
        let mut out = format!("{:width$}", "");
        for class in &self.classes {
            let _ = write!(out, " {:>width$}", class.label);
        }
        out.push('\n');
        for (class, row) in self.classes.iter().zip(confusion) {
            let _ = write!(out, "{:width$}", class.label);
            for count in row {
                let _ = write!(out, " {count:>width$}");
            }
            out.push('\n');
        }
        out
    }
}

/// The expected calibration error: the mean distance between confidence and accuracy over 15 bins of equal width, weighted
/// by their posts (Guo et al. 2017).
///
/// `confidence` has the score of each predicted label, in `0..=1`; `right` whether the label is right.
#[must_use]
pub fn calibration_error(confidence: &[f64], right: &[bool]) -> f64 {
    let mut bins = [(0.0, 0_u64, 0_u64); CALIBRATION_BINS];
    for (&confidence, &right) in confidence.iter().zip(right) {
        let bin = ((confidence * CALIBRATION_BINS as f64) as usize).min(CALIBRATION_BINS - 1);
        bins[bin].0 += confidence;
        bins[bin].1 += u64::from(right);
        bins[bin].2 += 1;
    }
    let posts: u64 = bins.iter().map(|bin| bin.2).sum();
    if posts == 0 {
        return 0.0;
    }
    bins.iter()
        .map(|&(sum, right, _)| (sum - right as f64).abs())
        .sum::<f64>()
        / posts as f64
}

/// The share of posts on which two classifiers agree; 1 for no posts.
#[must_use]
pub fn agreement<T: PartialEq>(one: &[T], other: &[T]) -> f64 {
    let posts = one.len().min(other.len());
    if posts == 0 {
        return 1.0;
    }
    one.iter().zip(other).filter(|(one, other)| one == other).count() as f64 / posts as f64
}

/// The spread of a figure over seeds or resampled data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the sample; 0 for one value.
    pub deviation: f64,
    /// The lowest value, or the lower bound of the interval.
    pub low: f64,
    /// The highest value, or the upper bound of the interval.
    pub high: f64,
    /// The number of values.
    pub count: usize,
}

impl Spread {
    /// Mean, deviation and range of `values`; `None` if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let low = values.iter().copied().reduce(f64::min)?;
        let high = values.iter().copied().reduce(f64::max)?;
        let count = values.len();
        let mean = mean(values.iter().copied());
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if count > 1 {
            (squares / (count - 1) as f64).sqrt()
        } else {
            0.0
        };
        Some(Self {
            mean,
            deviation,
            low,
            high,
            count,
        })
    }
}

/// The bootstrap's 95 % interval of a figure. `figure` is called with `rounds` samples of the positions `0..posts`, drawn
/// with replacement. `None` for no posts or no rounds.
#[must_use]
pub fn bootstrap(posts: usize, rounds: usize, seed: u64, figure: impl Fn(&[usize]) -> f64) -> Option<Spread> {
    if posts == 0 || rounds == 0 {
        return None;
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut sample = vec![0; posts];
    let mut values: Vec<f64> = (0..rounds)
        .map(|_| {
            sample.fill_with(|| random.random_range(0..posts));
            figure(&sample)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let at = |quantile: f64| values[((rounds - 1) as f64 * quantile).round() as usize];
    Some(Spread {
        low: at(0.025),
        high: at(0.975),
        ..Spread::of(&values)?
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const LABELS: [&str; 3] = ["anger", "joy", "sadness"];

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-12
    }

    /// The figures of scikit-learn's `classification_report` on the same lists.
    #[test]
    fn single_label_figures_are_those_of_scikit_learn() {
        let report = single_label(&LABELS, &[0, 0, 0, 1, 1, 2], &[0, 0, 1, 1, 2, 2]);
        assert!(near(report.accuracy, 4.0 / 6.0));
        assert!(near(report.micro_f1, report.accuracy));
        assert!(near(report.classes[0].precision, 1.0) && near(report.classes[0].recall, 2.0 / 3.0));
        assert!(near(report.classes[0].f1, 0.8) && near(report.classes[1].f1, 0.5));
        assert!(near(report.macro_f1, (0.8 + 0.5 + 2.0 / 3.0) / 3.0));
        assert!(near(report.weighted_f1, (0.8 * 3.0 + 0.5 * 2.0 + 2.0 / 3.0) / 6.0));
        assert_eq!(report.confusion.unwrap(), [[2, 1, 0], [0, 1, 1], [0, 0, 1]]);
    }

    #[test]
    fn labels_without_posts_are_not_averaged() {
        let report = single_label(&LABELS, &[0, 1], &[0, 2]);
        assert!(near(report.macro_f1, 0.5));
        assert_eq!(report.classes[2].support, 0);
    }

    #[test]
    fn multi_label_counts_each_decision() {
        let truth = [vec![true, true, false], vec![false, false, true]];
        let predicted = [vec![true, false, false], vec![false, false, true]];
        let report = multi_label(&LABELS, &truth, &predicted);
        assert!(near(report.accuracy, 0.5));
        assert!(near(report.micro_f1, 4.0 / 5.0));
        assert!(near(report.macro_f1, 2.0 / 3.0));
        assert!(report.confusion.is_none());
    }

    #[test]
    fn figures_of_no_posts_are_defined() {
        let report = single_label::<&str>(&[], &[], &[]);
        assert!(near(report.macro_f1, 0.0) && near(report.accuracy, 0.0));
        assert!(near(calibration_error(&[], &[]), 0.0));
        assert!(Spread::of(&[]).is_none() && bootstrap(0, 10, 1, |_| 1.0).is_none());
    }

    #[test]
    fn calibration_compares_confidence_with_accuracy() {
        assert!(near(calibration_error(&[1.0, 1.0], &[true, false]), 0.5));
        assert!(near(calibration_error(&[0.75; 4], &[true, true, true, false]), 0.0));
    }

    #[test]
    fn tables_name_every_class() {
        let report = single_label(&LABELS, &[0, 1, 2], &[0, 1, 1]);
        for label in LABELS {
            assert!(report.table().contains(label) && report.confusion_table().contains(label));
        }
    }

    #[test]
    fn the_bootstrap_depends_on_its_seed_alone_and_contains_the_figure() {
        let values: Vec<f64> = (0..200).map(f64::from).collect();
        let figure = |sample: &[usize]| mean(sample.iter().map(|&at| values[at]));
        let spread = bootstrap(200, 500, 7, figure).unwrap();
        assert_eq!(Some(spread), bootstrap(200, 500, 7, figure));
        assert!(spread.low < 99.5 && 99.5 < spread.high);
        // The standard error of this mean is 57.9 / sqrt(200).
        assert!((spread.deviation - 4.09).abs() < 0.5, "{spread:?}");
    }

    proptest! {
        #[test]
        fn single_label_figures_equal_multi_label_ones(pairs in prop::collection::vec((0_usize..3, 0_usize..3), 1..60)) {
            let (truth, predicted): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let flags = |classes: &[usize]| -> Vec<Vec<bool>> {
                classes.iter().map(|&class| (0..3).map(|label| label == class).collect()).collect()
            };
            let single = single_label(&LABELS, &truth, &predicted);
            let multi = multi_label(&LABELS, &flags(&truth), &flags(&predicted));
            prop_assert_eq!(&single.classes, &multi.classes);
            prop_assert!(near(single.macro_f1, multi.macro_f1) && near(single.accuracy, multi.accuracy));
            for figure in [single.macro_f1, single.micro_f1, single.weighted_f1, single.accuracy] {
                prop_assert!((0.0..=1.0).contains(&figure));
            }
        }
    }
}
