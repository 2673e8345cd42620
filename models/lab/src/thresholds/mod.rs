//! Fitting thresholds or a temperature on a validation split, written to the model's manifest.
//!
//! A multi-label model gets the threshold of best F1 for each label, over the posts of which it is known whether they have
//! it, and 1 for the one that stands for none of the others; a single-label one the
//! temperature under which its scores are as likely right as they say, which changes no label.

mod fit;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use moodstream::model::{ModelFolder, ProblemType, toml_mistake};
use toml_edit::{DocumentMut, Item, Table, value};

use crate::{
    data::{self, Example, LabelMap},
    evaluate::{self, Evaluation, ModelArgs, Served},
};

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The model and the validation data
    #[command(flatten)]
    pub model: ModelArgs,
    /// Where to write the figures before and after
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs the step: fits, writes `moodstream.toml`, and says what it brought on the same data.
///
/// # Errors
///
/// When the model can't be served, the data's labels are not the model's, or the manifest can't be written.
pub fn run(args: Args) -> anyhow::Result<()> {
    let examples = args.model.examples()?;
    let (options, runtime) = (args.model.options(), args.model.classify_options());
    let map = LabelMap::identity();
    let (before, _) = evaluate::judge(&args.model.model, &options, &runtime, &examples, &map)?;

    let folder = ModelFolder::open(&args.model.model, &options)?;
    let served = evaluate::serve(&folder, &runtime, &examples)?;
    let manifest = Manifest::read(&args.model.model)?;
    let manifest = match folder.info().problem_type {
        ProblemType::SingleLabelClassification => manifest.with_temperature(&folder, &served, &examples)?,
        ProblemType::MultiLabelClassification => manifest.with_thresholds(&folder, &served, &examples),
    };
    manifest.write()?;

    let (after, _) = evaluate::judge(&args.model.model, &options, &runtime, &examples, &map)?;
    print!("{}", summary(&before, &after));
    println!("written to {}", manifest.path.display());
    if let Some(path) = &args.json {
        let figures = serde_json::json!({ "before": before, "after": after });
        data::write_whole(path, &serde_json::to_vec_pretty(&figures)?)?;
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

/// The manifest as a document: what is not fitted stays as it was written, comments included.
pub(crate) struct Manifest {
    path: PathBuf,
    document: DocumentMut,
}

impl Manifest {
    /// That of a model folder; an empty one where it has none.
    pub(crate) fn read(model: &Path) -> anyhow::Result<Self> {
        let path = model.join("moodstream.toml");
        let text = match path.exists() {
            true => fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?,
            false => String::new(),
        };
        let document = text.parse().map_err(|error: toml_edit::TomlError| {
            let mistake = toml_mistake(&text, error.span(), error.message());
            anyhow::anyhow!("{}: {mistake}", path.display())
        })?;
        Ok(Self { path, document })
    }

    fn with_temperature(mut self, folder: &ModelFolder, served: &Served, examples: &[Example]) -> anyhow::Result<Self> {
        let labels = &folder.info().labels;
        let mut scores = Vec::new();
        let mut truth = Vec::new();
        for (example, post) in examples.iter().zip(&served.scores) {
            // What softmax says of a post with several labels is neither right nor wrong.
            if let [label] = &example.labels[..]
                && let Some(at) = labels.iter().position(|known| **known == **label)
            {
                scores.push(post.clone());
                truth.push(at);
            }
        }
        if truth.is_empty() {
            bail!("no post has one label: a temperature can't be fitted");
        }
        let before = match self.document.get("temperature") {
            None => 1.0,
            Some(item) => item
                .as_float()
                .or_else(|| item.as_integer().map(|whole| whole as f64))
                .with_context(|| format!("{}: `temperature` is not a number", self.path.display()))?,
        };
        let temperature = fit::temperature(before, &scores, &truth);
        self.document["temperature"] = value(round(temperature));
        Ok(self)
    }

    fn with_thresholds(mut self, folder: &ModelFolder, served: &Served, examples: &[Example]) -> Self {
        let mut table = Table::new();
        for (at, label) in folder.info().labels.iter().enumerate() {
            if folder.decoder().fallback() == Some(at) {
                // It is given where no other label is, and not for a score of its own.
                table.insert(label, value(1.0));
                continue;
            }
            let posts = examples.iter().zip(&served.scores);
            let known = posts.filter(|(example, _)| !example.unknown.iter().any(|other| **other == **label));
            let (scores, has_label): (Vec<f64>, Vec<bool>) = known
                .map(|(example, scores)| (scores[at], example.labels.iter().any(|given| **given == **label)))
                .unzip();
            table.insert(label, value(round(fit::best_threshold(&scores, &has_label))));
        }
        self.document["thresholds"] = Item::Table(table);
        self
    }

    /// With the figure of each language.
    pub(crate) fn with_languages<'l>(mut self, figures: impl Iterator<Item = (&'l str, f64)>) -> Self {
        let mut table = Table::new();
        for (language, figure) in figures {
            table.insert(language, value(round(figure)));
        }
        self.document["languages"] = Item::Table(table);
        self
    }

    /// Writes it into the folder.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        Ok(data::write_whole(&self.path, self.document.to_string().as_bytes())?)
    }
}

/// Four digits after the point are more than a validation split can tell apart.
fn round(number: f64) -> f64 {
    (number * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use super::*;
    use crate::testing::Real;

    #[test]
    fn what_is_not_fitted_stays_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moodstream.toml");
        fs::write(&path, "# by hand\nname = \"x\" # kept\n\n[groups]\ngood = [\"joy\"]\n").unwrap();
        let mut manifest = Manifest::read(folder.path()).unwrap();
        manifest.document["temperature"] = value(1.25);
        manifest.write().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "# by hand\nname = \"x\" # kept\ntemperature = 1.25\n\n[groups]\ngood = [\"joy\"]\n"
        );
        for figure in [0.5, 0.123_456] {
            let manifest = Manifest::read(folder.path()).unwrap();
            manifest
                .with_languages([("pt-BR", figure)].into_iter())
                .write()
                .unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with("\n[languages]\npt-BR = 0.1235\n") && text.contains("[groups]"),
            "{text}"
        );
        fs::write(&path, "# by hand\nname = ").unwrap();
        let error = format!("{:#}", Manifest::read(folder.path()).err().unwrap());
        assert!(error.contains("moodstream.toml: line 2: "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    /// Fits a real model; what it needs is not in the repository.
    #[test]
    fn a_real_model_is_calibrated_and_its_labels_stay() {
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
