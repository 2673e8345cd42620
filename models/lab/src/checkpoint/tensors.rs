//! An encoder's weights as a safetensors file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use safetensors::{Dtype, tensor::TensorView};

use super::file::File;
use crate::{
    encoder::{Encoder, Shape},
    files,
};

impl File<'_> {
    pub(super) fn encoder(&self, shape: Shape) -> Result<Encoder> {
        let prefix = ["roberta.", "bert.", "mpnet.", ""]
            .into_iter()
            .find(|prefix| {
                self.tensors
                    .tensor(&format!("{prefix}embeddings.word_embeddings.weight"))
                    .is_ok()
            })
            .with_context(|| {
                format!(
                    "{}: tensor embeddings.word_embeddings.weight is absent",
                    self.path.display()
                )
            })?;
        self.check_sizes(prefix, &shape)?;
        let mut encoder = Encoder::zeros(shape);
        let shape = encoder.shape.clone();
        let words = format!("{prefix}embeddings.word_embeddings.weight");
        encoder.weights.words = self.values(&words, &[shape.vocabulary, shape.hidden])?;
        for tensor in &encoder.layout.tensors {
            if tensor.is_head() && shape.labels == 0 || tensor.place.is_empty() {
                continue;
            }
            let prefix = if tensor.is_head() { "" } else { prefix };
            let values = self.values(&stored_name(prefix, &tensor.name, &shape), &tensor.shape)?;
            let place = &mut encoder.weights.dense[tensor.place.clone()];
            if tensor.transposed {
                place.copy_from_slice(&transposed(&values, tensor.shape[0], tensor.shape[1]));
            } else {
                place.copy_from_slice(&values);
            }
        }
        let name = format!("{prefix}embeddings.token_type_embeddings.weight");
        if let Ok(types) = self.tensors.tensor(&name) {
            let types = self.values(&name, types.shape())?;
            ensure!(
                types.len() >= shape.hidden,
                "{}: tensor {name} is empty",
                self.path.display()
            );
            let positions = &mut encoder.weights.dense[encoder.layout.positions.clone()];
            for row in positions.chunks_exact_mut(shape.hidden) {
                for (value, kind) in row.iter_mut().zip(&types) {
                    *value += kind;
                }
            }
        }
        Ok(encoder)
    }

    /// Refuses sizes that the file's tensors don't have before memory of these sizes is taken.
    fn check_sizes(&self, prefix: &str, shape: &Shape) -> Result<()> {
        let hidden = shape.hidden;
        let check = |name: &str, dims: &[usize]| self.tensor(&stored_name(prefix, name, shape), dims).map(drop);
        check("embeddings.word_embeddings.weight", &[shape.vocabulary, hidden])?;
        check("embeddings.position_embeddings.weight", &[shape.positions, hidden])?;
        for layer in 0..shape.layers {
            let layer = format!("encoder.layer.{layer}");
            check(&format!("{layer}.attention.self.query.weight"), &[hidden, hidden])?;
            check(
                &format!("{layer}.intermediate.dense.weight"),
                &[shape.intermediate, hidden],
            )?;
        }
        Ok(())
    }
}

/// A matrix of so many rows and columns the other way round.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
        .collect()
}

/// What a checkpoint calls a tensor of an encoder of that shape.
fn stored_name(prefix: &str, name: &str, shape: &Shape) -> String {
    // MPNet, which alone has relative positions, calls the parts of attention so.
    const MPNET: [(&str, &str); 5] = [
        ("attention.self.query.", "attention.attn.q."),
        ("attention.self.key.", "attention.attn.k."),
        ("attention.self.value.", "attention.attn.v."),
        ("attention.output.dense.", "attention.attn.o."),
        ("attention.output.LayerNorm.", "attention.LayerNorm."),
    ];
    let renamed = MPNET.into_iter().filter(|_| shape.relative_buckets > 0);
    let renamed = renamed.fold(name.to_owned(), |name, (bert, mpnet)| name.replace(bert, mpnet));
    format!("{prefix}{renamed}")
}

pub(super) fn write_encoder(encoder: &Encoder, path: &Path) -> Result<()> {
    let shape = &encoder.shape;
    let family = if shape.relative_buckets > 0 {
        "mpnet."
    } else {
        "roberta."
    };
    let mut tensors = vec![(
        format!("{family}embeddings.word_embeddings.weight"),
        vec![shape.vocabulary, shape.hidden],
        le_bytes(&encoder.weights.words),
    )];
    if shape.relative_buckets == 0 {
        tensors.push((
            format!("{family}embeddings.token_type_embeddings.weight"),
            vec![1, shape.hidden],
            le_bytes(&vec![0.0; shape.hidden]),
        ));
    }
    for tensor in &encoder.layout.tensors {
        if tensor.is_head() && shape.labels == 0 || tensor.place.is_empty() {
            continue;
        }
        let prefix = if tensor.is_head() { "" } else { family };
        let values = &encoder.weights.dense[tensor.place.clone()];
        let bytes = if tensor.transposed {
            le_bytes(&transposed(values, tensor.shape[1], tensor.shape[0]))
        } else {
            le_bytes(values)
        };
        tensors.push((stored_name(prefix, &tensor.name, shape), tensor.shape.clone(), bytes));
    }
    write_tensors(&tensors, path)
}

/// Writes named `f32` tensors, given as little-endian bytes, with the metadata that `transformers`
/// asks for.
pub(crate) fn write_tensors(tensors: &[(String, Vec<usize>, Vec<u8>)], path: &Path) -> Result<()> {
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(views, Some(metadata)).context("can't serialise the tensors")?;
    Ok(files::write(path, &bytes)?)
}

pub(crate) fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
