//! Vocabulary transfer: converts a BERT checkpoint to RoBERTa with a new byte-level BPE vocabulary.
//!
//! The encoder is copied. The vocabulary is trained on text that the old tokenizer has cut into pieces, so that nearly all
//! tokens are old pieces and keep their embeddings. Another token gets the mean embedding of the old pieces of its text, and
//! an emoji that of the pieces of its Unicode name.

mod bpe;
mod embed;

pub(crate) use bpe::{surface, tokenizer_config};

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use moodstream::{clean::Profile, model::Subwords};

use crate::{
    checkpoint::{Checkpoint, Family},
    encoder::{Encoder, Packed, Pass, Rates, Shape},
    files::{self, Staging},
    tokenizer,
};

/// The command line arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the BERT source: config.json, model.safetensors, tokenizer.json
    #[arg(long)]
    source: PathBuf,
    /// Text to train the vocabulary on: the first column of TSV, or whole lines (may be repeated)
    #[arg(long, required = true)]
    text: Vec<PathBuf>,
    /// Folder to write
    #[arg(long)]
    out: PathBuf,
    /// Size of the new vocabulary
    #[arg(long, default_value_t = 20_000)]
    vocabulary: usize,
    /// Rows of the new position table, including the two that RoBERTa doesn't use
    #[arg(long, default_value_t = 130)]
    positions: usize,
    /// Cleaning profile of the texts
    #[arg(long, default_value_t = Profile::TwitterRoberta)]
    profile: Profile,
}

/// Number of texts on which the carried encoder is compared with its source.
const COMPARED: usize = 200;

/// Runs the step.
///
/// # Errors
///
/// When the input is invalid or the output can't be written.
pub fn run(args: Args) -> Result<()> {
    ensure!(
        args.positions > 4,
        "--positions {}: must be above 4: two are unused, and two are for the special tokens of a post",
        args.positions
    );
    let source = Checkpoint::read(&args.source)?.encoder;
    ensure!(
        source.shape.first_position == 0,
        "{}: the source is a RoBERTa or an MPNet already: `carry` converts BERT",
        args.source.display()
    );
    let old = embed::OldVocabulary::read(&args.source, &source)?;
    let texts: Vec<String> = read_texts(&args.text)?
        .iter()
        .map(|text| args.profile.clean(text))
        .collect();
    let staging = Staging::new(&args.out)?;

    let pairs = emoji_pairs();
    let pairs_as_often = std::iter::repeat_n(&pairs, bpe::MIN_FREQUENCY as usize).flatten();
    let seen: Vec<&String> = texts.iter().chain(pairs_as_often).collect();
    let vocabulary = bpe::Vocabulary::train(&seen, args.vocabulary, |word| old.cut(word))?;
    let json = vocabulary.to_json().to_string();
    let tokenizer = tokenizer::parse(&json).context("the new vocabulary can't be read")?;
    let words = old.embeddings(&vocabulary)?;

    let shape = Shape {
        positions: args.positions.min(source.shape.positions + 2),
        first_position: 2,
        vocabulary: vocabulary.tokens.len(),
        labels: 0,
        ..source.shape
    };
    let mut encoder = Encoder::zeros(shape);
    encoder.weights.words = words;
    copy_body(&source, &mut encoder);
    let cosine = cosine(&source, &old, &encoder, &tokenizer, &texts)?;

    let longest = encoder.shape.longest();
    Checkpoint {
        encoder,
        labels: Vec::new(),
        loss: None,
        family: Family::Roberta,
    }
    .write(staging.path())?;
    files::write(&staging.path().join("tokenizer.json"), json.as_bytes())?;
    let config = serde_json::to_string_pretty(&bpe::tokenizer_config(longest))? + "\n";
    files::write(&staging.path().join("tokenizer_config.json"), config.as_bytes())?;
    staging.finish()?;
    println!(
        "{}: {} tokens from {} texts, mean cosine to the source {cosine:.3}",
        args.out.display(),
        vocabulary.tokens.len(),
        texts.len()
    );
    Ok(())
}

/// Every emoji of one character, twice. They are added to the training texts as often as the minimum frequency asks, so
/// that each becomes a token: few texts have all of them, but later posts may have any.
fn emoji_pairs() -> Vec<String> {
    emojis::iter()
        .map(|emoji| emoji.as_str().trim_end_matches('\u{fe0f}'))
        .filter(|emoji| emoji.chars().count() == 1)
        .map(|emoji| emoji.repeat(2))
        .collect()
}

/// Reads texts: the first column of each line that is not blank.
pub(crate) fn read_texts(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for path in paths {
        let content = read_text(path)?;
        texts.extend(
            content
                .lines()
                .map(|line| line.split('\t').next().unwrap_or(line).to_owned()),
        );
    }
    texts.retain(|text| !text.trim().is_empty());
    ensure!(
        !texts.is_empty(),
        "no text in {}",
        paths
            .iter()
            .map(|p| p.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    );
    Ok(texts)
}

fn read_text(path: &Path) -> Result<String> {
    let mut bytes = std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    if path.extension().is_some_and(|extension| extension == "zst") {
        bytes = zstd::decode_all(&bytes[..]).with_context(|| format!("{}: not zstd", path.display()))?;
    }
    String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("{}: not UTF-8", path.display()))
}

/// Copies everything but the word embeddings; the positions are moved to the new first position.
fn copy_body(source: &Encoder, encoder: &mut Encoder) {
    let hidden = source.shape.hidden;
    for (from, to) in source.layout.tensors.iter().zip(&encoder.layout.tensors) {
        if !from.is_head() && !from.name.contains("position") {
            let values = &source.weights.dense[from.place.clone()];
            encoder.weights.dense[to.place.clone()].copy_from_slice(values);
        }
    }
    let first = encoder.shape.first_position * hidden;
    let positions = &mut encoder.weights.dense[encoder.layout.positions.clone()];
    let rows = &source.weights.dense[source.layout.positions.clone()][..positions.len() - first];
    positions[first..].copy_from_slice(rows);
}

/// The mean cosine between the mean-pooled states of the source and the carried encoder.
fn cosine(
    source: &Encoder,
    old: &embed::OldVocabulary<'_>,
    encoder: &Encoder,
    tokenizer: &Subwords,
    texts: &[String],
) -> Result<f64> {
    let mut sum = 0.0;
    let mut count = 0_u32;
    let (mut pass, mut old_pass) = (Pass::default(), Pass::default());
    for text in texts.iter().step_by(texts.len().div_ceil(COMPARED)) {
        let new: Packed = [tokenizer.encode(text, encoder.shape.longest())?.as_slice()]
            .into_iter()
            .collect();
        let ids: Packed = [old.tokenizer().encode(text, encoder.shape.longest())?.as_slice()]
            .into_iter()
            .collect();
        let a = pooled(pass.forward(encoder, &new, Rates::default(), 0), encoder.shape.hidden);
        let b = pooled(
            old_pass.forward(source, &ids, Rates::default(), 0),
            encoder.shape.hidden,
        );
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        sum += dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt().max(1e-12);
        count += 1;
    }
    Ok(sum / f64::from(count.max(1)))
}

fn pooled(states: &[f32], hidden: usize) -> Vec<f64> {
    let mut sum = vec![0.0; hidden];
    for state in states.chunks_exact(hidden) {
        for (sum, value) in sum.iter_mut().zip(state) {
            *sum += f64::from(*value);
        }
    }
    sum
}
