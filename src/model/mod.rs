//! Model folders: manifest, labels, groups, thresholds, tokenizer.
//!
//! [`ModelFolder::open`] reads a folder in Hugging Face's layout:
//!
//! - `config.json`: labels, `problem_type`, limits;
//! - `tokenizer.json`, or `vocab.json` and `merges.txt`, or `vocab.txt`;
//! - `model.onnx`, `model_fp16.onnx`, `model_quantized.onnx` and so on, in the folder or in `onnx/`, with any external data
//!   files;
//! - `moodstream.toml` (optional): see [`Manifest`].
//!
//! A linear model over n-grams has a weights file instead of an ONNX file and a tokenizer: see [`mod@linear`].

mod added_tokens;
mod config;
mod error;
mod external_data;
mod files;
pub mod groups;
mod languages;
pub mod linear;
mod manifest;
pub mod onnx;
mod options;
mod postprocess;
mod subwords;
mod tokenize;
mod tokenizer_files;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{
    config::Config,
    files::{FolderHash, read},
    groups::default_groups,
    linear::LinearModel,
};
pub use self::{
    error::{
        ConfigError, InvalidFile, LinearFileError, ManifestError, ModelError, SubwordsError, TokenizeError,
        TokenizerError,
    },
    languages::{SupportedLanguages, UNSUPPORTED},
    manifest::{Manifest, toml_mistake},
    options::{ModelOptions, Precision, ProblemType, Provider},
    postprocess::{NotFinite, Postprocessor},
    subwords::{Subwords, largest_id},
    tokenize::Tokenizer,
};

/// The cleaning profile of a model whose manifest names none: the one that the Twitter RoBERTa family was trained with.
pub const DEFAULT_PROFILE: &str = "twitter-roberta";

/// The threshold of a multi-label model's label if the manifest does not set it.
pub const DEFAULT_THRESHOLD: f64 = 0.5;

/// Metadata of a model, available once its folder has been read.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// `name@` and the first eight hex digits of a hash over the weights and everything else that affects predictions.
    pub id: Arc<str>,
    /// The labels, in the order of the scores.
    pub labels: Arc<[Arc<str>]>,
    /// The cleaning profile that texts must be cleaned with.
    pub profile: Arc<str>,
    /// Named groups of labels (`positive`, `negative` ...). A label may be in any number of them.
    pub groups: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// The languages in which it was evaluated.
    pub languages: SupportedLanguages,
    /// How logits become scores.
    pub problem_type: ProblemType,
    /// The precision of the weights; never [`Precision::Auto`].
    pub precision: Precision,
    /// The execution provider.
    pub provider: Provider,
}

/// A post's emotion.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The emotion's label.
    pub emotion: Arc<str>,
    /// Its score, in `0..=1`: a multiple of 2⁻²⁰, so that sums in double precision are exact in any order.
    pub score: f64,
    /// All scores, in the order of [`ModelInfo::labels`], each in `0..=1` and a multiple of 2⁻²⁰.
    pub scores: Arc<[f64]>,
}

/// A model folder that was read and validated. The ONNX file itself is loaded by
/// [`Classifier::start`](crate::classify::Classifier::start).
#[derive(Debug, Clone)]
pub struct ModelFolder {
    info: ModelInfo,
    weights: Weights,
    tokenizer: Tokenizer,
    postprocessor: Postprocessor,
    pad_id: u32,
    first_position: u32,
}

/// The weights, which compute the logits.
#[derive(Debug, Clone)]
pub enum Weights {
    /// An encoder in an ONNX file.
    Onnx(PathBuf),
    /// A linear model and the file it was read from.
    Linear(Arc<LinearModel>, PathBuf),
}

/// Values determined by the settings and the files together.
#[derive(Clone, Copy)]
struct Choices {
    problem_type: ProblemType,
    max_tokens: usize,
}

impl Choices {
    fn mark(self, fingerprint: &mut FolderHash) {
        fingerprint.part(self.problem_type.as_str().as_bytes());
        fingerprint.part(&(self.max_tokens as u64).to_le_bytes());
    }
}

/// What the files of a model provide, depending on its kind.
struct Parts {
    weights: Weights,
    precision: Precision,
    tokenizer: Tokenizer,
}

impl ModelFolder {
    /// Reads a model folder and checks what can be checked without running the model.
    ///
    /// # Errors
    /// Returns an error if a file is missing or invalid. The message says which one and how to fix it.
    pub fn open(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Self, ModelError> {
        let folder = path.as_ref();
        if !folder.is_dir() {
            return Err(ModelError::NoFolder(folder.to_owned()));
        }
        let config_path = folder.join("config.json");
        if !config_path.is_file() {
            return Err(ModelError::NoConfig(folder.to_owned()));
        }
        let config_bytes = read(&config_path)?;
        let config = Config::parse(&config_path, &config_bytes)?;

        let manifest_path = folder.join("moodstream.toml");
        let manifest_bytes = if manifest_path.exists() {
            read(&manifest_path)?
        } else {
            Vec::new()
        };
        let manifest = Manifest::parse(&manifest_path, &manifest_bytes, &config.labels)?;

        let problem_type = options
            .problem_type
            .or(manifest.problem_type)
            .or(config.problem_type)
            .ok_or_else(|| ModelError::NoProblemType {
                config: config_path.clone(),
            })?;
        if problem_type == ProblemType::SingleLabelClassification
            && let [only] = &*config.labels
        {
            return Err(ModelError::invalid(&config_path)(ConfigError::SingleLabel(Arc::clone(
                only,
            ))));
        }

        let max_tokens = config
            .max_tokens
            .map_or(options.max_tokens, |most| most.min(options.max_tokens));
        let mut fingerprint = FolderHash::new();
        for bytes in [&config_bytes, &manifest_bytes] {
            fingerprint.part(bytes);
        }
        let choices = Choices {
            problem_type,
            max_tokens,
        };
        let is_linear = config.model_type.as_deref() == Some(linear::MODEL_TYPE);
        let Parts {
            weights,
            precision,
            tokenizer,
        } = match is_linear {
            true => linear(folder, options, &config, choices, &mut fingerprint)?,
            false => encoder(folder, options, &config, choices, &mut fingerprint)?,
        };
        let id = format!("{}@{}", model_name(&manifest, folder), fingerprint.hex());

        let labels: Arc<[Arc<str>]> = config.labels.into();
        let postprocessor = postprocessor(&labels, problem_type, &manifest);
        let info = ModelInfo {
            id: id.into(),
            profile: manifest.profile.as_deref().unwrap_or(DEFAULT_PROFILE).into(),
            groups: manifest.groups.clone().unwrap_or_else(|| default_groups(&labels)),
            languages: SupportedLanguages::new(&manifest.languages),
            labels,
            problem_type,
            precision,
            provider: options.provider,
        };
        log_choices(&info, &manifest, &manifest_path, weights.file(), max_tokens);
        Ok(Self {
            info,
            weights,
            tokenizer,
            postprocessor,
            pad_id: config.pad_id,
            first_position: config.first_position,
        })
    }

    /// The model's metadata.
    #[must_use]
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The weights.
    #[must_use]
    pub const fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The tokenizer.
    #[must_use]
    pub const fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The postprocessor of the model's logits.
    #[must_use]
    pub const fn postprocessor(&self) -> &Postprocessor {
        &self.postprocessor
    }

    /// The token id used for padding.
    #[must_use]
    pub const fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// The position of a text's first token, for models that take `position_ids`.
    #[must_use]
    pub const fn first_position(&self) -> u32 {
        self.first_position
    }
}

impl Weights {
    /// The file with the weights.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Onnx(file) | Self::Linear(_, file) => file,
        }
    }
}

/// Reads the parts of an encoder.
fn encoder(
    folder: &Path,
    options: &ModelOptions,
    config: &Config,
    choices: Choices,
    fingerprint: &mut FolderHash,
) -> Result<Parts, ModelError> {
    let bytes = tokenizer_files::tokenizer_json(folder, config.model_type.as_deref())?;
    let tokenizer = Tokenizer::parse(
        &folder.join("tokenizer.json"),
        &bytes,
        choices.max_tokens,
        config.vocab_size,
    )?;
    fingerprint.part(&bytes);
    choices.mark(fingerprint);
    let (onnx, precision) = files::find_onnx(folder, options)?;
    files::check_fetched(&onnx)?;
    fingerprint.file(&onnx)?;
    let external = external_data::external_data(&onnx).map_err(|source| ModelError::Read {
        path: onnx.clone(),
        source,
    })?;
    for data in external {
        files::check_fetched(&data)?;
        fingerprint.file(&data)?;
    }
    Ok(Parts {
        weights: Weights::Onnx(onnx),
        precision,
        tokenizer,
    })
}

/// Reads the parts of a linear model.
fn linear(
    folder: &Path,
    options: &ModelOptions,
    config: &Config,
    choices: Choices,
    fingerprint: &mut FolderHash,
) -> Result<Parts, ModelError> {
    if options.provider.is_gpu()
        || !matches!(options.precision, Precision::Auto | Precision::Fp32)
        || options.file.is_some()
    {
        return Err(ModelError::invalid(&folder.join("config.json"))(
            ConfigError::LinearOptions,
        ));
    }
    let file = folder.join(linear::FILE);
    let (model, bytes) = LinearModel::read(&file, config.labels.len())?;
    choices.mark(fingerprint);
    fingerprint.part(&bytes);
    let model = Arc::new(model);
    Ok(Parts {
        tokenizer: Tokenizer::of_ngrams(Arc::clone(&model), choices.max_tokens),
        weights: Weights::Linear(model, file),
        precision: Precision::Fp32,
    })
}

fn model_name(manifest: &Manifest, folder: &Path) -> String {
    if let Some(name) = &manifest.name {
        return name.clone();
    }
    // `.` and `..` have no name until they are resolved.
    let resolved = folder.canonicalize();
    let folder = resolved.as_deref().unwrap_or(folder);
    folder
        .file_name()
        .map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().replace('@', "-"))
}

fn postprocessor(labels: &Arc<[Arc<str>]>, problem_type: ProblemType, manifest: &Manifest) -> Postprocessor {
    let thresholds = labels
        .iter()
        .map(|label| manifest.thresholds.get(label).copied().unwrap_or(DEFAULT_THRESHOLD))
        .collect();
    let fallback = manifest.fallback.as_deref().unwrap_or("neutral");
    let fallback = labels.iter().position(|label| &**label == fallback);
    Postprocessor::new(
        Arc::clone(labels),
        problem_type,
        manifest.temperature.unwrap_or(1.0),
        thresholds,
        fallback,
    )
}

fn log_choices(info: &ModelInfo, manifest: &Manifest, manifest_path: &Path, file: &Path, max_tokens: usize) {
    tracing::info!(model = %info.id, file = %file.display(), precision = %info.precision, problem_type = %info.problem_type, max_tokens, "model folder read");
    if !manifest_path.exists() {
        tracing::info!(
            manifest = %manifest_path.display(),
            profile = %info.profile,
            groups = ?info.groups.keys().collect::<Vec<_>>(),
            threshold = DEFAULT_THRESHOLD,
            "no manifest, using defaults"
        );
    } else if manifest.groups.is_none() {
        tracing::info!(groups = ?info.groups.keys().collect::<Vec<_>>(), "the manifest defines no groups, using the default ones");
    }
    if info.provider.is_gpu() && info.precision == Precision::Int8 {
        tracing::warn!(
            file = %file.display(),
            provider = %info.provider,
            "int8 products run on the CPU: for a GPU, make an fp16 file with `moodstream-lab dequantize --model DIR --out CHECKPOINT` and `moodstream-lab export --checkpoint CHECKPOINT --precision fp16 --out NEW_DIR`"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    /// The warnings logged when a folder with these ONNX files is opened for `provider`.
    fn warnings(files: &[&str], provider: Provider) -> Vec<String> {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-roberta");
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json"] {
            fs::copy(fixture.join(file), folder.path().join(file)).unwrap();
        }
        for file in files {
            fs::copy(fixture.join("model.onnx"), folder.path().join(file)).unwrap();
        }
        let log = folder.path().join("log");
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(fs::File::create(&log).unwrap())
            .finish();
        let options = ModelOptions {
            provider,
            ..ModelOptions::default()
        };
        tracing::subscriber::with_default(subscriber, || ModelFolder::open(folder.path(), &options)).unwrap();
        fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_int8_file_on_a_gpu_is_warned_of_in_one_line() {
        for provider in [Provider::Cuda, Provider::TensorRt] {
            let warnings = warnings(&["model_int8.onnx"], provider);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            for part in [
                "model_int8.onnx",
                provider.as_str(),
                "moodstream-lab dequantize",
                "moodstream-lab export",
            ] {
                assert!(warnings[0].contains(part), "{part}: {warnings:?}");
            }
        }
        assert_eq!(warnings(&["model_int8.onnx"], Provider::Cpu), [""; 0]);
        assert_eq!(
            warnings(&["model_int8.onnx", "model_fp16.onnx"], Provider::Cuda),
            [""; 0]
        );
    }
}
