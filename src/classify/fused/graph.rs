//! A graph whose nodes can be found by the values that connect them, and replaced.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::model::onnx::{AttributeProto, ElementType, GraphProto, NodeProto, TensorProto};

/// A graph that is being rewritten.
pub(super) struct Graph {
    nodes: Vec<NodeProto>,
    /// The node that computes each value.
    producers: HashMap<String, usize>,
    constants: HashMap<String, TensorProto>,
    /// The graph without nodes and constants.
    rest: GraphProto,
}

impl Graph {
    pub(super) fn new(mut graph: GraphProto) -> Self {
        let constants = std::mem::take(&mut graph.initializer).into_iter();
        let mut this = Self {
            nodes: Vec::new(),
            producers: HashMap::new(),
            constants: constants.map(|tensor| (tensor.name.clone(), tensor)).collect(),
            rest: GraphProto::default(),
        };
        for node in std::mem::take(&mut graph.node) {
            this.put(node);
        }
        this.rest = graph;
        this
    }

    /// Adds a node, which from now on computes its outputs instead of the nodes that did.
    pub(super) fn put(&mut self, node: NodeProto) {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            self.producers.insert(output.clone(), self.nodes.len());
        }
        self.nodes.push(node);
    }

    pub(super) fn put_constant(&mut self, tensor: TensorProto) {
        self.constants.insert(tensor.name.clone(), tensor);
    }

    pub(super) fn nodes(&self) -> &[NodeProto] {
        &self.nodes
    }

    /// Returns the node that computes `value`, if it is of a kind.
    pub(super) fn producer(&self, value: &str, kind: &str) -> Option<&NodeProto> {
        let node = &self.nodes[*self.producers.get(value)?];
        (node.op_type == kind).then_some(node)
    }

    /// Whether all nodes that use `value` compute one of `allowed`.
    pub(super) fn is_used_only_for(&self, value: &str, allowed: &[&str]) -> bool {
        let users = self
            .nodes
            .iter()
            .filter(|node| node.input.iter().any(|input| input == value));
        let is_output = self.rest.output.iter().any(|output| output.name == value);
        !is_output
            && users
                .flat_map(|user| &user.output)
                .all(|output| allowed.contains(&output.as_str()))
    }

    pub(super) fn constant(&self, value: &str, element: ElementType) -> Option<&TensorProto> {
        let tensor = self.constants.get(value)?;
        (tensor.data_type == element as i32).then_some(tensor)
    }

    /// Returns a vector of floats.
    pub(super) fn floats(&self, value: &str) -> Option<Vec<f32>> {
        let tensor = self.constant(value, ElementType::Float32)?;
        let (floats, rest) = tensor.raw_data.as_chunks::<4>();
        (tensor.dims.len() <= 1 && rest.is_empty())
            .then(|| floats.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    /// Returns a single float.
    pub(super) fn float(&self, value: &str) -> Option<f32> {
        match self.floats(value)?[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Returns a single unsigned byte.
    pub(super) fn byte(&self, value: &str) -> Option<u8> {
        match self.constant(value, ElementType::Uint8)?.raw_data[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Returns a vector of integers.
    pub(super) fn integers(&self, value: &str) -> Option<Vec<i64>> {
        let (integers, _) = self.constant(value, ElementType::Int64)?.raw_data.as_chunks::<8>();
        Some(integers.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect())
    }

    /// Returns the graph with the nodes and constants that its outputs depend on, in the order of evaluation.
    pub(super) fn finish(self) -> GraphProto {
        let Self {
            mut nodes,
            producers,
            mut constants,
            rest,
        } = self;
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        // Depth first: a node follows its inputs. The flag says that its inputs have been visited.
        let mut stack: Vec<(&str, bool)> = rest
            .output
            .iter()
            .rev()
            .map(|output| (output.name.as_str(), false))
            .collect();
        let mut values = BTreeSet::new();
        while let Some((value, is_ready)) = stack.pop() {
            values.insert(value.to_owned());
            let Some(&node) = producers.get(value) else {
                continue;
            };
            if is_ready {
                order.push(node);
            } else if seen.insert(node) {
                stack.push((value, true));
                stack.extend(nodes[node].input.iter().rev().map(|input| (input.as_str(), false)));
            }
        }
        let initializer = values.iter().filter_map(|value| constants.remove(value)).collect();
        let node = order.into_iter().map(|node| std::mem::take(&mut nodes[node])).collect();
        GraphProto {
            node,
            initializer,
            ..rest
        }
    }
}

/// Returns an attribute of a node.
pub(super) fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

/// Returns the name of an input of a node; it is empty if there is none.
pub(super) fn input(node: &NodeProto, index: usize) -> &str {
    node.input.get(index).map_or("", String::as_str)
}
