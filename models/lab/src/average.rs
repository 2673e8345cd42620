//! The mean of the weights of several checkpoints ("model soups", arXiv 2203.05482).
//!
//! Runs that start from the same weights end near each other, and their mean is often better than each of them. Each run
//! initialises its own head, so heads can't be averaged: the result has none, and `train --freeze-layers` adds one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{checkpoint::Checkpoint, files::Staging, tokenizer, training::Average};

/// The command line arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Checkpoint folders that were trained from the same one
    #[arg(long = "checkpoint", required = true, value_name = "DIR")]
    checkpoints: Vec<PathBuf>,
    /// Folder to write: the encoder without a head
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the step.
///
/// # Errors
///
/// When there are fewer than two checkpoints, they differ in shape or tokenizer, or the output can't be written.
pub fn run(args: Args) -> Result<()> {
    let [first, others @ ..] = args.checkpoints.as_slice() else {
        return Ok(());
    };
    ensure!(!others.is_empty(), "--checkpoint: give two or more");
    let vocabulary = |folder: &Path| {
        let path = folder.join("tokenizer.json");
        std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))
    };
    let words = vocabulary(first)?;
    let mut mean = Average::default();
    let mut base = bare(first)?;
    mean.add(&base.encoder.weights);
    for folder in others {
        let other = bare(folder)?;
        ensure!(
            other.encoder.shape == base.encoder.shape && other.family == base.family && vocabulary(folder)? == words,
            "{} and {}: they differ in shape or tokenizer, so their weights can't be averaged",
            first.display(),
            folder.display()
        );
        mean.add(&other.encoder.weights);
    }
    base.encoder = mean.of(&base.encoder);
    let staging = Staging::new(&args.out)?;
    base.write(staging.path())?;
    tokenizer::copy(first, staging.path())?;
    staging.finish()?;
    println!(
        "{}: the mean of {} checkpoints",
        args.out.display(),
        args.checkpoints.len()
    );
    Ok(())
}

/// A checkpoint without its head.
fn bare(folder: &Path) -> Result<Checkpoint> {
    let read = Checkpoint::read_to_write(folder)?;
    Ok(Checkpoint {
        encoder: read.encoder.without_head(),
        labels: Vec::new(),
        loss: None,
        family: read.family,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::{
        checkpoint::Family,
        encoder::{Encoder, Shape},
        testing::{arguments, tiny},
    };

    fn write(folder: &Path, mut encoder: Encoder, value: f32, tokenizer: &str) {
        encoder.weights.words.fill(value);
        encoder.weights.dense.fill(-value);
        let checkpoint = Checkpoint {
            encoder,
            labels: vec!["joy".to_owned(), "anger".to_owned()],
            loss: None,
            family: Family::XlmRoberta,
        };
        fs::create_dir(folder).unwrap();
        checkpoint.write(folder).unwrap();
        fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
    }

    #[test]
    fn the_mean_has_no_head_and_checkpoints_of_different_shapes_are_refused() {
        let kept = tempfile::tempdir().unwrap();
        let folder = |name: &str| kept.path().join(name);
        let of_width = |intermediate| {
            Encoder::zeros(Shape {
                intermediate,
                positions: 16,
                ..tiny().shape
            })
        };
        for (name, encoder, value, tokenizer) in [
            ("a", of_width(4), 1.0, "{}"),
            ("b", of_width(4), 4.0, "{}"),
            ("wider", of_width(8), 1.0, "{}"),
            ("other-words", of_width(4), 1.0, "{ }"),
        ] {
            write(&folder(name), encoder, value, tokenizer);
        }
        let average = |names: &[&str], out: &str| {
            let mut words = vec!["--out".into(), folder(out).into_os_string()];
            for name in names {
                words.extend(["--checkpoint".into(), folder(name).into_os_string()]);
            }
            run(arguments(words).unwrap())
        };
        average(&["a", "b"], "mean").unwrap();
        let mean = Checkpoint::read(&folder("mean")).unwrap();
        assert!(mean.labels.is_empty() && mean.family == Family::XlmRoberta);
        let encoder = mean.encoder;
        assert!(encoder.weights.words.iter().all(|&word| (word - 2.5).abs() < 1e-6));
        let body = &encoder.weights.dense[..encoder.layout.dense.start];
        assert!(!body.is_empty() && body.iter().all(|&weight| (weight + 2.5).abs() < 1e-6));
        assert!(folder("mean/tokenizer.json").exists());

        for names in [&["a"][..], &["a", "wider"], &["a", "other-words"]] {
            let error = average(names, "refused").unwrap_err().to_string();
            assert!(
                error.contains("two or more") || error.contains("can't be averaged"),
                "{error}"
            );
            assert!(!folder("refused").exists());
        }
    }
}
