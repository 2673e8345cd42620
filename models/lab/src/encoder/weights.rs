//! The weights of an encoder in two flat buffers, and the place of each tensor in them.

use std::ops::Range;

use crate::encoder::Shape;

/// The places of the tensors of one transformer layer in [`Weights::dense`].
///
/// Matrices are `out x in`, as in PyTorch's `nn.Linear`, except for `down`, which is `in x out`, so that the blocks of the
/// feed-forward layer are contiguous.
#[derive(Debug, Clone)]
pub struct LayerPlaces {
    /// Query matrix, `hidden x hidden`.
    pub query: Range<usize>,
    /// Query bias.
    pub query_bias: Range<usize>,
    /// Key matrix, `hidden x hidden`.
    pub key: Range<usize>,
    /// Key bias.
    pub key_bias: Range<usize>,
    /// Value matrix, `hidden x hidden`.
    pub value: Range<usize>,
    /// Value bias.
    pub value_bias: Range<usize>,
    /// Attention's output matrix, `hidden x hidden`.
    pub attention_output: Range<usize>,
    /// Attention's output bias.
    pub attention_output_bias: Range<usize>,
    /// Scale of the layer norm after attention.
    pub attention_norm_scale: Range<usize>,
    /// Shift of the layer norm after attention.
    pub attention_norm_shift: Range<usize>,
    /// Feed-forward matrix into the inner width, `intermediate x hidden`.
    pub up: Range<usize>,
    /// Its bias.
    pub up_bias: Range<usize>,
    /// Feed-forward matrix back, transposed: `intermediate x hidden`.
    pub down: Range<usize>,
    /// Its bias.
    pub down_bias: Range<usize>,
    /// Scale of the layer norm after the feed-forward layer.
    pub scale: Range<usize>,
    /// Shift of the layer norm after the feed-forward layer.
    pub shift: Range<usize>,
}

/// The places of all tensors in [`Weights::dense`].
#[derive(Debug, Clone)]
pub struct Layout {
    /// Position embeddings, `positions x hidden`.
    pub positions: Range<usize>,
    /// Scale of the embeddings' layer norm.
    pub scale: Range<usize>,
    /// Shift of the embeddings' layer norm.
    pub shift: Range<usize>,
    /// The bias of attention scores by distance, `buckets x heads`; empty without relative positions.
    pub relative: Range<usize>,
    /// The layers, lowest first.
    pub layers: Vec<LayerPlaces>,
    /// The head's first matrix, `hidden x hidden`.
    pub dense: Range<usize>,
    /// Its bias.
    pub dense_bias: Range<usize>,
    /// The head's last matrix, `labels x hidden`; empty without labels.
    pub out: Range<usize>,
    /// Its bias.
    pub out_bias: Range<usize>,
    /// Every tensor in order, with its name in a checkpoint.
    pub tensors: Vec<Tensor>,
    /// The number of elements.
    pub length: usize,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The name below `roberta.` or, from `classifier.` on, at the top.
    pub name: String,
    /// Its shape in a checkpoint.
    pub shape: Vec<usize>,
    /// Its place.
    pub place: Range<usize>,
    /// Whether it is transposed here.
    pub transposed: bool,
}

impl Tensor {
    /// Whether AdamW's weight decay applies: to matrices, not to biases, norms or positions.
    #[must_use]
    pub fn decays(&self) -> bool {
        self.shape.len() == 2 && !self.name.contains("position") && !self.name.contains("bias")
    }

    /// Whether the tensor belongs to the classification head.
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.name.starts_with("classifier.")
    }
}

/// The name of the relative positions' table.
const RELATIVE: &str = "encoder.relative_attention_bias.weight";

/// Assigns places to tensors.
struct LayoutBuilder {
    tensors: Vec<Tensor>,
    end: usize,
}

impl LayoutBuilder {
    fn place(&mut self, name: String, shape: &[usize], transposed: bool) -> Range<usize> {
        let place = self.end..self.end + shape.iter().product::<usize>();
        self.end = place.end;
        self.tensors.push(Tensor {
            name,
            shape: shape.to_vec(),
            place: place.clone(),
            transposed,
        });
        place
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Range<usize> {
        self.place(name.to_owned(), shape, false)
    }

    fn layer(&mut self, index: usize, shape: &Shape) -> LayerPlaces {
        let (hidden, inner) = (shape.hidden, shape.intermediate);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let mut tensor =
            |part: &str, dimensions: &[usize]| self.place(name(part), dimensions, part == "output.dense.weight");
        LayerPlaces {
            query: tensor("attention.self.query.weight", &[hidden, hidden]),
            query_bias: tensor("attention.self.query.bias", &[hidden]),
            key: tensor("attention.self.key.weight", &[hidden, hidden]),
            key_bias: tensor("attention.self.key.bias", &[hidden]),
            value: tensor("attention.self.value.weight", &[hidden, hidden]),
            value_bias: tensor("attention.self.value.bias", &[hidden]),
            attention_output: tensor("attention.output.dense.weight", &[hidden, hidden]),
            attention_output_bias: tensor("attention.output.dense.bias", &[hidden]),
            attention_norm_scale: tensor("attention.output.LayerNorm.weight", &[hidden]),
            attention_norm_shift: tensor("attention.output.LayerNorm.bias", &[hidden]),
            up: tensor("intermediate.dense.weight", &[inner, hidden]),
            up_bias: tensor("intermediate.dense.bias", &[inner]),
            down: tensor("output.dense.weight", &[hidden, inner]),
            down_bias: tensor("output.dense.bias", &[hidden]),
            scale: tensor("output.LayerNorm.weight", &[hidden]),
            shift: tensor("output.LayerNorm.bias", &[hidden]),
        }
    }
}

impl Layout {
    /// The layout of an encoder of that shape.
    #[must_use]
    pub fn new(shape: &Shape) -> Self {
        let hidden = shape.hidden;
        let mut builder = LayoutBuilder {
            tensors: Vec::new(),
            end: 0,
        };
        let positions = builder.tensor("embeddings.position_embeddings.weight", &[shape.positions, hidden]);
        let scale = builder.tensor("embeddings.LayerNorm.weight", &[hidden]);
        let shift = builder.tensor("embeddings.LayerNorm.bias", &[hidden]);
        let relative = builder.tensor(RELATIVE, &[shape.relative_buckets, shape.heads]);
        let layers = (0..shape.layers).map(|index| builder.layer(index, shape)).collect();
        let dense = builder.tensor("classifier.dense.weight", &[hidden, hidden]);
        let dense_bias = builder.tensor("classifier.dense.bias", &[hidden]);
        let out = builder.tensor("classifier.out_proj.weight", &[shape.labels, hidden]);
        let out_bias = builder.tensor("classifier.out_proj.bias", &[shape.labels]);
        Self {
            positions,
            scale,
            shift,
            relative,
            layers,
            dense,
            dense_bias,
            out,
            out_bias,
            length: builder.end,
            tensors: builder.tensors,
        }
    }
}

impl Layout {
    /// The number of the tensor's layer from 1, or 0 for the embeddings.
    #[must_use]
    pub fn depth(&self, tensor: &Tensor) -> usize {
        let starts = self.layers.iter().map(|layer| layer.query.start);
        starts.take_while(|&start| start <= tensor.place.start).count()
    }
}

/// An encoder's weights.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Word embeddings, `vocabulary x hidden`. They are separate, because a step uses few rows.
    pub words: Vec<f32>,
    /// All other weights, in the places of [`Layout`].
    pub dense: Vec<f32>,
}

/// The gradients of a batch, or of one thread's share of it.
#[derive(Debug, Clone)]
pub struct Gradient {
    /// The gradient of [`Weights::dense`].
    pub dense: Vec<f32>,
    /// The gradients of the rows `ids` of [`Weights::words`], in that order.
    pub words: Vec<f32>,
    /// The rows of `words`, each once.
    pub ids: Vec<u32>,
    /// The position of each word in `ids`, or `u32::MAX`.
    places: Vec<u32>,
    width: usize,
    frozen: Frozen,
}

/// The weights that are not trained; a pass computes no gradients for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frozen {
    /// The word embeddings.
    pub words: bool,
    /// The number of frozen layers, from the lowest; if there are any, all embeddings are frozen as well.
    pub layers: usize,
}

impl Gradient {
    /// Gradients of zero for an encoder of that shape.
    #[must_use]
    pub fn new(shape: &Shape, layout: &Layout) -> Self {
        Self {
            dense: vec![0.0; layout.length],
            words: Vec::new(),
            ids: Vec::new(),
            places: vec![u32::MAX; shape.vocabulary],
            width: shape.hidden,
            frozen: Frozen::default(),
        }
    }

    /// The same without the gradients of frozen weights.
    #[must_use]
    pub fn freezing(self, frozen: Frozen) -> Self {
        Self { frozen, ..self }
    }

    /// The frozen weights.
    #[must_use]
    pub fn frozen(&self) -> Frozen {
        self.frozen
    }

    /// Resets all gradients to zero.
    pub fn clear(&mut self) {
        self.dense.fill(0.0);
        for &id in &self.ids {
            self.places[id as usize] = u32::MAX;
        }
        self.ids.clear();
        self.words.clear();
    }

    /// The gradient of the embedding of word `id`.
    pub fn word(&mut self, id: u32) -> &mut [f32] {
        let place = &mut self.places[id as usize];
        if *place == u32::MAX {
            *place = self.ids.len() as u32;
            self.ids.push(id);
            self.words.resize(self.ids.len() * self.width, 0.0);
        }
        let start = *place as usize * self.width;
        &mut self.words[start..start + self.width]
    }

    /// The gradients of all words in the order of the vocabulary. It is cheapest right after [`Gradient::clear`], since the
    /// rows need not be rearranged then.
    pub fn all_words(&mut self) -> &mut [f32] {
        let vocabulary = self.places.len();
        if !self.ids.iter().copied().eq(0..vocabulary as u32) {
            let mut all = vec![0.0; vocabulary * self.width];
            for (&id, row) in self.ids.iter().zip(self.words.chunks_exact(self.width)) {
                all[id as usize * self.width..][..self.width].copy_from_slice(row);
            }
            self.words = all;
            self.ids = (0..vocabulary as u32).collect();
            self.places.clone_from(&self.ids);
        }
        &mut self.words
    }

    /// Adds the word gradients of `other`.
    pub fn add_words(&mut self, other: &Self) {
        for (&id, row) in other.ids.iter().zip(other.words.chunks_exact(self.width)) {
            for (sum, value) in self.word(id).iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}
