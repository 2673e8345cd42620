//! The part of a graph before the first layer: embeddings, and the bias of attention for padding and relative positions.

use moodstream::model::onnx::ElementType;

use super::{Bias, Inputs, MASKED, Style, Writer};
use crate::export::{
    graph::{Attr, Op, Value},
    half_bytes::{BLOCK, HalfBytes, quantise_blocks},
    quantise,
};

impl Writer<'_> {
    /// The bias of attention scores for relative positions and padding.
    pub(in crate::export) fn bias(&mut self, inputs: &Inputs) -> Bias {
        let padding = self.added_padding(inputs);
        let Some(relative) = self.relative(inputs) else {
            return Bias {
                first: padding.clone(),
                all: padding,
            };
        };
        let all = self.g.call(Op::Onnx("Add"), &[&relative, &padding], &[]);
        let zero = self.g.int64(&[1], &[0]);
        let first = self
            .g
            .call(Op::Onnx("Gather"), &[&all, &zero], &[("axis", Attr::Int(2))]);
        Bias { all, first }
    }

    /// `[1, heads, tokens, tokens]`: the bias of attention scores for relative positions; the query's token is the third axis.
    pub(super) fn relative(&mut self, inputs: &Inputs) -> Option<Value> {
        let gains = self.model.relative()?;
        self.g.scope("relative_positions");
        let table = self.table("gains", &gains);
        let (first, second) = (self.g.int64(&[1], &[0]), self.g.int64(&[1], &[1]));
        let token = self.token_numbers(inputs);
        let asking = self.g.call(Op::Onnx("Unsqueeze"), &[&token, &second], &[]);
        let distance = self.g.call(Op::Onnx("Sub"), &[&token, &asking], &[]);
        let middle = self.g.int64(&[], &[(gains.ncols() / 2) as i64]);
        let place = self.g.call(Op::Onnx("Add"), &[&distance, &middle], &[]);
        let gains = self
            .g
            .call(Op::Onnx("Gather"), &[&table, &place], &[("axis", Attr::Int(1))]);
        Some(self.g.call(Op::Onnx("Unsqueeze"), &[&gains, &first], &[]))
    }

    /// `[tokens]`, from 0 on.
    pub(super) fn token_numbers(&mut self, inputs: &Inputs) -> Value {
        let shape = self.g.call(
            Op::Onnx("Shape"),
            &[&inputs.ids],
            &[("start", Attr::Int(1)), ("end", Attr::Int(2))],
        );
        let scalar = self.g.int64(&[0], &[]);
        let tokens = self.g.call(Op::Onnx("Reshape"), &[&shape, &scalar], &[]);
        let (zero, one) = (self.g.int64(&[], &[0]), self.g.int64(&[], &[1]));
        self.g.call(Op::Onnx("Range"), &[&zero, &tokens, &one], &[])
    }

    /// `[batch, 1, 1, tokens]`: 0 for tokens, a large negative number for padding.
    pub(super) fn added_padding(&mut self, inputs: &Inputs) -> Value {
        self.g.scope("padding");
        let float = self.g.float().element_type();
        let axes = self.g.int64(&[2], &[1, 2]);
        let mask = self.g.call(Op::Onnx("Unsqueeze"), &[&inputs.mask, &axes], &[]);
        let mask = self.g.cast(&mask, float);
        let (one, masked) = (self.g.float_scalar(1.0), self.g.float_scalar(MASKED));
        let below = self.g.call(Op::Onnx("Sub"), &[&mask, &one], &[]);
        self.g.call(Op::Onnx("Mul"), &[&below, &masked], &[])
    }

    /// The length of each text, which the GPU's fast attention kernels need instead of a mask; the service pads on the right.
    pub(super) fn lengths(&mut self, inputs: &Inputs) -> Value {
        self.g.scope("padding");
        let mask = self.g.cast(&inputs.mask, ElementType::Int32);
        let axis = self.g.int64(&[1], &[1]);
        self.g
            .call(Op::Onnx("ReduceSum"), &[&mask, &axis], &[("keepdims", Attr::Int(0))])
    }

    pub(super) fn word_embeddings(&mut self, inputs: &Inputs) -> Value {
        self.g.scope("embeddings");
        let table = self.table("word_embeddings", &self.model.word_embeddings());
        self.g.call(Op::Onnx("Gather"), &[&table, &inputs.ids], &[])
    }

    /// As [`Self::word_embeddings`], from a table of signed bytes with one scale per word.
    pub(crate) fn quantised_word_embeddings(&mut self, inputs: &Inputs) -> Value {
        self.g.scope("embeddings");
        let (bytes, scale) = quantise::quantise_rows(&self.model.word_embeddings());
        let table = self.g.int8(
            "word_embeddings",
            &[bytes.nrows(), bytes.ncols()],
            &bytes.into_raw_vec_and_offset().0,
        );
        let scales = self
            .g
            .weight("word_embeddings_scale", &[scale.len(), 1], &scale.to_vec());
        let steps = self.g.call(Op::Onnx("Gather"), &[&table, &inputs.ids], &[]);
        let steps = self.g.cast(&steps, ElementType::Float32);
        let scale = self.g.call(Op::Onnx("Gather"), &[&scales, &inputs.ids], &[]);
        self.g.call(Op::Onnx("Mul"), &[&steps, &scale], &[])
    }

    /// As [`Self::word_embeddings`], from a table of half bytes with a scale for each block of a word.
    pub(crate) fn halved_word_embeddings(&mut self, inputs: &Inputs) -> Value {
        self.g.scope("embeddings");
        let HalfBytes { bytes, scales } = quantise_blocks(&self.model.word_embeddings());
        let (rows, width) = (self.model.vocabulary(), self.model.width());
        let table = self.g.uint8("word_embeddings", &[rows, width / 2], bytes);
        let scales = self.g.weight("word_embeddings_scale", &[rows, width / BLOCK], &scales);
        let attributes = [
            ("bits", Attr::Int(4)),
            ("block_size", Attr::Int(BLOCK as i64)),
            ("gather_axis", Attr::Int(0)),
            ("quantize_axis", Attr::Int(1)),
        ];
        let inputs = [&table, &inputs.ids, &scales];
        self.g.call(Op::Runtime("GatherBlockQuantized"), &inputs, &attributes)
    }

    /// Adds the embeddings of positions and types to `words`, and normalises.
    pub(crate) fn embeddings(&mut self, inputs: &Inputs, words: &Value) -> Value {
        self.g.scope("embeddings");
        let sign = if self.style == Style::Subtracted { -1.0 } else { 1.0 };
        let positions = self.position_ids(inputs);
        let table = self.table("position_embeddings", &(&self.model.position_embeddings * sign));
        let positions = self.g.call(Op::Onnx("Gather"), &[&table, &positions], &[]);
        let add = if self.style == Style::Subtracted {
            Op::Onnx("Sub")
        } else {
            Op::Onnx("Add")
        };
        let mut sum = self.g.call(add, &[words, &positions], &[]);
        if let (Some(types), Some(rows)) = (&inputs.types, &self.model.type_embeddings) {
            let table = self.table("token_type_embeddings", &(rows * sign));
            let types = self.g.call(Op::Onnx("Gather"), &[&table, types], &[]);
            sum = self.g.call(add, &[&sum, &types], &[]);
        }
        self.norm(&sum, &self.model.embedding_norm())
    }

    pub(super) fn position_ids(&mut self, inputs: &Inputs) -> Value {
        if !self.model.family.skips_padding() {
            return self.token_numbers(inputs);
        }
        let pad = self.g.int64(&[], &[self.model.pad_token_id]);
        let is_pad = self.g.call(Op::Onnx("Equal"), &[&inputs.ids, &pad], &[]);
        let is_token = self.g.call(Op::Onnx("Not"), &[&is_pad], &[]);
        let is_token = self.g.cast(&is_token, ElementType::Int64);
        let axis = self.g.int64(&[], &[1]);
        let count = self.g.call(Op::Onnx("CumSum"), &[&is_token, &axis], &[]);
        let count = self.g.call(Op::Onnx("Mul"), &[&count, &is_token], &[]);
        self.g.call(Op::Onnx("Add"), &[&count, &pad], &[])
    }
}
