//! The weights of an encoder in two flat buffers, and where each tensor lies in them.

use std::ops::Range;

use crate::encoder::Shape;

/// Where the tensors of one transformer layer lie in [`Weights::dense`].
///
/// Matrices are `out x in`, as PyTorch's `nn.Linear` keeps them; `down` alone is `in x out`, so
/// that the blocks in which the feed-forward layer is worked off are contiguous.
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
    pub mixed: Range<usize>,
    /// Attention's output bias.
    pub mixed_bias: Range<usize>,
    /// Scale of the layer norm after attention.
    pub mixed_scale: Range<usize>,
    /// Shift of the layer norm after attention.
    pub mixed_shift: Range<usize>,
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

/// Where every tensor lies in [`Weights::dense`].
#[derive(Debug, Clone)]
pub struct Layout {
    /// Position embeddings, `positions x hidden`.
    pub positions: Range<usize>,
    /// Scale of the embeddings' layer norm.
    pub scale: Range<usize>,
    /// Shift of the embeddings' layer norm.
    pub shift: Range<usize>,
    /// What attention scores gain by distance, `buckets x heads`; empty without relative positions.
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
    /// Every tensor with what a checkpoint calls it, in order.
    pub tensors: Vec<Tensor>,
    /// Elements in all.
    pub length: usize,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The name below `roberta.` or, from `classifier.` on, at the top.
    pub name: String,
    /// Shape as a checkpoint has it.
    pub shape: Vec<usize>,
    /// Where it lies.
    pub place: Range<usize>,
    /// Whether the last two axes stand the other way round here.
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

/// The name of the table of relative positions.
const RELATIVE: &str = "encoder.relative_attention_bias.weight";

struct Planner {
    tensors: Vec<Tensor>,
    end: usize,
}

impl Planner {
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
            mixed: tensor("attention.output.dense.weight", &[hidden, hidden]),
            mixed_bias: tensor("attention.output.dense.bias", &[hidden]),
            mixed_scale: tensor("attention.output.LayerNorm.weight", &[hidden]),
            mixed_shift: tensor("attention.output.LayerNorm.bias", &[hidden]),
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
    /// Places the tensors of an encoder of that shape.
    #[must_use]
    pub fn new(shape: &Shape) -> Self {
        let hidden = shape.hidden;
        let mut plan = Planner {
            tensors: Vec::new(),
            end: 0,
        };
        let positions = plan.tensor("embeddings.position_embeddings.weight", &[shape.positions, hidden]);
        let scale = plan.tensor("embeddings.LayerNorm.weight", &[hidden]);
        let shift = plan.tensor("embeddings.LayerNorm.bias", &[hidden]);
        let relative = plan.tensor(RELATIVE, &[shape.relative_buckets, shape.heads]);
        let layers = (0..shape.layers).map(|index| plan.layer(index, shape)).collect();
        let dense = plan.tensor("classifier.dense.weight", &[hidden, hidden]);
        let dense_bias = plan.tensor("classifier.dense.bias", &[hidden]);
        let out = plan.tensor("classifier.out_proj.weight", &[shape.labels, hidden]);
        let out_bias = plan.tensor("classifier.out_proj.bias", &[shape.labels]);
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
            length: plan.end,
            tensors: plan.tensors,
        }
    }
}

impl Layout {
    /// How many layers lie at or below the tensor: 0 for the embeddings' own.
    #[must_use]
    pub fn depth(&self, tensor: &Tensor) -> usize {
        let starts = self.layers.iter().map(|layer| layer.query.start);
        starts.take_while(|&start| start <= tensor.place.start).count()
    }
}

/// An encoder's weights.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Word embeddings, `vocabulary x hidden`. Apart from the rest, since a step touches few rows.
    pub words: Vec<f32>,
    /// All else, by [`Layout`].
    pub dense: Vec<f32>,
}

/// Gradients of a batch, or of one thread's share of it.
#[derive(Debug, Clone)]
pub struct Gradient {
    /// Of [`Weights::dense`].
    pub dense: Vec<f32>,
    /// Of the rows of [`Weights::words`] named by `ids`, in that order.
    pub words: Vec<f32>,
    /// Which rows those are, each once.
    pub ids: Vec<u32>,
    /// Place in `ids` of each word, or `u32::MAX`.
    places: Vec<u32>,
    width: usize,
    frozen: Frozen,
}

/// What of an encoder stays as it is in training: a pass computes no gradients for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frozen {
    /// The word embeddings.
    pub words: bool,
    /// How many of the lowest layers; with any, all embeddings stay as well.
    pub layers: usize,
}

impl Gradient {
    /// All zero, for an encoder of that shape.
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

    /// The same for an encoder of which a part stays as it is: nothing is added to that part's.
    #[must_use]
    pub fn freezing(self, frozen: Frozen) -> Self {
        Self { frozen, ..self }
    }

    /// What a pass computes no gradients for.
    #[must_use]
    pub fn frozen(&self) -> Frozen {
        self.frozen
    }

    /// Back to zero.
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

    /// The gradients of all words, in the vocabulary's order. Only right after [`Gradient::clear`]
    /// is that free of a rearrangement.
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

    /// Adds another's word gradients to these.
    pub fn add_words(&mut self, other: &Self) {
        for (&id, row) in other.ids.iter().zip(other.words.chunks_exact(self.width)) {
            for (sum, value) in self.word(id).iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}
