//! A classifier checkpoint in the form that the graph writers need.
//!
//! Training, calibration and the measurement of agreement all use the same [`Encoder`]. Graphs need its matrices transposed,
//! so [`Classifier`] returns transposed copies. A graph is a second description of the same arithmetic, which can't be
//! avoided, because ONNX Runtime executes operators. Tests compare both with the logits of `transformers`.

use std::ops::Range;
use std::path::Path;

use ndarray::{Array1, Array2, Axis, concatenate};

use super::error::ExportError;
use crate::checkpoint::{Config, ConfigFault, Family, with_tensors};
use crate::encoder::{Encoder, Pooling, Product, bucket};

/// `y = x W + b`, with `W` as `[inputs, outputs]`: the transpose of how a checkpoint holds it.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Array2<f32>,
    pub(crate) bias: Array1<f32>,
}

/// The gain and offset of a layer normalisation.
#[derive(Debug, Clone)]
pub(crate) struct LayerNorm {
    pub(crate) gain: Array1<f32>,
    pub(crate) offset: Array1<f32>,
}

/// One layer of the encoder.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) attention_output: Linear,
    pub(crate) attention_norm: LayerNorm,
    pub(crate) intermediate: Linear,
    pub(crate) output: Linear,
    pub(crate) output_norm: LayerNorm,
}

impl Layer {
    /// Queries, keys and values as one product, `[width, 3 width]`.
    pub(crate) fn query_key_value(&self) -> Linear {
        let parts = [&self.query, &self.key, &self.value];
        let weights = parts.map(|part| part.weight.view());
        let biases = parts.map(|part| part.bias.view());
        // The three have one shape, or nothing would be joined.
        Linear {
            weight: concatenate(Axis(1), &weights).unwrap_or_default(),
            bias: concatenate(Axis(0), &biases).unwrap_or_default(),
        }
    }

    /// Like [`Self::query_key_value`], but each head's query, key and value are next to each other: the outputs are
    /// `[heads, 3, width of one]`. The bias is not reordered.
    pub(crate) fn query_key_value_by_head(&self, heads: usize) -> Linear {
        let joined = self.query_key_value();
        let width = joined.bias.len() / 3;
        let head = width / heads.max(1);
        let order: Vec<usize> = (0..heads)
            .flat_map(|at| (0..3).flat_map(move |part| (0..head).map(move |x| part * width + at * head + x)))
            .collect();
        Linear {
            weight: joined.weight.select(Axis(1), &order),
            bias: joined.bias,
        }
    }

    /// The weights of one of the layer's products.
    pub(crate) fn product(self, product: Product) -> Linear {
        match product {
            Product::QueryKeyValue => self.query_key_value(),
            Product::AttentionOutput => self.attention_output,
            Product::Intermediate => self.intermediate,
            Product::Output => self.output,
        }
    }
}

/// A classifier's weights, and what else a graph needs.
#[derive(Debug, Clone)]
pub struct Classifier {
    /// With its head; the embedding of token type 0 is part of its positions.
    pub(crate) encoder: Encoder,
    pub(crate) family: Family,
    pub(crate) pad_token_id: i64,
    /// `[positions, width]`; a token type that every token has is already added.
    pub(crate) position_embeddings: Array2<f32>,
    /// `[types, width]`, where they are an input of the model.
    pub(crate) type_embeddings: Option<Array2<f32>>,
}

impl Classifier {
    /// Reads `config.json` and `model.safetensors` of the folder `checkpoint`.
    ///
    /// # Errors
    ///
    /// When a file, field or tensor is absent, a tensor has another shape than the configuration says, or the
    /// configuration asks for something else than the lab computes (another activation, another kind of positions).
    pub fn open(checkpoint: &Path) -> Result<Self, ExportError> {
        let config = Config::read(checkpoint)?;
        let family = config.family;
        let classifier = with_tensors(checkpoint, |file| {
            let output = family.stored_name("", "classifier.out_proj.weight");
            let labels = file.rows(&output)?;
            let named = config.labels.len();
            if named > 0 && named != labels {
                return Err(config.error(ConfigFault::Labels {
                    named,
                    tensor: output,
                    rows: labels,
                }));
            }
            let stored = file.encoder(family, config.shape.clone().with_labels(labels))?;
            let width = config.shape.hidden;
            // Other families have one type of tokens only, which is a constant of each position.
            let types_are_input = family == Family::Bert && !stored.types.is_empty();
            let type_embeddings = types_are_input.then(|| matrix(&stored.types, stored.types.len() / width, width));
            let positions = |encoder: &Encoder| {
                let values = &encoder.weights.dense[encoder.layout.positions.clone()];
                matrix(values, encoder.shape.positions, width)
            };
            let without_types = types_are_input.then(|| positions(&stored.encoder));
            let encoder = stored.with_first_type();
            Ok(Self {
                position_embeddings: without_types.unwrap_or_else(|| positions(&encoder)),
                type_embeddings,
                encoder,
                family,
                pad_token_id: config.pad_token_id,
            })
        })?;
        Ok(classifier)
    }

    /// Entries of the vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.encoder.shape.vocabulary
    }

    /// Width of the encoder.
    #[must_use]
    pub fn width(&self) -> usize {
        self.encoder.shape.hidden
    }

    /// How many labels it tells apart.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.encoder.shape.labels
    }

    /// The longest input, in tokens.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.encoder.shape.longest()
    }

    pub(crate) fn heads(&self) -> usize {
        self.encoder.shape.heads
    }

    /// The number of layers.
    pub(crate) fn layers(&self) -> usize {
        self.encoder.shape.layers
    }

    pub(crate) fn norm_epsilon(&self) -> f32 {
        self.encoder.shape.epsilon
    }

    pub(crate) fn pooling(&self) -> Pooling {
        self.encoder.shape.pooling
    }

    /// `[vocabulary, width]`
    pub(crate) fn word_embeddings(&self) -> Array2<f32> {
        matrix(&self.encoder.weights.words, self.vocabulary(), self.width())
    }

    pub(crate) fn embedding_norm(&self) -> LayerNorm {
        let layout = &self.encoder.layout;
        self.norm(&layout.scale, &layout.shift)
    }

    /// The bias of attention scores for relative positions, if the model has them: `[heads, 2 max_tokens - 1]`, for keys from
    /// `max_tokens - 1` tokens before to `max_tokens - 1` tokens after the query.
    pub(crate) fn relative(&self) -> Option<Array2<f32>> {
        let buckets = self.encoder.shape.relative_buckets;
        if buckets == 0 {
            return None;
        }
        let table = matrix(self.values(&self.encoder.layout.relative), buckets, self.heads());
        let farthest = self.max_tokens().cast_signed();
        let rows: Vec<usize> = (1 - farthest..farthest)
            .map(|distance| bucket(distance, buckets))
            .collect();
        Some(table.select(Axis(0), &rows).reversed_axes())
    }

    /// The weights of a layer, from 0 on.
    pub(crate) fn layer(&self, index: usize) -> Layer {
        let places = &self.encoder.layout.layers[index];
        Layer {
            query: self.linear(&places.query, &places.query_bias),
            key: self.linear(&places.key, &places.key_bias),
            value: self.linear(&places.value, &places.value_bias),
            attention_output: self.linear(&places.attention_output, &places.attention_output_bias),
            attention_norm: self.norm(&places.attention_norm_scale, &places.attention_norm_shift),
            intermediate: self.linear(&places.up, &places.up_bias),
            // The encoder holds this one as `[inputs, outputs]`.
            output: Linear {
                weight: matrix(self.values(&places.down), self.encoder.shape.intermediate, self.width()),
                bias: self.vector(&places.down_bias),
            },
            output_norm: self.norm(&places.scale, &places.shift),
        }
    }

    /// The first product of the head.
    pub(crate) fn head_dense(&self) -> Linear {
        let layout = &self.encoder.layout;
        self.linear(&layout.dense, &layout.dense_bias)
    }

    /// The product of the head that gives the logits.
    pub(crate) fn head_output(&self) -> Linear {
        let layout = &self.encoder.layout;
        self.linear(&layout.out, &layout.out_bias)
    }

    fn values(&self, place: &Range<usize>) -> &[f32] {
        &self.encoder.weights.dense[place.clone()]
    }

    fn vector(&self, place: &Range<usize>) -> Array1<f32> {
        self.values(place).to_vec().into()
    }

    fn linear(&self, weight: &Range<usize>, bias: &Range<usize>) -> Linear {
        let stored = matrix(self.values(weight), bias.len(), weight.len() / bias.len().max(1));
        Linear {
            weight: stored.t().as_standard_layout().into_owned(),
            bias: self.vector(bias),
        }
    }

    fn norm(&self, gain: &Range<usize>, offset: &Range<usize>) -> LayerNorm {
        LayerNorm {
            gain: self.vector(gain),
            offset: self.vector(offset),
        }
    }
}

fn matrix(values: &[f32], rows: usize, columns: usize) -> Array2<f32> {
    // There are as many values as the shape says, so this can't fail.
    Array2::from_shape_vec((rows, columns), values.to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::encoder::{Head, Packed, Pass};

    #[test]
    fn logits_are_those_of_transformers_in_every_family() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
        for family in ["roberta", "xlm-roberta", "bert", "distilbert", "mpnet", "mpnet-mean"] {
            let model = Classifier::open(&fixtures.join(family)).unwrap();
            let bytes = std::fs::read(fixtures.join(family).join("expected.json")).unwrap();
            let expected: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let rows = |name: &str| -> Vec<Vec<f64>> { serde_json::from_value(expected[name].clone()).unwrap() };
            let texts: Vec<Vec<u32>> = rows("input_ids")
                .iter()
                .zip(rows("attention_mask"))
                .map(|(ids, mask)| {
                    let real = ids.iter().zip(mask).filter(|(_, mask)| *mask > 0.0);
                    real.map(|(&id, _)| id as u32).collect()
                })
                .collect();
            let texts: Packed = texts.iter().map(Vec::as_slice).collect();
            let (mut pass, mut head) = (Pass::default(), Head::default());
            let mut watched = Vec::new();
            pass.infer(&model.encoder, &texts, |layer, _| watched.push(layer));
            assert_eq!(watched, (0..model.layers()).collect::<Vec<_>>());
            let logits = head.forward(&model.encoder, &texts, &pass);
            let expected = rows("logits").concat();
            assert_eq!(logits.len(), expected.len());
            for (ours, theirs) in logits.iter().zip(expected) {
                assert!(
                    (f64::from(*ours) - theirs).abs() < 2e-5,
                    "{family}: {ours} against {theirs}"
                );
            }
        }
    }

    #[test]
    fn the_inputs_of_products_lead_to_the_states_that_follow() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
        let model = Classifier::open(&fixtures.join("bert")).unwrap();
        let texts: Packed = [&[2_u32, 9, 10, 3][..], &[2, 50, 3]].into_iter().collect();
        let mut inputs: Vec<Vec<Vec<f32>>> = Vec::new();
        let products = [
            Product::QueryKeyValue,
            Product::AttentionOutput,
            Product::Intermediate,
            Product::Output,
        ];
        Pass::default().infer(&model.encoder, &texts, |_, layer| {
            let rows = products.map(|product| {
                let mut rows = Vec::new();
                (0..texts.len()).for_each(|token| layer.append(product, token, &mut rows));
                rows
            });
            inputs.push(rows.to_vec());
        });
        let layer = model.layer(0);
        let tokens = texts.len();
        let rows = |values: &[f32]| matrix(values, tokens, values.len() / tokens);
        let apply = |linear: &Linear, x: &[f32]| rows(x).dot(&linear.weight) + &linear.bias;
        let normalised = |mut x: Array2<f32>, norm: &LayerNorm| {
            for mut row in x.rows_mut() {
                let mean = row.mean().unwrap();
                row -= mean;
                let variance = row.dot(&row) / row.len() as f32;
                row /= (variance + model.norm_epsilon()).sqrt();
            }
            x * &norm.gain + &norm.offset
        };
        let close = |found: &Array2<f32>, expected: &[f32]| {
            let distance = (found - &rows(expected)).fold(0.0_f32, |top, x| top.max(x.abs()));
            assert!(distance < 1e-5, "{distance}");
        };
        let [states, context, mixed, inner] = &inputs[0][..] else {
            unreachable!()
        };
        let attended = apply(&layer.attention_output, context) + rows(states);
        close(&normalised(attended, &layer.attention_norm), mixed);
        let gelu = |x: f32| 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2));
        close(&apply(&layer.intermediate, mixed).mapv(gelu), inner);
        let out = apply(&layer.output, inner) + rows(mixed);
        close(&normalised(out, &layer.output_norm), &inputs[1][0]);
    }
}
