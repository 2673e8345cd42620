//! What a model shows when it answers a few texts: whether its answers depend on the other texts of a batch, and whether
//! it gives probabilities instead of logits.

use super::{
    backend::{Backend, Padded},
    options::ClassifyError,
};
use crate::model::{ModelFolder, ProblemType};

/// What was found out about a model.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Nature {
    /// The largest difference of a score between a text alone and beside others.
    pub(super) neighbours: f64,
    /// Rows that are softmax already.
    pub(super) gives_probabilities: bool,
}

impl Nature {
    /// The largest difference that arithmetic in half precision alone makes.
    const NOISE: f64 = 0.01;

    /// Whether texts have to be run one by one.
    pub(super) fn depends_on_neighbours(self) -> bool {
        self.neighbours > Self::NOISE
    }
}

/// Texts of different lengths and moods, in English, which most models can read.
const TEXTS: [&str; 4] = [
    "so happy today",
    "I hate this, it makes me angry",
    "why",
    "We waited for two hours in the rain and nobody told us that the last train had gone long ago, which is about what one \
     has to expect from them, and then it was cold and dark and I was afraid that we would have to sleep there until the \
     morning, but a friend came with her car",
];

/// Runs the texts alone and together.
pub(super) fn nature(backend: &mut impl Backend, folder: &ModelFolder) -> Result<Nature, ClassifyError> {
    let fault = |detail: String| ClassifyError::Graph {
        path: folder.weights().file().to_owned(),
        detail,
    };
    let encode = |text| {
        folder
            .tokenizer()
            .encode(text)
            .map_err(|error| fault(error.to_string()))
    };
    let texts = TEXTS.into_iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let mut run = |texts: &[Vec<u32>]| {
        let columns = texts.iter().map(Vec::len).max().unwrap_or_default();
        let (mut padded, mut logits) = (Padded::default(), Vec::new());
        padded.fill(texts.iter().map(Vec::as_slice), columns, folder.pad_id());
        backend.run(&padded, &mut logits).map_err(fault)?;
        Ok::<_, ClassifyError>(logits)
    };
    let labels = folder.info().labels.len();
    let together = run(&texts)?;
    let mut nature = Nature {
        neighbours: 0.0,
        gives_probabilities: folder.info().problem_type == ProblemType::SingleLabelClassification
            && together.chunks(labels).all(is_distribution),
    };
    for (text, beside) in texts.iter().zip(together.chunks(labels)) {
        let alone = run(std::slice::from_ref(text))?;
        let decode = |row: &[f32]| folder.decoder().decode(row).map_err(|error| fault(error.to_string()));
        let (alone, beside) = (decode(&alone)?, decode(beside)?);
        let differences = alone
            .scores
            .iter()
            .zip(beside.scores.iter())
            .map(|(a, b)| (a - b).abs());
        nature.neighbours = differences.fold(nature.neighbours, f64::max);
    }
    Ok(nature)
}

/// Whether values are probabilities of one of several labels, which logits are only by chance.
fn is_distribution(row: &[f32]) -> bool {
    let sum: f32 = row.iter().sum();
    row.iter().all(|value| (0.0..=1.0).contains(value)) && (sum - 1.0).abs() < 0.002
}
