//! Reduces a checkpoint's Unigram vocabulary, and its word embeddings, to the pieces that given text uses.
//!
//! Three quarters of a small multilingual encoder are word embeddings, most of them of pieces that the texts never use. A
//! word whose piece is dropped is written with shorter pieces: all single characters of the texts and of ASCII are kept.

use std::{collections::HashSet, path::PathBuf};

use anyhow::{Result, ensure};
use moodstream::{clean::Profile, model::Subwords};

use crate::{
    carry::read_texts,
    checkpoint::Checkpoint,
    encoder::{Encoder, Shape},
    files::Staging,
    tokenizer,
    training::ensure_known_id,
    unigram::Unigram,
};

/// The command line arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Checkpoint folder with a Unigram vocabulary, for example made by `unpack`
    #[arg(long)]
    source: PathBuf,
    /// Text like the posts to be classified: the first column of TSV, or whole lines (may be repeated)
    #[arg(long, required = true)]
    text: Vec<PathBuf>,
    /// Keep the most frequent pieces that make up this share of the texts' tokens; single characters of the texts and emoji
    /// are kept as well
    #[arg(long, default_value_t = 0.999)]
    coverage: f64,
    /// Keep this many of the most probable pieces as well, for languages with little text
    #[arg(long, default_value_t = 0)]
    likeliest: usize,
    /// Cleaning profile of the texts
    #[arg(long, default_value_t = Profile::TwitterRoberta)]
    profile: Profile,
    /// Folder to write
    #[arg(long)]
    out: PathBuf,
}

/// Runs the step.
///
/// # Errors
///
/// When the input is invalid or the output can't be written.
pub fn run(args: Args) -> Result<()> {
    ensure!(
        args.coverage > 0.0 && args.coverage <= 1.0,
        "--coverage {}: must be above 0 and at most 1",
        args.coverage
    );
    let mut source = Checkpoint::read_to_write(&args.source)?;
    let vocabulary = Unigram::read(&args.source)?;
    let largest = vocabulary.pieces().len() as u64 - 1;
    ensure_known_id(largest, source.encoder.shape.vocabulary, &args.source)?;
    let tokenizer = tokenizer::read(&args.source)?;
    let texts: Vec<String> = read_texts(&args.text)?
        .iter()
        .map(|text| args.profile.clean(text))
        .collect();
    let staging = Staging::new(&args.out)?;

    let (counts, before) = count(&tokenizer, &texts, vocabulary.pieces().len())?;
    let kept = keep(&vocabulary, &counts, &texts, args.coverage, args.likeliest);
    source.encoder = with_words(source.encoder, &kept);
    let (tokens, longest) = (kept.len(), source.encoder.shape.longest());
    let pieces = kept.iter().map(|&id| vocabulary.pieces()[id].clone()).collect();
    let vocabulary = Unigram::new(pieces)?;
    source.write(staging.path())?;
    vocabulary.write(staging.path(), longest)?;
    let (_, after) = count(&tokenizer::read(staging.path())?, &texts, tokens)?;
    staging.finish()?;
    println!(
        "{}: {tokens} of {} tokens; {} texts are {after} tokens, {:+.2} %",
        args.out.display(),
        counts.len(),
        texts.len(),
        100.0 * (after as f64 / before.max(1) as f64 - 1.0)
    );
    Ok(())
}

/// How often each id occurs in the texts, and the total number of tokens.
fn count(tokenizer: &Subwords, texts: &[String], ids: usize) -> Result<(Vec<u64>, u64)> {
    let mut counts = vec![0; ids];
    for text in texts {
        for id in tokenizer.pieces(text)? {
            counts[id as usize] += 1;
        }
    }
    let all = counts.iter().sum();
    Ok((counts, all))
}

/// The ids of the pieces to keep, in order.
fn keep(vocabulary: &Unigram, counts: &[u64], texts: &[String], coverage: f64, likeliest: usize) -> Vec<usize> {
    let pieces = vocabulary.pieces();
    let mut by_count: Vec<usize> = (0..pieces.len()).filter(|&id| counts[id] > 0).collect();
    by_count.sort_by_key(|&id| (std::cmp::Reverse(counts[id]), id));
    let wanted = counts.iter().sum::<u64>() as f64 * coverage;
    let mut covered = 0;
    let mut is_kept = vec![false; pieces.len()];
    for id in by_count {
        if covered as f64 >= wanted {
            break;
        }
        covered += counts[id];
        is_kept[id] = true;
    }
    let mut by_score: Vec<usize> = (0..pieces.len()).filter(|&id| !pieces[id].is_special()).collect();
    by_score.sort_by(|&a, &b| pieces[b].score.total_cmp(&pieces[a].score).then(a.cmp(&b)));
    for id in by_score.into_iter().take(likeliest) {
        is_kept[id] = true;
    }
    let characters: HashSet<char> = texts.iter().flat_map(|text| text.chars()).collect();
    for (id, piece) in pieces.iter().enumerate() {
        let mut surface = piece.surface().chars();
        let single = match (surface.next(), surface.next()) {
            (Some(one), None) => one.is_ascii() || characters.contains(&one),
            // The marker of a word's start by itself.
            (None, _) => true,
            _ => false,
        };
        is_kept[id] |= single || piece.is_special() || emojis::get(piece.surface()).is_some();
    }
    (0..pieces.len()).filter(|&id| is_kept[id]).collect()
}

/// The encoder with only the word embeddings of `ids`.
fn with_words(encoder: Encoder, ids: &[usize]) -> Encoder {
    let hidden = encoder.shape.hidden;
    let words = ids
        .iter()
        .flat_map(|id| &encoder.weights.words[id * hidden..(id + 1) * hidden]);
    let words = words.copied().collect();
    let mut cut = Encoder {
        shape: Shape {
            vocabulary: ids.len(),
            ..encoder.shape
        },
        ..encoder
    };
    cut.weights.words = words;
    cut
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::{
        checkpoint::Family,
        encoder::{HeadActivation, Pooling},
        testing::arguments,
        unigram::{FIXED, Piece},
    };

    /// Writes a checkpoint in which each word embedding is its id.
    fn checkpoint(folder: &std::path::Path) -> Vec<&'static str> {
        let texts = [
            "\u{2581}",
            "a",
            "b",
            "c",
            "é",
            "😂",
            "👍🏽",
            "\u{2581}ab",
            "ab",
            "\u{2581}abc",
            "bc",
            "<mask>",
        ];
        let texts: Vec<&str> = FIXED.into_iter().chain(texts).collect();
        let piece = |(at, text): (usize, &&str)| Piece {
            text: (*text).to_owned(),
            score: -(at as f32),
        };
        let vocabulary = Unigram::new(texts.iter().enumerate().map(piece).collect()).unwrap();
        let mut encoder = Encoder::zeros(Shape {
            hidden: 2,
            heads: 1,
            layers: 1,
            intermediate: 2,
            positions: 20,
            first_position: 2,
            relative_buckets: 0,
            pooling: Pooling::Mean,
            head_activation: HeadActivation::default(),
            vocabulary: texts.len(),
            labels: 0,
            epsilon: 1e-12,
        });
        for (id, row) in encoder.weights.words.chunks_exact_mut(2).enumerate() {
            row.fill(id as f32);
        }
        fs::create_dir(folder).unwrap();
        let source = Checkpoint {
            encoder,
            labels: Vec::new(),
            loss: None,
            family: Family::XlmRoberta,
        };
        source.write(folder).unwrap();
        vocabulary.write(folder, 18).unwrap();
        texts
    }

    fn cut(text: &str, more: &[&str]) -> (Vec<String>, Vec<f32>) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).into_os_string().into_string().unwrap();
        let texts = checkpoint(&folder.path().join("source"));
        fs::write(path("text"), text).unwrap();
        let (source, file, out) = (path("source"), path("text"), path("out"));
        let fixed = ["--source", &source, "--text", &file, "--out", &out];
        run(arguments(fixed.iter().chain(more)).unwrap()).unwrap();
        let pieces = Unigram::read(&folder.path().join("out")).unwrap();
        let pieces: Vec<String> = pieces.pieces().iter().map(|piece| piece.text.clone()).collect();
        let words = Checkpoint::read(&folder.path().join("out"))
            .unwrap()
            .encoder
            .weights
            .words;
        for (piece, row) in pieces.iter().zip(words.chunks_exact(2)) {
            let id = texts.iter().position(|text| text == piece).unwrap();
            assert_eq!(row, [id as f32; 2], "{piece}");
        }
        (pieces, words)
    }

    #[test]
    fn pieces_that_texts_use_are_kept_with_their_embeddings() {
        let (pieces, _) = cut("abc ab\nabc\n", &["--coverage", "1"]);
        let expected = [
            "<s>",
            "<pad>",
            "</s>",
            "<unk>",
            "\u{2581}",
            "a",
            "b",
            "c",
            "😂",
            "👍🏽",
            "\u{2581}ab",
            "\u{2581}abc",
            "<mask>",
        ];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn rare_pieces_are_dropped_and_probable_ones_kept() {
        // Two of the three tokens cover half; the word of the dropped piece is written with letters.
        let (pieces, _) = cut("abc ab\nabc\n", &["--coverage", "0.5"]);
        assert!(pieces.iter().any(|piece| piece == "\u{2581}abc") && !pieces.iter().any(|piece| piece == "\u{2581}ab"));
        // The five most probable pieces are the marker, three letters and one that the text lacks.
        let (pieces, _) = cut("c\n", &["--likeliest", "5"]);
        assert!(pieces.iter().any(|piece| piece == "é") && !pieces.iter().any(|piece| piece == "ab"));
    }
}
