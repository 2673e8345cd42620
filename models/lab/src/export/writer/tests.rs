//! Runs packed graphs, whose operators exist for CUDA alone, with operators for the CPU that do what ONNX Runtime documents.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use moodstream::{
    classify::{ClassifyOptions, environment},
    model::onnx::{ModelProto, OperatorSetIdProto},
};
use ort::{
    environment::Environment,
    operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput},
    session::Session,
    value::{TensorElementType, TensorRef},
};
use prost::Message as _;
use serde_json::Value as Json;

use super::{Style, float_graph};
use crate::export::{classifier::Classifier, graph::FloatType};
use crate::testing;

const FLOAT: TensorElementType = TensorElementType::Float32;
const INT: TensorElementType = TensorElementType::Int32;
/// The domain of the operators here.
const DOMAIN: &str = "cpu";

struct RemovePadding;

impl Operator for RemovePadding {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        "RemovePadding"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOAT, INT].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [FLOAT, INT, INT, INT].map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        Ok(Box::new(|context: &ComputeContext| {
            let (input, lengths) = (context.input(0)?.unwrap(), context.input(1)?.unwrap());
            let (shape, input) = input.try_extract_tensor::<f32>()?;
            let (_, lengths) = lengths.try_extract_tensor::<i32>()?;
            let [batch, columns, width] = [0, 1, 2].map(|axis| shape[axis] as usize);
            let (mut tokens, mut padding, mut starts) = (Vec::new(), Vec::new(), vec![0]);
            for (text, &length) in lengths.iter().enumerate() {
                let place = |column: usize| (text * columns + column) as i32;
                tokens.extend((0..length as usize).map(place));
                padding.extend((length as usize..columns).map(place));
                starts.push(tokens.len() as i32);
            }
            let mut rows = context.output(0, [tokens.len(), width])?.unwrap();
            let (_, rows) = rows.try_extract_tensor_mut::<f32>()?;
            for (row, &place) in rows.chunks_exact_mut(width).zip(&tokens) {
                row.copy_from_slice(&input[place as usize * width..][..width]);
            }
            tokens.extend(padding);
            let longest = lengths.iter().copied().max().unwrap_or(0);
            for (index, shape, values) in [
                (1, vec![batch, columns], tokens),
                (2, vec![batch + 1], starts),
                (3, vec![1], vec![longest]),
            ] {
                let mut output = context.output(index, shape)?.unwrap();
                output.try_extract_tensor_mut::<i32>()?.1.copy_from_slice(&values);
            }
            Ok(())
        }))
    }
}

struct RestorePadding;

impl Operator for RestorePadding {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        "RestorePadding"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOAT, INT].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(FLOAT)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        Ok(Box::new(|context: &ComputeContext| {
            let (input, offsets) = (context.input(0)?.unwrap(), context.input(1)?.unwrap());
            let (shape, input) = input.try_extract_tensor::<f32>()?;
            let (padded, offsets) = offsets.try_extract_tensor::<i32>()?;
            let width = shape[1] as usize;
            let mut output = context
                .output(0, [padded[0] as usize, padded[1] as usize, width])?
                .unwrap();
            let (_, output) = output.try_extract_tensor_mut::<f32>()?;
            output.fill(0.0);
            for (row, &place) in input.chunks_exact(width).zip(offsets) {
                output[place as usize * width..][..width].copy_from_slice(row);
            }
            Ok(())
        }))
    }
}

struct PackedMultiHeadAttention;

impl Operator for PackedMultiHeadAttention {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        "PackedMultiHeadAttention"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let [query, bias] = [FLOAT, FLOAT].map(OperatorInput::required);
        let [key, value, relative] = [FLOAT, FLOAT, FLOAT].map(OperatorInput::optional);
        let [offsets, starts] = [INT, INT].map(OperatorInput::required);
        [query, key, value, bias, offsets, starts, relative]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(FLOAT)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        Ok(Box::new(|context: &ComputeContext| {
            let input = |index| context.input(index);
            let (joined, bias, offsets, starts) = (
                input(0)?.unwrap(),
                input(3)?.unwrap(),
                input(4)?.unwrap(),
                input(5)?.unwrap(),
            );
            // `[tokens, heads, 3, head]`, `[3, heads, head]`, `[batch, columns]`, `[batch + 1]`
            let (shape, joined) = joined.try_extract_tensor::<f32>()?;
            let (_, bias) = bias.try_extract_tensor::<f32>()?;
            let (columns, _) = offsets.try_extract_tensor::<i32>()?;
            let (_, starts) = starts.try_extract_tensor::<i32>()?;
            let [tokens, heads, head] = [0, 1, 3].map(|axis| shape[axis] as usize);
            let columns = columns[1] as usize;
            let relative = match context.num_inputs()? {
                7 => input(6)?,
                _ => None,
            };
            let relative = match &relative {
                Some(relative) => Some(relative.try_extract_tensor::<f32>()?.1),
                None => None,
            };
            let part = |token: usize, at: usize, part: usize| -> Vec<f32> {
                let values = &joined[((token * heads + at) * 3 + part) * head..][..head];
                let bias = &bias[(part * heads + at) * head..][..head];
                values.iter().zip(bias).map(|(x, b)| x + b).collect()
            };
            let mut output = context.output(0, [tokens, heads * head])?.unwrap();
            let (_, output) = output.try_extract_tensor_mut::<f32>()?;
            output.fill(0.0);
            for text in starts.windows(2) {
                let (first, end) = (text[0] as usize, text[1] as usize);
                for (asking, at) in (first..end).flat_map(|asking| (0..heads).map(move |at| (asking, at))) {
                    let query = part(asking, at, 0);
                    let weights: Vec<f32> = (first..end)
                        .map(|token| {
                            let score: f32 = query.iter().zip(part(token, at, 1)).map(|(q, k)| q * k).sum();
                            let place = (at * columns + asking - first) * columns + token - first;
                            (score / (head as f32).sqrt() + relative.map_or(0.0, |gains| gains[place])).exp()
                        })
                        .collect();
                    let sum: f32 = weights.iter().sum();
                    for (token, weight) in (first..end).zip(weights) {
                        let value = part(token, at, 2);
                        let context = &mut output[(asking * heads + at) * head..][..head];
                        context.iter_mut().zip(value).for_each(|(c, v)| *c += v * weight / sum);
                    }
                }
            }
            Ok(())
        }))
    }
}

/// Moves the operators that are implemented here to their domain.
fn with_own_operators(onnx: &[u8]) -> Vec<u8> {
    let mut model = ModelProto::decode(onnx).unwrap();
    for node in &mut model.graph.as_mut().unwrap().node {
        if ["RemovePadding", "RestorePadding", "PackedMultiHeadAttention"].contains(&node.op_type.as_str()) {
            node.domain = DOMAIN.to_owned();
        }
    }
    model.opset_import.push(OperatorSetIdProto {
        domain: DOMAIN.to_owned(),
        version: 1,
    });
    model.encode_to_vec()
}

/// The environment, if ONNX Runtime is installed.
fn loaded_runtime() -> Option<Environment> {
    let options = ClassifyOptions {
        onnxruntime: Some(testing::runtime()?),
        ..ClassifyOptions::default()
    };
    Some(environment(&options).unwrap())
}

fn fixture(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/parity")
        .join(family)
}

#[test]
fn packed_graphs_have_the_logits_of_transformers_in_every_family() {
    let Some(environment) = loaded_runtime() else { return };
    for family in ["roberta", "xlm-roberta", "bert", "distilbert", "mpnet", "mpnet-mean"] {
        let model = Classifier::open(&fixture(family)).unwrap();
        let onnx = float_graph(&model, FloatType::Single, Style::Packed).finish().unwrap();
        let operators = OperatorDomain::new(DOMAIN)
            .unwrap()
            .add(RemovePadding)
            .unwrap()
            .add(RestorePadding)
            .unwrap()
            .add(PackedMultiHeadAttention)
            .unwrap();
        let mut session = Session::builder(&environment)
            .unwrap()
            .with_operators(operators)
            .unwrap()
            .commit_from_memory(&with_own_operators(&onnx))
            .unwrap();
        let expected: Json =
            serde_json::from_slice(&std::fs::read(fixture(family).join("expected.json")).unwrap()).unwrap();
        let rows = |name: &str| -> Vec<Vec<f64>> { serde_json::from_value(expected[name].clone()).unwrap() };
        let ids = rows("input_ids");
        let shape = [ids.len(), ids[0].len()];
        let integers = |rows: Vec<Vec<f64>>| -> Vec<i64> { rows.concat().into_iter().map(|x| x as i64).collect() };
        let (ids, mask) = (integers(ids), integers(rows("attention_mask")));
        let types = vec![0_i64; ids.len()];
        assert!(mask.contains(&0), "{family}: the texts differ in length");
        let mut inputs = ort::inputs! {
            "input_ids" => TensorRef::from_array_view((shape, &ids[..])).unwrap(),
            "attention_mask" => TensorRef::from_array_view((shape, &mask[..])).unwrap(),
        };
        if session.inputs().iter().any(|input| input.name() == "token_type_ids") {
            let types = TensorRef::from_array_view((shape, &types[..])).unwrap();
            inputs.push(("token_type_ids".into(), types.into()));
        }
        let outputs = session.run(inputs).unwrap();
        let (_, logits) = outputs["logits"].try_extract_tensor::<f32>().unwrap();
        let expected = rows("logits").concat();
        assert_eq!(logits.len(), expected.len());
        for (ours, theirs) in logits.iter().zip(expected) {
            assert!(
                (f64::from(*ours) - theirs).abs() < 1e-4,
                "{family}: {ours} against {theirs}"
            );
        }
    }
}

#[test]
fn packed_graphs_pass_the_checks_of_types_and_shapes() {
    let Some(environment) = loaded_runtime() else { return };
    for family in ["roberta", "mpnet-mean"] {
        let model = Classifier::open(&fixture(family)).unwrap();
        for float in [FloatType::Single, FloatType::Half] {
            let onnx = float_graph(&model, float, Style::Packed).finish().unwrap();
            let loaded = Session::builder(&environment).unwrap().commit_from_memory(&onnx);
            // Types and shapes are checked before kernels are looked up, and this library has none for these operators.
            let error = loaded.unwrap_err().to_string();
            let no_kernel = [
                "find an implementation for RemovePadding",
                "find kernel for com.microsoft.RemovePadding",
            ];
            assert!(no_kernel.iter().any(|start| error.contains(start)), "{error}");
        }
    }
}
