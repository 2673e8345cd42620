//! Fits thresholds or a temperature on a validation split and writes them to the model's manifest.
//!
//! A multi-label model gets for each label the threshold with the best F1 over the posts for which the label is known, and 1
//! for the fallback label. A single-label model gets the temperature that calibrates its scores, which changes no label.

pub(crate) mod fit;

use std::{path::PathBuf, sync::Arc};

use anyhow::bail;
use moodstream::model::{ModelFolder, ProblemType};

use crate::{
    data::{Example, LabelMap},
    evaluate::{self, Evaluation, ModelArgs, Served},
    files,
    manifest::Manifest,
};

/// The command line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The model and the validation data
    #[command(flatten)]
    pub model: ModelArgs,
    /// File for the figures before and after the fit
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs the step: fits, writes `moodstream.toml`, and prints the figures before and after on the same data.
///
/// # Errors
///
/// When the model can't be run, the data has labels that the model lacks, or the manifest can't be written.
pub fn run(args: Args) -> anyhow::Result<()> {
    args.model.check_output(args.json.as_ref())?;
    let examples = args.model.examples()?;
    let (options, runtime) = (args.model.options(), args.model.classify_options());
    let map = LabelMap::identity();
    let (before, _) = evaluate::evaluate(&args.model.model, &options, &runtime, &examples, &map)?;

    let folder = ModelFolder::open(&args.model.model, &options)?;
    let served = evaluate::serve(&folder, &runtime, &examples)?;
    let manifest = Manifest::read(&args.model.model)?;
    let manifest = match folder.info().problem_type {
        ProblemType::SingleLabelClassification => with_temperature(manifest, &folder, &served, &examples)?,
        ProblemType::MultiLabelClassification => with_thresholds(manifest, &folder, &served, &examples),
    };
    manifest.write()?;
    let path = manifest.path();

    let (after, _) = evaluate::evaluate(&args.model.model, &options, &runtime, &examples, &map)?;
    print!("{}", summary(&before, &after));
    println!("written to {}", path.display());
    if let Some(path) = &args.json {
        let figures = serde_json::json!({ "before": before, "after": after });
        files::write(path, &serde_json::to_vec_pretty(&figures)?)?;
    }
    Ok(())
}

fn summary(before: &Evaluation, after: &Evaluation) -> String {
    let mut out = format!("{:18}  before   after\n", "");
    for (name, before, after) in [
        ("macro F1", before.report.macro_f1, after.report.macro_f1),
        ("micro F1", before.report.micro_f1, after.report.micro_f1),
        ("calibration error", before.calibration_error, after.calibration_error),
    ] {
        out.push_str(&format!("{name:18}  {before:.4}  {after:.4}\n"));
    }
    out
}

/// The manifest with the fitted temperature.
fn with_temperature(
    manifest: Manifest,
    folder: &ModelFolder,
    served: &Served,
    examples: &[Example],
) -> anyhow::Result<Manifest> {
    let labels = &folder.info().labels;
    let mut scores = Vec::new();
    let mut truth = Vec::new();
    for (example, post) in examples.iter().zip(&served.scores) {
        // Posts with several labels are left out: softmax predicts one label.
        if let [label] = &example.labels[..]
            && let Some(at) = labels.iter().position(|known| **known == **label)
        {
            scores.push(post.clone());
            truth.push(at);
        }
    }
    if truth.is_empty() {
        bail!("no post has exactly one label: a temperature can't be fitted");
    }
    let before = manifest.temperature()?.unwrap_or(1.0);
    Ok(manifest.with_temperature(fit::temperature(before, &scores, &truth)))
}

/// The manifest with the fitted threshold of each label.
fn with_thresholds(manifest: Manifest, folder: &ModelFolder, served: &Served, examples: &[Example]) -> Manifest {
    let threshold = |(at, label): (usize, &Arc<str>)| {
        if folder.postprocessor().fallback() == Some(at) {
            // It is given when no other label is, whatever its own score.
            return 1.0;
        }
        let posts = examples.iter().zip(&served.scores);
        let known = posts.filter(|(example, _)| !example.unknown.iter().any(|other| **other == **label));
        let (scores, has_label): (Vec<f64>, Vec<bool>) = known
            .map(|(example, scores)| (scores[at], example.labels.iter().any(|given| **given == **label)))
            .unzip();
        fit::best_threshold(&scores, &has_label)
    };
    let labels = &folder.info().labels;
    manifest.with_thresholds(
        labels
            .iter()
            .enumerate()
            .map(|(at, label)| (&**label, threshold((at, label)))),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::testing::Real;

    /// Fits a real model, which is not in the repository.
    #[test]
    fn calibrating_a_real_model_changes_no_label() {
        let Some(real) = Real::find() else { return };
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json", "onnx"] {
            symlink(real.model.canonicalize().unwrap().join(file), folder.path().join(file)).unwrap();
        }
        let figures = real.figures(run, folder.path(), &[]);
        let figure = |when: &str, name: &str| figures[when][name].as_f64().unwrap();
        assert!(
            figure("after", "calibration_error") <= figure("before", "calibration_error"),
            "{figures}"
        );
        assert_eq!(
            figures["after"]["report"]["confusion"],
            figures["before"]["report"]["confusion"]
        );
        assert!(
            fs::read_to_string(folder.path().join("moodstream.toml"))
                .unwrap()
                .contains("temperature = ")
        );
    }
}
