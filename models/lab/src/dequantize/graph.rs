//! The nodes and constants of an int8 file, found by scope or by the values that connect them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use half::f16;
use prost::Message as _;

use super::error::DequantizeError;
use moodstream::model::onnx::{AttributeProto, ElementType, ModelProto, NodeProto, PRODUCER, TensorProto};

const FLOAT32: i32 = ElementType::Float32 as i32;
const FLOAT16: i32 = ElementType::Float16 as i32;
const INT8: i32 = ElementType::Int8 as i32;

/// A graph that `export` wrote.
pub(super) struct Graph<'p> {
    path: &'p Path,
    nodes: Vec<NodeProto>,
    constants: HashMap<String, TensorProto>,
    /// The node that computes each value.
    producers: HashMap<String, usize>,
    /// The nodes that use each value.
    readers: HashMap<String, HashSet<usize>>,
}

impl<'p> Graph<'p> {
    /// Reads the file.
    pub(super) fn read(path: &'p Path) -> Result<Self, DequantizeError> {
        let bytes = fs::read(path).map_err(|source| DequantizeError::Read {
            path: path.to_owned(),
            source,
        })?;
        let invalid = |why: String| DequantizeError::NotExported {
            path: path.to_owned(),
            why,
        };
        let model = ModelProto::decode(bytes.as_slice()).map_err(|error| invalid(format!("not ONNX: {error}")))?;
        if model.producer_name != PRODUCER {
            return Err(invalid(format!("its producer is `{}`", model.producer_name)));
        }
        let graph = model.graph.unwrap_or_default();
        let constants = graph.initializer.into_iter();
        let (mut producers, mut readers) = (HashMap::new(), HashMap::<String, HashSet<usize>>::new());
        for (index, node) in graph.node.iter().enumerate() {
            producers.extend(node.output.iter().map(|value| (value.clone(), index)));
            for value in &node.input {
                readers.entry(value.clone()).or_default().insert(index);
            }
        }
        Ok(Self {
            path,
            nodes: graph.node,
            constants: constants.map(|tensor| (tensor.name.clone(), tensor)).collect(),
            producers,
            readers,
        })
    }

    /// An error about this file.
    pub(super) fn invalid(&self, why: String) -> DequantizeError {
        DequantizeError::NotExported {
            path: self.path.to_owned(),
            why,
        }
    }

    /// The nodes of a scope, without those of scopes inside it.
    pub(super) fn scope(&self, scope: &str) -> impl Iterator<Item = &NodeProto> {
        let is_in_scope = move |node: &&NodeProto| node.name.rsplit_once('/').is_some_and(|(own, _)| own == scope);
        self.nodes.iter().filter(is_in_scope)
    }

    /// The nodes of a scope for which `wanted` holds, of which there must be `N`.
    pub(super) fn nodes<const N: usize>(
        &self,
        scope: &str,
        what: &str,
        wanted: impl Fn(&NodeProto) -> bool,
    ) -> Result<[&NodeProto; N], DequantizeError> {
        let found: Vec<&NodeProto> = self.scope(scope).filter(|node| wanted(node)).collect();
        let count = found.len();
        found
            .try_into()
            .map_err(|_| self.invalid(format!("scope {scope} has {count} nodes {what}, not {N}")))
    }

    /// The node that computes `value`, which must be of that kind.
    pub(super) fn producer(&self, value: &str, kind: &str) -> Result<&NodeProto, DequantizeError> {
        self.producers
            .get(value)
            .map(|&index| &self.nodes[index])
            .filter(|node| node.op_type == kind)
            .ok_or_else(|| self.invalid(format!("value {value} is not the output of a {kind}")))
    }

    /// The only node that uses `value`.
    pub(super) fn reader(&self, value: &str) -> Result<&NodeProto, DequantizeError> {
        let readers = self.readers.get(value).into_iter().flatten();
        match readers.collect::<Vec<_>>()[..] {
            [&index] => Ok(&self.nodes[index]),
            ref other => Err(self.invalid(format!("{} nodes use value {value}, not 1", other.len()))),
        }
    }

    /// The constant that `export` names `name` in `scope`.
    pub(super) fn named(&self, scope: &str, name: &str) -> Result<&TensorProto, DequantizeError> {
        let prefix = format!("{scope}/{name}_c");
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let mut found = self
            .constants
            .values()
            .filter(|tensor| tensor.name.strip_prefix(&prefix).is_some_and(is_number));
        match (found.next(), found.next()) {
            (Some(tensor), None) => Ok(tensor),
            (None, _) => Err(self.invalid(format!("constant {scope}/{name} is absent"))),
            (Some(_), Some(_)) => Err(self.invalid(format!("there are several constants {scope}/{name}"))),
        }
    }

    /// The constant `value`, or the one in half precision of which it is the cast.
    pub(super) fn constant(&self, value: &str) -> Option<&TensorProto> {
        self.constants.get(value).or_else(|| {
            let cast = self.producer(value, "Cast").ok()?;
            self.constants.get(cast.input.first()?)
        })
    }

    /// The numbers of the constant `value`, which must have that shape.
    pub(super) fn numbers(&self, value: &str, dims: &[usize]) -> Result<Vec<f32>, DequantizeError> {
        let tensor = self
            .constant(value)
            .ok_or_else(|| self.invalid(format!("value {value} is not a constant")))?;
        let data = tensor.raw_data.as_slice();
        let values: Vec<f32> = match tensor.data_type {
            FLOAT32 => data
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect(),
            FLOAT16 => data
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f16::from_le_bytes(bytes).to_f32())
                .collect(),
            INT8 => data.iter().map(|byte| f32::from(byte.cast_signed())).collect(),
            other => return Err(self.invalid(format!("constant {} has the unexpected type {other}", tensor.name))),
        };
        self.check_shape(tensor, dims, values.len())?;
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(self.invalid(format!("constant {} has a number that is not finite", tensor.name))),
        }
    }

    /// Checks a constant's shape, and that it has as many `elements`.
    pub(super) fn check_shape(
        &self,
        tensor: &TensorProto,
        dims: &[usize],
        elements: usize,
    ) -> Result<(), DequantizeError> {
        if !tensor
            .dims
            .iter()
            .map(|&dim| usize::try_from(dim).ok())
            .eq(dims.iter().map(|&dim| Some(dim)))
        {
            return Err(self.invalid(format!(
                "constant {} is {:?}, but config.json says {dims:?}",
                tensor.name, tensor.dims
            )));
        }
        let expected = dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        match expected == Some(elements) {
            true => Ok(()),
            false => Err(self.invalid(format!("constant {} is truncated", tensor.name))),
        }
    }

    /// An input of a node.
    pub(super) fn input<'n>(&self, node: &'n NodeProto, index: usize) -> Result<&'n str, DequantizeError> {
        let input = node.input.get(index).filter(|input| !input.is_empty());
        input
            .map(String::as_str)
            .ok_or_else(|| self.invalid(format!("node {} has no input {index}", node.name)))
    }

    /// The output of a node.
    pub(super) fn output<'n>(&self, node: &'n NodeProto) -> Result<&'n str, DequantizeError> {
        let output = node.output.first();
        output
            .map(String::as_str)
            .ok_or_else(|| self.invalid(format!("node {} has no output", node.name)))
    }
}

/// An attribute of a node.
pub(super) fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}
