//! The figures of an evaluation.

use std::{collections::BTreeMap, fmt::Write as _};

use moodstream::model::{Precision, Provider};
use serde::Serialize;

use super::Speed;
use crate::{
    data::Example,
    metrics::{self, Report, Spread},
};

/// The evaluation of a model on a data set.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// The model's id: its name and a hash of everything that affects its predictions.
    pub model: String,
    /// The precision of the ONNX file.
    pub precision: Precision,
    /// Where it ran.
    pub provider: Provider,
    /// The cleaning profile of the texts.
    pub profile: String,
    /// The names of the files.
    pub data: Vec<String>,
    /// The figures over all posts: single-label if data and model have one label a post, else multi-label.
    pub report: Report,
    /// If some posts have several labels: the figures over those that have one.
    pub one_label: Option<Report>,
    /// The figures by language, if the data has languages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<LanguageReport>,
    /// The share of posts whose emotion is among their labels.
    pub hit_rate: f64,
    /// The expected calibration error of the emotion's score.
    pub calibration_error: f64,
    /// The bootstrap's 95 % interval of the macro-F1.
    pub macro_f1_interval: Option<Spread>,
    /// The speed.
    pub speed: Speed,
    /// The second model.
    pub against: Option<Comparison>,
}

/// The figures of the posts in one language.
#[derive(Debug, Clone, Serialize)]
pub struct LanguageReport {
    /// The language, as in the data.
    pub language: String,
    /// Number of posts.
    pub posts: u64,
    /// Mean F1 over the emotions that occur, as multi-label figures; neutral is not an emotion.
    pub macro_f1: f64,
    /// F1 of each label that occurs.
    pub f1: BTreeMap<String, f64>,
}

/// The label of posts without an emotion.
const NEUTRAL: &str = "neutral";

/// The figures by language in alphabetical order; `truth` and `given` have a flag for each label of each example.
pub(super) fn by_language(
    labels: &[String],
    examples: &[Example],
    truth: &[Vec<bool>],
    given: &[Vec<bool>],
) -> Vec<LanguageReport> {
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, example) in examples.iter().enumerate() {
        if let Some(language) = &example.language {
            members.entry(language).or_default().push(at);
        }
    }
    let report = |(language, members): (&str, Vec<usize>)| {
        let of = |flags: &[Vec<bool>]| -> Vec<Vec<bool>> { members.iter().map(|&at| flags[at].clone()).collect() };
        let report = metrics::multi_label(labels, &of(truth), &of(given));
        let occurring = report.classes.iter().filter(|class| class.support > 0);
        let f1: BTreeMap<String, f64> = occurring.map(|class| (class.label.clone(), class.f1)).collect();
        let emotions = f1.iter().filter(|(label, _)| *label != NEUTRAL);
        let (sum, count) = emotions.fold((0.0, 0), |(sum, count), (_, f1)| (sum + f1, count + 1));
        LanguageReport {
            language: language.to_owned(),
            posts: report.posts,
            macro_f1: sum / f64::from(count.max(1)),
            f1,
        }
    };
    members.into_iter().map(report).collect()
}

/// A second model on the same texts.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The share of posts with the same predicted emotion.
    pub agreement: f64,
    /// The number of posts with another.
    pub different: usize,
    /// The evaluation of the second model.
    pub evaluation: Box<Evaluation>,
}

impl Comparison {
    pub(super) fn new(evaluation: Evaluation, one: &[usize], other: &[usize]) -> Self {
        Self {
            agreement: metrics::agreement(one, other),
            different: one.iter().zip(other).filter(|(one, other)| one != other).count(),
            evaluation: Box::new(evaluation),
        }
    }
}

impl Evaluation {
    /// The evaluation as a table for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "{} ({}, {})\n\n{}",
            self.model,
            self.precision,
            self.provider,
            self.report.table()
        );
        if let Some(spread) = &self.macro_f1_interval {
            let _ = writeln!(
                out,
                "macro F1 between {:.4} and {:.4} (95 %, bootstrap)",
                spread.low, spread.high
            );
        }
        if let Some(one) = &self.one_label {
            let _ = writeln!(out, "\nposts with one label:\n{}", one.table());
        }
        let confusion = self.one_label.as_ref().unwrap_or(&self.report).confusion_table();
        if !confusion.is_empty() {
            let _ = write!(out, "\nrows: true label, columns: predicted label\n{confusion}");
        }
        let Speed {
            posts_per_second,
            tokens_per_second,
            padding_share,
            ..
        } = self.speed;
        let _ = writeln!(
            out,
            "\nhit rate {:.4}, calibration error {:.4}; {posts_per_second:.0} posts/s, {tokens_per_second:.0} tokens/s, {:.1} % padding",
            self.hit_rate,
            self.calibration_error,
            100.0 * padding_share
        );
        if !self.languages.is_empty() {
            out.push_str("\nlanguage   posts  macro F1 over its emotions\n");
        }
        for language in &self.languages {
            let _ = write!(
                out,
                "{:9} {:6}  {:.4} ",
                language.language, language.posts, language.macro_f1
            );
            for (label, f1) in &language.f1 {
                let _ = write!(out, " {label} {f1:.3}");
            }
            out.push('\n');
        }
        if let Some(Comparison {
            agreement,
            different,
            evaluation,
        }) = &self.against
        {
            let _ = writeln!(
                out,
                "against {} ({}): the same emotion for {:.2} % ({different} differ); macro F1 {:.4} there, {:+.4} here; {:.2} times its rate",
                evaluation.model,
                evaluation.precision,
                100.0 * agreement,
                evaluation.report.macro_f1,
                self.report.macro_f1 - evaluation.report.macro_f1,
                posts_per_second / evaluation.speed.posts_per_second
            );
        }
        out
    }
}
