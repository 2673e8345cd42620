//! Evaluates a model folder with the service's classifier.
//!
//! Texts are cleaned with the model's profile and classified as in the service, so the figures include the effects of
//! tokenizer, truncation, precision and thresholds.

mod report;
mod serve;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use moodstream::{
    classify::ClassifyOptions,
    model::{ModelFolder, ModelOptions, ProblemType, toml_mistake},
};

pub(crate) use self::serve::Server;
pub use self::{
    report::{Comparison, Evaluation, LanguageReport},
    serve::{Served, Speed, serve},
};
use crate::{
    data::{self, Example, Format, LabelMap},
    files::{self, FileError},
    manifest::Manifest,
    metrics,
};

/// Rounds of the bootstrap for the interval of the macro-F1.
const BOOTSTRAP_ROUNDS: usize = 1_000;
/// A fixed seed, so that the interval is the same in every run.
const BOOTSTRAP_SEED: u64 = 1;

/// The command line arguments for a model and the data to evaluate it on.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Model folder to evaluate
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Labelled files
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Format of the files, if it can't be detected
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Which ONNX file of the folder to run: auto, fp32, fp16 or int8
    #[arg(long, value_name = "PRECISION", default_value = "auto", value_parser = named::<moodstream::model::Precision>)]
    pub precision: moodstream::model::Precision,
    /// Where to run it: cpu, cuda or tensorrt
    #[arg(long, value_name = "PROVIDER", default_value = "cpu", value_parser = named::<moodstream::model::Provider>)]
    pub provider: moodstream::model::Provider,
    /// The ONNX Runtime library [default: lib/libonnxruntime.so under $MOODSTREAM_RUNTIME or .runtime]
    #[arg(long, value_name = "FILE", env = "ORT_DYLIB_PATH")]
    pub onnxruntime: Option<PathBuf>,
    /// Texts are truncated to this many tokens
    #[arg(long, default_value_t = ModelOptions::default().max_tokens)]
    pub max_tokens: usize,
}

/// The command line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The model and the data
    #[command(flatten)]
    pub model: ModelArgs,
    /// Mapping file for the labels of the data and the model, if they differ
    #[arg(long, value_name = "FILE")]
    pub labels_map: Option<PathBuf>,
    /// A second model folder to compare on the same texts
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,
    /// Which ONNX file of the second folder to run; without --against, of the same folder
    #[arg(long, value_name = "PRECISION", value_parser = named::<moodstream::model::Precision>)]
    pub against_precision: Option<moodstream::model::Precision>,
    /// Write the languages in which the macro-F1 is at least this much (0 to 1) to the model's manifest, replacing those
    /// listed there: the service marks posts in other languages
    #[arg(long, value_name = "MACRO_F1", num_args = 0..=1, default_missing_value = "0")]
    pub note_languages: Option<f64>,
    /// File for the figures
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Parses a value by its name in the settings file.
fn named<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(name.into())
}

impl ModelArgs {
    /// Checks before the work that the file for the figures can be written and replaces neither data nor a file of the model.
    ///
    /// # Errors
    ///
    /// As [`files::check_outputs`].
    pub(crate) fn check_output(&self, json: Option<&PathBuf>) -> Result<(), FileError> {
        let inputs: Vec<PathBuf> = self.data.iter().chain([&self.model]).cloned().collect();
        files::check_outputs(json.map_or(&[], std::slice::from_ref), &inputs)
    }

    /// The options that the folder is opened with.
    #[must_use]
    pub fn options(&self) -> ModelOptions {
        ModelOptions {
            provider: self.provider,
            precision: self.precision,
            file: None,
            max_tokens: self.max_tokens,
            problem_type: None,
        }
    }

    /// The options that the classifier is started with.
    #[must_use]
    pub fn classify_options(&self) -> ClassifyOptions {
        ClassifyOptions {
            onnxruntime: self.onnxruntime.clone(),
            ..ClassifyOptions::default()
        }
    }

    /// Reads all files.
    ///
    /// # Errors
    ///
    /// When a file can't be read as labelled text; the error names file and row.
    pub fn examples(&self) -> anyhow::Result<Vec<Example>> {
        let mut examples = Vec::new();
        for file in &self.data {
            examples.append(&mut data::read(file, self.format)?);
        }
        Ok(examples)
    }
}

/// Runs the step: prints a table, and writes the figures as JSON if requested.
///
/// # Errors
///
/// When the model can't be run, or the data has labels that the model lacks.
pub fn run(args: Args) -> anyhow::Result<()> {
    let map = match &args.labels_map {
        Some(path) => LabelMap::read(path)?,
        None => LabelMap::identity(),
    };
    args.model.check_output(args.json.as_ref())?;
    let mut examples = args.model.examples()?;
    for example in &mut examples {
        map.apply(example)?;
    }
    examples.retain(|example| !example.labels.is_empty() || !example.unknown.is_empty());

    let (options, runtime) = (args.model.options(), args.model.classify_options());
    let (mut evaluation, emotions) = evaluate(&args.model.model, &options, &runtime, &examples, &map)?;
    if args.against.is_some() || args.against_precision.is_some() {
        let path = args.against.as_ref().unwrap_or(&args.model.model);
        let options = ModelOptions {
            precision: args.against_precision.unwrap_or(options.precision),
            ..options
        };
        let (other, others) = evaluate(path, &options, &runtime, &examples, &map)?;
        evaluation.against = Some(Comparison::new(other, &emotions, &others));
    }
    evaluation.data = args.model.data.iter().map(|file| file_name(file)).collect();
    print!("{}", evaluation.table());
    if let Some(path) = &args.json {
        files::write(path, &serde_json::to_vec_pretty(&evaluation)?)?;
    }
    if let Some(least) = args.note_languages {
        ensure!(
            !evaluation.languages.is_empty(),
            "--note-languages: the data has no languages"
        );
        let known = evaluation.languages.iter().filter(|one| one.macro_f1 >= least);
        let figures = known.map(|one| (one.language.as_str(), one.macro_f1));
        Manifest::read(&args.model.model)?.with_languages(figures).write()?;
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Evaluates a model folder on examples to whose labels `map` has been applied. Also returns the predicted emotion of each
/// text, as its position among the report's labels.
///
/// # Errors
///
/// When the model can't be run or fails on a text, or neither the model nor the map has a label.
pub fn evaluate(
    model: &Path,
    options: &ModelOptions,
    runtime: &ClassifyOptions,
    examples: &[Example],
    map: &LabelMap,
) -> anyhow::Result<(Evaluation, Vec<usize>)> {
    let folder = ModelFolder::open(model, options)?;
    let served = serve(&folder, runtime, examples)?;
    let info = folder.info();

    let evaluated = EvaluatedLabels::new(&info.labels, map)?;
    let truth = evaluated.truth(examples)?;
    let unknown = evaluated.unknown(examples);
    let mut decided = evaluated.decide(&served, info.problem_type, &thresholds(model, &info.labels)?);
    for (set, unknown) in decided.sets.iter_mut().zip(&unknown) {
        // Unknown labels are neither right nor wrong, so predictions of them are dropped.
        set.retain(|label| !unknown.contains(label));
    }

    let single: Option<Vec<usize>> = truth
        .iter()
        .zip(&unknown)
        .map(|(labels, unknown)| match labels[..] {
            [label] if unknown.is_empty() => Some(label),
            _ => None,
        })
        .collect();
    let one_answer = info.problem_type == ProblemType::SingleLabelClassification;
    let flags = |sets: &[Vec<usize>]| -> Vec<Vec<bool>> {
        sets.iter()
            .map(|set| (0..evaluated.labels.len()).map(|label| set.contains(&label)).collect())
            .collect()
    };
    let (truth_flags, given_flags) = (flags(&truth), flags(&decided.sets));
    let report = match &single {
        Some(truth) if one_answer => metrics::single_label(&evaluated.labels, truth, &decided.emotions),
        _ => metrics::multi_label(&evaluated.labels, &truth_flags, &given_flags),
    };
    let one_label = single.is_none().then(|| {
        let pairs = truth.iter().zip(&unknown).zip(&decided.emotions);
        let pairs = pairs.filter(|((truth, unknown), _)| truth.len() == 1 && unknown.is_empty());
        let (truth, emotions): (Vec<usize>, Vec<usize>) =
            pairs.map(|((truth, _), &emotion)| (truth[0], emotion)).unzip();
        metrics::single_label(&evaluated.labels, &truth, &emotions)
    });
    let languages = report::by_language(&evaluated.labels, examples, &truth_flags, &given_flags);
    let interval = metrics::bootstrap(truth.len(), BOOTSTRAP_ROUNDS, BOOTSTRAP_SEED, |sample| match &single {
        Some(truth) if one_answer => {
            let truth: Vec<usize> = sample.iter().map(|&at| truth[at]).collect();
            let emotions: Vec<usize> = sample.iter().map(|&at| decided.emotions[at]).collect();
            metrics::single_label(&evaluated.labels, &truth, &emotions).macro_f1
        }
        _ => {
            let truth: Vec<&[bool]> = sample.iter().map(|&at| truth_flags[at].as_slice()).collect();
            let given: Vec<&[bool]> = sample.iter().map(|&at| given_flags[at].as_slice()).collect();
            metrics::multi_label(&evaluated.labels, &truth, &given).macro_f1
        }
    });
    let right: Vec<bool> = truth
        .iter()
        .zip(&decided.emotions)
        .map(|(truth, emotion)| truth.contains(emotion))
        .collect();
    let evaluation = Evaluation {
        model: info.id.to_string(),
        precision: info.precision,
        provider: info.provider,
        profile: info.profile.to_string(),
        data: Vec::new(),
        hit_rate: right.iter().filter(|&&right| right).count() as f64 / right.len().max(1) as f64,
        calibration_error: metrics::calibration_error(&decided.confidence, &right),
        macro_f1_interval: interval,
        report,
        one_label,
        languages,
        speed: served.speed,
        against: None,
    };
    Ok((evaluation, decided.emotions))
}

/// The thresholds of a multi-label model's labels, as the service reads them from the manifest.
fn thresholds(model: &Path, labels: &[std::sync::Arc<str>]) -> anyhow::Result<Vec<f64>> {
    let path = model.join("moodstream.toml");
    let known: BTreeMap<String, f64> = match path.exists() {
        false => BTreeMap::new(),
        true => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
            let manifest: moodstream::model::Manifest = toml::from_str(&text).map_err(|error| {
                let mistake = toml_mistake(&text, error.span(), error.message());
                anyhow::anyhow!("{}: {mistake}", path.display())
            })?;
            manifest
                .thresholds
                .iter()
                .map(|(label, &threshold)| (label.to_string(), threshold))
                .collect()
        }
    };
    Ok(labels
        .iter()
        .map(|label| *known.get(&**label).unwrap_or(&moodstream::model::DEFAULT_THRESHOLD))
        .collect())
}

/// The labels of the evaluation: those of the map if there is one, else the model's.
struct EvaluatedLabels {
    labels: Vec<String>,
    /// The position of each of the model's labels among them; `None` if the map drops it.
    of_model: Vec<Option<usize>>,
}

/// The model's predictions in the labels of the evaluation.
struct Predictions {
    /// The emotion of each text.
    emotions: Vec<usize>,
    /// All predicted labels of each text.
    sets: Vec<Vec<usize>>,
    /// The score of each text's emotion. With softmax, it is the sum over all labels that are mapped to the emotion; with
    /// sigmoid, scores can't be summed.
    confidence: Vec<f64>,
}

impl EvaluatedLabels {
    fn new(model: &[std::sync::Arc<str>], map: &LabelMap) -> anyhow::Result<Self> {
        let labels: Vec<String> = match map.labels() {
            [] => model.iter().map(ToString::to_string).collect(),
            labels => labels.to_vec(),
        };
        let mut of_model = Vec::with_capacity(model.len());
        for label in model {
            let Some(to) = map.get(label) else {
                bail!("the labels map does not know the model's label `{label}`: add it to `map`, `labels` or `drop`");
            };
            of_model.push(to.and_then(|to| labels.iter().position(|label| label == to)));
        }
        if of_model.iter().all(Option::is_none) {
            bail!("the labels map drops every label of the model");
        }
        Ok(Self { labels, of_model })
    }

    fn truth(&self, examples: &[Example]) -> anyhow::Result<Vec<Vec<usize>>> {
        let mut truth = Vec::with_capacity(examples.len());
        for example in examples {
            let mut set = Vec::with_capacity(example.labels.len());
            for label in &example.labels {
                let Some(at) = self.labels.iter().position(|known| known == label) else {
                    let known = self.labels.join(", ");
                    bail!(
                        "{}: the model has no label `{label}` (it has {known}): give --labels-map",
                        example.origin
                    );
                };
                set.push(at);
            }
            truth.push(set);
        }
        Ok(truth)
    }

    /// The labels of which it is not known whether a text has them.
    fn unknown(&self, examples: &[Example]) -> Vec<Vec<usize>> {
        let place = |label: &String| self.labels.iter().position(|known| known == label);
        let of = |example: &Example| example.unknown.iter().filter_map(place).collect();
        examples.iter().map(of).collect()
    }

    /// Maps the predictions. If the map drops the predicted label, the label with the next highest score counts.
    fn decide(&self, served: &Served, problem_type: ProblemType, thresholds: &[f64]) -> Predictions {
        let mut decided = Predictions {
            emotions: Vec::new(),
            sets: Vec::new(),
            confidence: Vec::new(),
        };
        for (emotion, scores) in served.emotions.iter().zip(&served.scores) {
            let given = self.of_model[*emotion].map(|to| (to, scores[*emotion])).or_else(|| {
                let others = self
                    .of_model
                    .iter()
                    .zip(scores)
                    .filter_map(|(to, &score)| Some(((*to)?, score)));
                others.max_by(|one, other| one.1.total_cmp(&other.1))
            });
            let Some((emotion, score)) = given else { continue };
            let mut set = vec![emotion];
            if problem_type == ProblemType::MultiLabelClassification {
                let reached = self.of_model.iter().zip(scores.iter().zip(thresholds));
                set.extend(
                    reached
                        .filter(|(_, (score, threshold))| score >= threshold)
                        .filter_map(|(to, _)| *to),
                );
                set.sort_unstable();
                set.dedup();
            }
            decided.emotions.push(emotion);
            decided.sets.push(set);
            let confidence = match problem_type {
                ProblemType::SingleLabelClassification => {
                    let all = self.of_model.iter().zip(scores);
                    all.filter(|(to, _)| **to == Some(emotion))
                        .map(|(_, score)| score)
                        .sum()
                }
                ProblemType::MultiLabelClassification => score,
            };
            decided.confidence.push(confidence);
        }
        decided
    }
}

#[cfg(test)]
mod tests;
