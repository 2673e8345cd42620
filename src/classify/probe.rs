//! Runs a few texts through a model to find out whether its scores depend on the other texts of a batch, and whether it
//! outputs probabilities instead of logits.

use super::{
    backend::{Backend, Padded},
    error::{BatchError, GraphError},
    options::ClassifyError,
};
use crate::model::{ModelFolder, ProblemType};

/// Properties of a model.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Properties {
    /// The largest difference between a text's scores alone and in a batch.
    pub(super) max_difference: f64,
    /// Whether the output rows are already softmax probabilities.
    pub(super) outputs_are_probabilities: bool,
}

impl Properties {
    /// The largest difference that half-precision arithmetic alone causes.
    const TOLERANCE: f64 = 0.01;

    /// Whether texts must be run one at a time.
    pub(super) fn depends_on_batch(self) -> bool {
        self.max_difference > Self::TOLERANCE
    }
}

/// Texts of different length and mood, in English, which most models support.
const TEXTS: [&str; 4] = [
    "so happy today",
    "I hate this, it makes me angry",
    "why",
    "We waited for two hours in the rain and nobody told us that the last train had gone long ago, which is about what one \
     has to expect from them, and then it was cold and dark and I was afraid that we would have to sleep there until the \
     morning, but a friend came with her car",
];

/// Runs the texts individually and in one batch.
pub(super) fn examine(backend: &mut impl Backend, folder: &ModelFolder) -> Result<Properties, ClassifyError> {
    let fault = |fault| ClassifyError::Graph {
        path: folder.weights().file().to_owned(),
        fault,
    };
    let encode = |text| {
        folder
            .tokenizer()
            .encode(text)
            .map_err(|error| fault(GraphError::Tokenizer(error)))
    };
    let texts = TEXTS.into_iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let mut run = |texts: &[Vec<u32>]| {
        let columns = texts.iter().map(Vec::len).max().unwrap_or_default();
        let (mut padded, mut logits) = (Padded::default(), Vec::new());
        padded.fill(texts.iter().map(Vec::as_slice), columns, folder.pad_id());
        backend
            .run(&padded, &mut logits)
            .map_err(|error| fault(GraphError::Probe(BatchError::Backend(error))))?;
        Ok::<_, ClassifyError>(logits)
    };
    let labels = folder.info().labels.len();
    let together = run(&texts)?;
    let mut properties = Properties {
        max_difference: 0.0,
        outputs_are_probabilities: folder.info().problem_type == ProblemType::SingleLabelClassification
            && together.chunks(labels).all(is_distribution),
    };
    for (text, beside) in texts.iter().zip(together.chunks(labels)) {
        let alone = run(std::slice::from_ref(text))?;
        let decode = |row: &[f32]| {
            folder
                .postprocessor()
                .decode(row)
                .map_err(|error| fault(GraphError::Probe(BatchError::NotFinite(error))))
        };
        let (alone, beside) = (decode(&alone)?, decode(beside)?);
        let differences = alone
            .scores
            .iter()
            .zip(beside.scores.iter())
            .map(|(a, b)| (a - b).abs());
        properties.max_difference = differences.fold(properties.max_difference, f64::max);
    }
    Ok(properties)
}

/// Whether a row is a probability distribution, which logits could be only by coincidence.
fn is_distribution(row: &[f32]) -> bool {
    let sum: f32 = row.iter().sum();
    row.iter().all(|value| (0.0..=1.0).contains(value)) && (sum - 1.0).abs() < 0.002
}
