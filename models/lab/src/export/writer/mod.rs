//! The floating-point graph of a classifier, and the parts that int8 shares with it.

mod inputs;
mod packed;
#[cfg(test)]
mod tests;

use ndarray::Array1;

use crate::encoder::{HeadActivation, Pooling};
use crate::export::classifier::{Classifier, Layer, LayerNorm, Linear};
use crate::export::graph::{Attr, Dim, FloatType, GraphBuilder, Op, Value};
use moodstream::model::onnx::ElementType;

use packed::Packing;

/// The operators of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Only those of the ONNX standard, which every runtime supports.
    Plain,
    /// ONNX Runtime's own for attention, skip connections and GELU, which are the fastest on a GPU.
    Fused,
    /// As [`Style::Fused`], but without padding between the embeddings and the head.
    Packed,
    /// The fastest on the CPU. There `LayerNormalization` is eight times as fast as `SkipLayerNormalization`, `Gelu` after a
    /// bias twice as fast as `BiasGelu`, and attention over texts of a few dozen tokens twice as fast in single steps. When
    /// the runtime loads a graph, it would fuse an `Add` and the operators after it into the slower ones, but not a `Sub`. So
    /// residuals and biases are negated and subtracted.
    Subtracted,
}

impl Style {
    /// Whether it uses ONNX Runtime's operators for skip connections and GELU.
    const fn is_fused(self) -> bool {
        matches!(self, Self::Fused | Self::Packed)
    }
}

/// The tokens for which a layer is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All tokens.
    All,
    /// The first token of each text: the head uses no other state of the last layer, unless it uses the mean.
    First,
}

impl Reach {
    /// The tokens of the layer `index`.
    pub(super) fn of(index: usize, model: &Classifier) -> Self {
        if index + 1 == model.layers() && model.pooling() == Pooling::Cls {
            Self::First
        } else {
            Self::All
        }
    }
}

/// Subtracted from the attention scores of padding. The weight after softmax is exactly 0, and half precision can represent
/// this value.
const MASKED: f32 = 10_000.0;

/// The inputs of a graph.
pub(crate) struct Inputs {
    ids: Value,
    types: Option<Value>,
    mask: Value,
}

/// How attention handles padding and relative positions.
enum Padding {
    /// A bias that is added to the scores.
    Added(Bias),
    /// The inputs of ONNX Runtime's operator.
    Lengths {
        /// `[batch]`, the length of each text.
        lengths: Value,
        /// `[1, heads, tokens, tokens]`, added to the scores.
        relative: Option<Value>,
    },
    /// There is none: the states are `[all tokens, width]`.
    Removed(Packing),
}

/// A bias of attention scores.
pub(super) struct Bias {
    /// For all tokens: `[batch, 1, 1, tokens]`, or `[batch, heads, tokens, tokens]` with relative positions.
    all: Value,
    /// For the first token of each text: `[batch, 1 or heads, 1, tokens]`.
    first: Value,
}

impl Bias {
    pub(super) fn of(&self, reach: Reach) -> &Value {
        match reach {
            Reach::All => &self.all,
            Reach::First => &self.first,
        }
    }
}

/// Writes a classifier into a graph.
pub(crate) struct Writer<'a> {
    pub(crate) g: GraphBuilder,
    pub(crate) model: &'a Classifier,
    style: Style,
    /// Whether the products' weights are stored in half precision and used in the precision of the graph.
    pub(crate) compact: bool,
}

/// The whole model in floating point.
pub(crate) fn float_graph(model: &Classifier, float: FloatType, style: Style) -> GraphBuilder {
    let mut writer = Writer::new(model, float, style);
    let inputs = writer.inputs();
    let words = writer.word_embeddings(&inputs);
    let mut hidden = writer.embeddings(&inputs, &words);
    let padding = match style {
        Style::Plain | Style::Subtracted => Padding::Added(writer.bias(&inputs)),
        Style::Fused => Padding::Lengths {
            lengths: writer.lengths(&inputs),
            relative: writer.relative(&inputs),
        },
        Style::Packed => {
            let (tokens, packing) = writer.remove_padding(&inputs, &hidden);
            hidden = tokens;
            Padding::Removed(packing)
        }
    };
    for index in 0..model.layers() {
        hidden = writer.layer(index, &model.layer(index), &hidden, &padding, Reach::of(index, model));
    }
    if let Padding::Removed(packing) = &padding {
        hidden = writer.restore_padding(&hidden, packing);
    }
    writer.head(&inputs, &hidden);
    writer.g
}

impl<'a> Writer<'a> {
    pub(crate) fn new(model: &'a Classifier, float: FloatType, style: Style) -> Self {
        Self {
            g: GraphBuilder::new("classifier", float),
            model,
            style,
            compact: false,
        }
    }

    /// Declares the inputs, as other exporters do.
    pub(crate) fn inputs(&mut self) -> Inputs {
        let dims = [Dim::Named("batch_size"), Dim::Named("sequence_length")];
        let ids = self.g.input("input_ids", ElementType::Int64, &dims);
        let mask = self.g.input("attention_mask", ElementType::Int64, &dims);
        let types = self
            .model
            .type_embeddings
            .is_some()
            .then(|| self.g.input("token_type_ids", ElementType::Int64, &dims));
        Inputs { ids, types, mask }
    }

    fn layer(&mut self, index: usize, layer: &Layer, hidden: &Value, padding: &Padding, reach: Reach) -> Value {
        self.g.scope(format!("layer.{index}/attention"));
        let asking = match reach {
            Reach::All => hidden.clone(),
            Reach::First => self.first_tokens(hidden, padding),
        };
        let context = self.attention(layer, hidden, &asking, padding, reach);
        self.after_attention(index, layer, &context, &asking)
    }

    /// The part of a layer after attention, in floating point.
    pub(crate) fn after_attention(&mut self, index: usize, layer: &Layer, context: &Value, skip: &Value) -> Value {
        self.g.scope(format!("layer.{index}/attention/output"));
        let hidden = self.residual(&layer.attention_output, context, skip, &layer.attention_norm);
        self.g.scope(format!("layer.{index}/intermediate"));
        let inner = self.gelu(&layer.intermediate, &hidden);
        self.g.scope(format!("layer.{index}/output"));
        self.residual(&layer.output, &inner, &hidden, &layer.output_norm)
    }

    /// The first token of each text, `[batch, 1, width]`.
    pub(crate) fn first_token(&mut self, hidden: &Value) -> Value {
        let first = self.g.int64(&[1], &[0]);
        self.g
            .call(Op::Onnx("Gather"), &[hidden, &first], &[("axis", Attr::Int(1))])
    }

    /// As [`Self::first_token`]; without padding, `[batch, width]`.
    fn first_tokens(&mut self, hidden: &Value, padding: &Padding) -> Value {
        match padding {
            Padding::Removed(packing) => self.first_packed_token(hidden, packing),
            Padding::Added(_) | Padding::Lengths { .. } => self.first_token(hidden),
        }
    }

    /// The context of the tokens `asking`, which attend to all of `hidden`.
    fn attention(&mut self, layer: &Layer, hidden: &Value, asking: &Value, padding: &Padding, reach: Reach) -> Value {
        let context = match padding {
            Padding::Added(bias) => return self.plain_attention(layer, hidden, asking, bias.of(reach)),
            Padding::Removed(packing) => self.packed_attention(layer, hidden, packing),
            Padding::Lengths { lengths, relative } => {
                let joined = layer.query_key_value();
                let weight = self.table("query_key_value", &joined.weight);
                let bias = self.vector("query_key_value_bias", &joined.bias);
                let heads = ("num_heads", Attr::Int(self.model.heads() as i64));
                let mut inputs = vec![Some(hidden), Some(&weight), Some(&bias), Some(lengths)];
                if relative.is_some() {
                    // The input between them is the cache of a decoder, which is not used here.
                    inputs.extend([None, relative.as_ref()]);
                }
                self.g.call_with_optional(Op::Runtime("Attention"), &inputs, &[heads])
            }
        };
        // These operators can't compute queries for some tokens only.
        match reach {
            Reach::First => self.first_tokens(&context, padding),
            Reach::All => context,
        }
    }

    fn plain_attention(&mut self, layer: &Layer, hidden: &Value, asking: &Value, added: &Value) -> Value {
        let (heads, width) = (self.model.heads(), self.model.width());
        let split = self.g.int64(&[4], &[0, 0, heads as i64, (width / heads) as i64]);
        let joined = self.g.int64(&[3], &[0, 0, width as i64]);
        let split_heads = |writer: &mut Self, linear: &Linear, x: &Value, order: &'static [i64]| {
            let product = writer.product(linear, x);
            let sum = writer.plus_bias(&product, &linear.bias);
            let split = writer.g.call(Op::Onnx("Reshape"), &[&sum, &split], &[]);
            writer
                .g
                .call(Op::Onnx("Transpose"), &[&split], &[("perm", Attr::Ints(order))])
        };
        let query = split_heads(self, &layer.query, asking, &[0, 2, 1, 3]);
        let key = split_heads(self, &layer.key, hidden, &[0, 2, 3, 1]);
        let value = split_heads(self, &layer.value, hidden, &[0, 2, 1, 3]);
        let scores = self.g.call(Op::Onnx("MatMul"), &[&query, &key], &[]);
        let scale = self.g.float_scalar(1.0 / ((width / heads) as f32).sqrt());
        let scores = self.g.call(Op::Onnx("Mul"), &[&scores, &scale], &[]);
        self.mix(&scores, added, &value, &joined)
    }

    /// The context: the values weighted by the softmax of the scores plus `bias`, with the heads joined in the shape `joined`.
    pub(super) fn mix(&mut self, scores: &Value, bias: &Value, value: &Value, joined: &Value) -> Value {
        let scores = self.g.call(Op::Onnx("Add"), &[scores, bias], &[]);
        let weights = self.g.call(Op::Onnx("Softmax"), &[&scores], &[("axis", Attr::Int(-1))]);
        let context = self.g.call(Op::Onnx("MatMul"), &[&weights, value], &[]);
        let context = self.g.call(
            Op::Onnx("Transpose"),
            &[&context],
            &[("perm", Attr::Ints(&[0, 2, 1, 3]))],
        );
        self.g.call(Op::Onnx("Reshape"), &[&context, joined], &[])
    }

    /// `norm(skip + x W + b)`
    fn residual(&mut self, linear: &Linear, x: &Value, skip: &Value, norm: &LayerNorm) -> Value {
        if self.style == Style::Subtracted {
            let negated = Linear {
                weight: -&linear.weight,
                bias: -&linear.bias,
            };
            let product = self.product(&negated, x);
            let sum = self.g.call(Op::Onnx("Sub"), &[skip, &product], &[]);
            let sum = self.plus_bias(&sum, &linear.bias);
            return self.norm(&sum, norm);
        }
        let product = self.product(linear, x);
        if self.style.is_fused() {
            let gain = self.vector("norm", &norm.gain);
            let offset = self.vector("norm_bias", &norm.offset);
            let bias = self.vector("bias", &linear.bias);
            let epsilon = ("epsilon", Attr::Float(self.model.norm_epsilon()));
            let inputs = [&product, skip, &gain, &offset, &bias];
            return self.g.call(Op::Runtime("SkipLayerNormalization"), &inputs, &[epsilon]);
        }
        let product = self.plus_bias(&product, &linear.bias);
        let sum = self.g.call(Op::Onnx("Add"), &[&product, skip], &[]);
        self.norm(&sum, norm)
    }

    /// Layer normalisation over the width.
    pub(crate) fn norm(&mut self, x: &Value, norm: &LayerNorm) -> Value {
        let gain = self.vector("norm", &norm.gain);
        let offset = self.vector("norm_bias", &norm.offset);
        let epsilon = ("epsilon", Attr::Float(self.model.norm_epsilon()));
        self.g.call(
            Op::Onnx("LayerNormalization"),
            &[x, &gain, &offset],
            &[("axis", Attr::Int(-1)), epsilon],
        )
    }

    /// `gelu(x W + b)`, with the error function.
    fn gelu(&mut self, linear: &Linear, x: &Value) -> Value {
        let product = self.product(linear, x);
        if self.style == Style::Subtracted {
            let sum = self.plus_bias(&product, &linear.bias);
            return self.g.call(Op::Runtime("Gelu"), &[&sum], &[]);
        }
        if self.style.is_fused() {
            let bias = self.vector("bias", &linear.bias);
            return self.g.call(Op::Runtime("BiasGelu"), &[&product, &bias], &[]);
        }
        let (root, one, half) = (
            self.g.float_scalar(std::f32::consts::SQRT_2),
            self.g.float_scalar(1.0),
            self.g.float_scalar(0.5),
        );
        let x = self.plus_bias(&product, &linear.bias);
        let scaled = self.g.call(Op::Onnx("Div"), &[&x, &root], &[]);
        let erf = self.g.call(Op::Onnx("Erf"), &[&scaled], &[]);
        let erf = self.g.call(Op::Onnx("Add"), &[&erf, &one], &[]);
        let gated = self.g.call(Op::Onnx("Mul"), &[&x, &erf], &[]);
        self.g.call(Op::Onnx("Mul"), &[&gated, &half], &[])
    }

    /// Computes the logits from the states, `[batch, tokens or 1, width]`, and declares them as the output.
    pub(crate) fn head(&mut self, inputs: &Inputs, hidden: &Value) {
        self.g.scope("head");
        let seen = match self.model.pooling() {
            Pooling::Cls => {
                let zero = self.g.int64(&[], &[0]);
                self.g
                    .call(Op::Onnx("Gather"), &[hidden, &zero], &[("axis", Attr::Int(1))])
            }
            Pooling::Mean => self.mean(inputs, hidden),
        };
        let dense = self.gemm(&self.model.head_dense(), &seen);
        let kind = match self.model.encoder.shape.head_activation {
            HeadActivation::Tanh => "Tanh",
            HeadActivation::Relu => "Relu",
        };
        let pooled = self.g.call(Op::Onnx(kind), &[&dense], &[]);
        let mut logits = self.gemm(&self.model.head_output(), &pooled);
        if self.g.float() == FloatType::Half {
            logits = self.g.cast(&logits, ElementType::Float32);
        }
        let dims = [Dim::Named("batch_size"), Dim::Fixed(self.model.labels())];
        self.g.output("logits", &logits, ElementType::Float32, &dims);
    }

    /// The mean state of each text without padding, `[batch, width]`, as a product, which sums in single precision even if the
    /// states have half precision.
    fn mean(&mut self, inputs: &Inputs, hidden: &Value) -> Value {
        let float = self.g.float().element_type();
        let axis = self.g.int64(&[1], &[1]);
        let mask = self.g.cast(&inputs.mask, float);
        let tokens = self
            .g
            .call(Op::Onnx("ReduceSum"), &[&mask, &axis], &[("keepdims", Attr::Int(1))]);
        let shares = self.g.call(Op::Onnx("Div"), &[&mask, &tokens], &[]);
        let shares = self.g.call(Op::Onnx("Unsqueeze"), &[&shares, &axis], &[]);
        let mean = self.g.call(Op::Onnx("MatMul"), &[&shares, hidden], &[]);
        self.g.call(Op::Onnx("Squeeze"), &[&mean, &axis], &[])
    }

    /// `x W`, without the bias.
    fn product(&mut self, linear: &Linear, x: &Value) -> Value {
        let weight = self.product_weight(linear);
        self.g.call(Op::Onnx("MatMul"), &[x, &weight], &[])
    }

    fn plus_bias(&mut self, x: &Value, bias: &Array1<f32>) -> Value {
        if self.style == Style::Subtracted {
            let bias = self.vector("bias", &-bias);
            return self.g.call(Op::Onnx("Sub"), &[x, &bias], &[]);
        }
        let bias = self.vector("bias", bias);
        self.g.call(Op::Onnx("Add"), &[x, &bias], &[])
    }

    fn product_weight(&mut self, linear: &Linear) -> Value {
        if self.compact {
            let data = linear.weight.as_standard_layout();
            let dims = [linear.weight.nrows(), linear.weight.ncols()];
            return self.g.half_weight("weight", &dims, data.as_slice().unwrap_or_default());
        }
        self.table("weight", &linear.weight)
    }

    fn gemm(&mut self, linear: &Linear, x: &Value) -> Value {
        let weight = self.product_weight(linear);
        let bias = self.vector("bias", &linear.bias);
        self.g.call(Op::Onnx("Gemm"), &[x, &weight, &bias], &[])
    }

    pub(crate) fn vector(&mut self, name: &str, values: &Array1<f32>) -> Value {
        self.g.weight(name, &[values.len()], &values.to_vec())
    }

    fn table(&mut self, name: &str, values: &ndarray::Array2<f32>) -> Value {
        let data = values.as_standard_layout();
        self.g.weight(
            name,
            &[values.nrows(), values.ncols()],
            data.as_slice().unwrap_or_default(),
        )
    }
}
