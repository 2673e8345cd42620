//! Layers over tokens without padding, for CUDA.
//!
//! Texts of a batch differ in length, and so a fifth of a GPU's work can be for padding. ONNX Runtime's `RemovePadding` puts the
//! tokens of all texts into one matrix, `PackedMultiHeadAttention` finds the texts in it by their offsets, and `RestorePadding` is the
//! inverse of the first. They exist for CUDA alone. Texts are padded on the right.

use super::{Inputs, Writer};
use crate::{
    encoder::Pooling,
    export::{
        classifier::Layer,
        graph::{Attr, Op, Value},
    },
};

/// Where the texts of a batch are in the matrix of its tokens.
pub(super) struct Packing {
    /// `[batch, tokens]`: the places of tokens in the padded batch, then those of padding.
    offsets: Value,
    /// `[batch + 1]`: the first row of each text, then the number of rows.
    starts: Value,
    /// `[1, heads, tokens, tokens]`, added to the scores.
    relative: Option<Value>,
}

impl Writer<'_> {
    /// Removes the padding of `hidden`, `[batch, tokens, width]`. Returns `[all tokens, width]`.
    pub(super) fn remove_padding(&mut self, inputs: &Inputs, hidden: &Value) -> (Value, Packing) {
        let lengths = self.lengths(inputs);
        let [tokens, offsets, starts, _longest] = self
            .g
            .call_for_several(Op::Runtime("RemovePadding"), &[hidden, &lengths]);
        let relative = self.relative(inputs);
        let packing = Packing {
            offsets,
            starts,
            relative,
        };
        (tokens, packing)
    }

    /// Undoes [`Self::remove_padding`] for the states after the last layer. If these are of first tokens only, they become
    /// `[batch, 1, width]`.
    pub(super) fn restore_padding(&mut self, hidden: &Value, packing: &Packing) -> Value {
        self.g.scope("padding");
        match self.model.pooling() {
            Pooling::Mean => self
                .g
                .call(Op::Runtime("RestorePadding"), &[hidden, &packing.offsets], &[]),
            Pooling::Cls => {
                let axis = self.g.int64(&[1], &[1]);
                self.g.call(Op::Onnx("Unsqueeze"), &[hidden, &axis], &[])
            }
        }
    }

    /// The first token of each text, `[batch, width]`.
    pub(super) fn first_packed_token(&mut self, hidden: &Value, packing: &Packing) -> Value {
        let [from, to, axis] = [&[0], &[-1], &[0]].map(|at| self.g.int64(&[1], at));
        let starts = self
            .g
            .call(Op::Onnx("Slice"), &[&packing.starts, &from, &to, &axis], &[]);
        self.g
            .call(Op::Onnx("Gather"), &[hidden, &starts], &[("axis", Attr::Int(0))])
    }

    /// The context of all tokens, `[all tokens, width]`.
    pub(super) fn packed_attention(&mut self, layer: &Layer, hidden: &Value, packing: &Packing) -> Value {
        let (heads, width) = (self.model.heads(), self.model.width());
        let joined = layer.query_key_value_by_head(heads);
        let weight = self.table("query_key_value", &joined.weight);
        let bias = self.vector("query_key_value_bias", &joined.bias);
        let product = self.g.call(Op::Onnx("MatMul"), &[hidden, &weight], &[]);
        let by_head = self.g.int64(&[4], &[-1, heads as i64, 3, (width / heads) as i64]);
        let product = self.g.call(Op::Onnx("Reshape"), &[&product, &by_head], &[]);
        let mut inputs = vec![
            Some(&product),
            None,
            None,
            Some(&bias),
            Some(&packing.offsets),
            Some(&packing.starts),
        ];
        inputs.extend(packing.relative.as_ref().map(Some));
        let heads = ("num_heads", Attr::Int(heads as i64));
        self.g
            .call_with_optional(Op::Runtime("PackedMultiHeadAttention"), &inputs, &[heads])
    }
}
