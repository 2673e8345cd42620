//! The classifier's own arithmetic, in `f32`, outside any runtime.
//!
//! It is what a graph is compared with, and where calibration reads the activations from. Texts are not padded:
//! their tokens lie one below the other in one matrix, and only attention looks at the texts one by one.

use ndarray::{Array1, Array2, ArrayView1, Axis, Slice, concatenate};

use super::checkpoint::{Classifier, HeadActivation, Layer, LayerNorm, Linear};
use crate::encoder::Pooling;

/// A product of a layer whose input is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Site {
    /// Into queries, keys and values.
    Attention,
    /// From the heads' mixed values back to the width of the encoder.
    AttentionOutput,
    /// Into the feed-forward part.
    Intermediate,
    /// Out of it, after GELU.
    Output,
}

/// Token ids of several texts, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    ids: Vec<usize>,
    /// Where each text ends in `ids`.
    ends: Vec<usize>,
}

impl Tokens {
    pub(crate) fn push(&mut self, ids: &[u32]) {
        self.ids.extend(ids.iter().map(|&id| id as usize));
        self.ends.push(self.ids.len());
    }

    fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| start..end)
    }
}

/// The logits of each text, `[texts, labels]`; `watch` sees the input of each product of each layer, one token a row.
///
/// Ids must be below the vocabulary and texts no longer than the positions reach: the caller tokenised for this model.
pub(crate) fn logits(
    model: &Classifier,
    tokens: &Tokens,
    mut watch: impl FnMut(usize, Site, &Array2<f32>),
) -> Array2<f32> {
    let mut hidden = model.word_embeddings.select(Axis(0), &tokens.ids);
    for range in tokens.ranges() {
        // Padding never reaches this far, so the positions of a text simply count up.
        let first = model.first_position();
        let positions = model
            .position_embeddings
            .slice_axis(Axis(0), Slice::from(first..first + range.len()));
        let mut rows = hidden.slice_axis_mut(Axis(0), range.into());
        rows += &positions;
    }
    if let Some(types) = &model.type_embeddings {
        hidden += &types.row(0);
    }
    normalise(&mut hidden, &model.embedding_norm, model.norm_epsilon);

    for (index, layer) in model.layers.iter().enumerate() {
        watch(index, Site::Attention, &hidden);
        let context = attention(model, layer, &hidden, tokens);
        watch(index, Site::AttentionOutput, &context);
        hidden += &layer.attention_output.apply(&context);
        normalise(&mut hidden, &layer.attention_norm, model.norm_epsilon);

        watch(index, Site::Intermediate, &hidden);
        let mut inner = layer.intermediate.apply(&hidden);
        inner.mapv_inplace(gelu);
        watch(index, Site::Output, &inner);
        hidden += &layer.output.apply(&inner);
        normalise(&mut hidden, &layer.output_norm, model.norm_epsilon);
    }

    let firsts: Vec<usize> = tokens.ranges().map(|range| range.start).collect();
    let mut seen = hidden.select(Axis(0), &firsts);
    if model.pooling == Pooling::Mean {
        for (mut row, range) in seen.rows_mut().into_iter().zip(tokens.ranges()) {
            let states = hidden.slice_axis(Axis(0), range.into());
            row.assign(&states.mean_axis(Axis(0)).unwrap_or_default());
        }
    }
    let mut pooled = model.head_dense.apply(&seen);
    pooled.mapv_inplace(match model.head_activation {
        HeadActivation::Tanh => f32::tanh,
        HeadActivation::Relu => |x: f32| x.max(0.0),
    });
    model.head_output.apply(&pooled)
}

impl Linear {
    pub(crate) fn apply(&self, x: &Array2<f32>) -> Array2<f32> {
        x.dot(&self.weight) + &self.bias
    }
}

impl Layer {
    /// Queries, keys and values as one product, `[width, 3 width]`.
    pub(crate) fn query_key_value(&self) -> Linear {
        let parts = [&self.query, &self.key, &self.value];
        let weights = parts.map(|part| part.weight.view());
        let biases = parts.map(|part| part.bias.view());
        // The three have one shape, checked where the checkpoint was read; else nothing would be joined.
        let weight = concatenate(Axis(1), &weights).unwrap_or_default();
        Linear {
            weight,
            bias: concatenate(Axis(0), &biases).unwrap_or_default(),
        }
    }
}

fn attention(model: &Classifier, layer: &Layer, hidden: &Array2<f32>, tokens: &Tokens) -> Array2<f32> {
    let (query, key, value) = (
        layer.query.apply(hidden),
        layer.key.apply(hidden),
        layer.value.apply(hidden),
    );
    let size = model.width() / model.heads;
    let scale = 1.0 / (size as f32).sqrt();
    let mut context = Array2::zeros(hidden.raw_dim());
    for range in tokens.ranges() {
        for head in 0..model.heads {
            let columns = Slice::from(head * size..(head + 1) * size);
            let part = |x: &'_ Array2<f32>| {
                x.slice_axis(Axis(0), Slice::from(range.clone()))
                    .slice_axis(Axis(1), columns)
                    .to_owned()
            };
            let mut weights = part(&query).dot(&part(&key).t()) * scale;
            if let Some(relative) = &model.relative {
                add_relative(&mut weights, relative.row(head));
            }
            for mut row in weights.rows_mut() {
                let top = row.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                row.mapv_inplace(|x| (x - top).exp());
                let sum = row.sum();
                row /= sum;
            }
            let mut rows = context.slice_axis_mut(Axis(0), Slice::from(range.clone()));
            rows.slice_axis_mut(Axis(1), columns)
                .assign(&weights.dot(&part(&value)));
        }
    }
    context
}

/// Adds to the scores of a text what `gains`, by distance, give them.
fn add_relative(scores: &mut Array2<f32>, gains: ArrayView1<'_, f32>) {
    let (tokens, middle) = (scores.ncols(), gains.len() / 2);
    for (token, mut row) in scores.rows_mut().into_iter().enumerate() {
        row += &gains.slice_axis(Axis(0), Slice::from(middle - token..middle - token + tokens));
    }
}

fn normalise(x: &mut Array2<f32>, norm: &LayerNorm, epsilon: f32) {
    for mut row in x.rows_mut() {
        let mean = row.mean().unwrap_or(0.0);
        row -= mean;
        let variance = mean_square(row.view());
        row /= (variance + epsilon).sqrt();
        row *= &norm.gain;
        row += &norm.offset;
    }
}

fn mean_square(row: ArrayView1<'_, f32>) -> f32 {
    row.dot(&row) / row.len() as f32
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The index of the largest value: the label.
pub(crate) fn argmax(row: ArrayView1<'_, f32>) -> usize {
    row.iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .map_or(0, |(index, _)| index)
}

/// The largest magnitude of each column.
pub(crate) fn column_maxima(x: &Array2<f32>) -> Array1<f32> {
    x.fold_axis(Axis(0), 0.0_f32, |top, value| top.max(value.abs()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::path::Path;

    use super::*;

    #[test]
    fn logits_are_those_of_transformers() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
        for family in ["roberta", "xlm-roberta", "bert", "distilbert", "mpnet", "mpnet-mean"] {
            let model = Classifier::open(&fixtures.join(family)).unwrap();
            let bytes = std::fs::read(fixtures.join(family).join("expected.json")).unwrap();
            let expected: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let rows = |name: &str| -> Vec<Vec<f64>> { serde_json::from_value(expected[name].clone()).unwrap() };
            let mut tokens = Tokens::default();
            for (ids, mask) in rows("input_ids").iter().zip(rows("attention_mask")) {
                let real: Vec<u32> = ids
                    .iter()
                    .zip(mask)
                    .filter(|(_, mask)| *mask > 0.0)
                    .map(|(&id, _)| id as u32)
                    .collect();
                tokens.push(&real);
            }
            let mut seen = 0;
            let logits = logits(&model, &tokens, |_, _, _| seen += 1);
            assert_eq!(seen, 4 * model.layers.len());
            for (ours, theirs) in logits.iter().zip(rows("logits").concat()) {
                assert!(
                    (f64::from(*ours) - theirs).abs() < 1e-5,
                    "{family}: {ours} against {theirs}"
                );
            }
        }
    }
}
