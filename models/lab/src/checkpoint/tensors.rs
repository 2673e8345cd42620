//! An encoder's weights as a safetensors file.

use std::path::Path;

use anyhow::{Context, Result};
use safetensors::{Dtype, tensor::TensorView};

use super::{Family, File, TensorError};
use crate::{
    encoder::{Encoder, Shape},
    files,
};

/// An encoder as its file holds it.
pub(crate) struct StoredEncoder {
    /// Without token types.
    pub(crate) encoder: Encoder,
    /// The embeddings of the token types, `types x hidden`; empty where the file has none.
    pub(crate) types: Vec<f32>,
}

impl StoredEncoder {
    /// The encoder with the embedding of token type 0 added to each position.
    pub(crate) fn with_first_type(self) -> Encoder {
        let mut encoder = self.encoder;
        let positions = &mut encoder.weights.dense[encoder.layout.positions.clone()];
        for row in positions.chunks_exact_mut(encoder.shape.hidden) {
            for (value, kind) in row.iter_mut().zip(&self.types) {
                *value += kind;
            }
        }
        encoder
    }
}

impl File<'_> {
    /// The encoder, and its head where the shape has labels.
    pub(crate) fn encoder(&self, family: Family, shape: Shape) -> Result<StoredEncoder, TensorError> {
        let words = "embeddings.word_embeddings.weight";
        let is_bare = self.tensors.tensor(words).is_ok();
        let prefix = if is_bare { "" } else { family.prefix() };
        self.check_sizes(family, prefix, &shape)?;
        let mut encoder = Encoder::zeros(shape);
        let shape = &encoder.shape;
        encoder.weights.words = self.values(&format!("{prefix}{words}"), &[shape.vocabulary, shape.hidden])?;
        for tensor in &encoder.layout.tensors {
            if tensor.is_head() && shape.labels == 0 || tensor.place.is_empty() {
                continue;
            }
            let values = self.values(&family.stored_name(prefix, &tensor.name), &tensor.shape)?;
            let place = &mut encoder.weights.dense[tensor.place.clone()];
            if tensor.transposed {
                place.copy_from_slice(&transposed(&values, tensor.shape[0], tensor.shape[1]));
            } else {
                place.copy_from_slice(&values);
            }
        }
        let types = format!("{prefix}embeddings.token_type_embeddings.weight");
        let types = match self.tensors.tensor(&types) {
            Ok(_) => self.values(&types, &[self.rows(&types)?, shape.hidden])?,
            Err(_) => Vec::new(),
        };
        Ok(StoredEncoder { encoder, types })
    }

    /// Refuses sizes that the file's tensors don't have before memory of these sizes is taken.
    fn check_sizes(&self, family: Family, prefix: &str, shape: &Shape) -> Result<(), TensorError> {
        let hidden = shape.hidden;
        let check = |name: &str, dims: &[usize]| self.tensor(&family.stored_name(prefix, name), dims).map(drop);
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

/// The transpose of a matrix.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
        .collect()
}

impl Family {
    /// The prefix of the encoder's tensors in a checkpoint with a head.
    fn prefix(self) -> &'static str {
        match self {
            Self::Roberta | Self::XlmRoberta => "roberta.",
            Self::MpNet => "mpnet.",
            Self::Bert => "bert.",
            Self::DistilBert => "distilbert.",
        }
    }

    /// The name in a checkpoint of the tensor that [`Layout`](crate::encoder::Layout) names so.
    pub(crate) fn stored_name(self, prefix: &str, name: &str) -> String {
        let renamed = self.names().iter().find_map(|(ours, theirs)| {
            let (before, after) = name.split_once(ours)?;
            Some(format!("{before}{theirs}{after}"))
        });
        let name = renamed.unwrap_or_else(|| name.to_owned());
        let is_head = name.starts_with("classifier.") || name.starts_with("pre_classifier.");
        match (is_head, self) {
            (true, _) => name,
            (false, Self::DistilBert) => format!("{prefix}{}", name.replace("encoder.layer.", "transformer.layer.")),
            (false, _) => format!("{prefix}{name}"),
        }
    }

    /// Parts of names in RoBERTa and what stands in their place; the first that occurs counts.
    fn names(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Roberta | Self::XlmRoberta => &[],
            Self::MpNet => &[
                ("attention.self.query.", "attention.attn.q."),
                ("attention.self.key.", "attention.attn.k."),
                ("attention.self.value.", "attention.attn.v."),
                ("attention.output.dense.", "attention.attn.o."),
                ("attention.output.LayerNorm.", "attention.LayerNorm."),
            ],
            Self::Bert => &[
                ("classifier.dense.", "pooler.dense."),
                ("classifier.out_proj.", "classifier."),
            ],
            Self::DistilBert => &[
                ("attention.self.query.", "attention.q_lin."),
                ("attention.self.key.", "attention.k_lin."),
                ("attention.self.value.", "attention.v_lin."),
                ("attention.output.dense.", "attention.out_lin."),
                ("attention.output.LayerNorm.", "sa_layer_norm."),
                ("intermediate.dense.", "ffn.lin1."),
                ("output.dense.", "ffn.lin2."),
                ("output.LayerNorm.", "output_layer_norm."),
                ("classifier.dense.", "pre_classifier."),
                ("classifier.out_proj.", "classifier."),
            ],
        }
    }
}

pub(super) fn write_encoder(encoder: &Encoder, family: Family, path: &Path) -> Result<()> {
    let shape = &encoder.shape;
    // BERT becomes a RoBERTa.
    let family = match family {
        Family::MpNet => Family::MpNet,
        _ => Family::Roberta,
    };
    let prefix = family.prefix();
    let mut tensors = vec![(
        format!("{prefix}embeddings.word_embeddings.weight"),
        vec![shape.vocabulary, shape.hidden],
        le_bytes(&encoder.weights.words),
    )];
    if family != Family::MpNet {
        tensors.push((
            format!("{prefix}embeddings.token_type_embeddings.weight"),
            vec![1, shape.hidden],
            le_bytes(&vec![0.0; shape.hidden]),
        ));
    }
    for tensor in &encoder.layout.tensors {
        if tensor.is_head() && shape.labels == 0 || tensor.place.is_empty() {
            continue;
        }
        let values = &encoder.weights.dense[tensor.place.clone()];
        let bytes = if tensor.transposed {
            le_bytes(&transposed(values, tensor.shape[1], tensor.shape[0]))
        } else {
            le_bytes(values)
        };
        tensors.push((family.stored_name(prefix, &tensor.name), tensor.shape.clone(), bytes));
    }
    write_tensors(&tensors, path)
}

/// Writes named `f32` tensors, given as little-endian bytes, with the metadata that `transformers`
/// requires.
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
