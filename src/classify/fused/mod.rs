//! Fused operators between the matrix products of int8 graphs, on a CPU.
//!
//! Half of an int8 graph's time goes into products of bytes, which ONNX Runtime computes at the processor's limit. The other
//! half moves floats between small operators. [`fuse`] replaces these by the operators of [`operators`], each of which reads its
//! input once: normalisation, GELU or attention with the scales before it and the quantisation after it.
//!
//! The file stays as it is, so other runtimes can load it. Only the lab's graphs are rewritten, since they have known patterns;
//! a part that does not match one is left as it is.

mod graph;
mod operators;
mod patterns;

use prost::Message as _;

pub(super) use self::operators::domain;
use self::{graph::Graph, patterns::rewrite};
use crate::model::onnx::{ModelProto, OperatorSetIdProto, PRODUCER};

/// Reads an ONNX file, and returns the same model with fused operators, or `None` if there is nothing to fuse.
pub(super) fn fuse(file: Vec<u8>) -> Option<Vec<u8>> {
    // The rest of other producers' files is skipped instead of copied.
    if Header::decode(file.as_slice()).ok()?.producer_name != PRODUCER {
        return None;
    }
    let mut model = ModelProto::decode(file.as_slice()).ok()?;
    // Another tool may have added fields that would be lost.
    if model.encoded_len() != file.len() {
        return None;
    }
    drop(file);
    let mut graph = Graph::new(model.graph.take()?);
    if rewrite(&mut graph) == 0 {
        return None;
    }
    model.graph = Some(graph.finish());
    model.opset_import.push(OperatorSetIdProto {
        domain: operators::DOMAIN.to_owned(),
        version: 1,
    });
    Some(model.encode_to_vec())
}

/// The first fields of a model.
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(string, tag = "2")]
    producer_name: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;
    use crate::model::onnx::{GraphProto, NodeProto};

    fn file(model: &str) -> Vec<u8> {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        fs::read(models.join(model).join("onnx/model_int8.onnx")).unwrap()
    }

    fn graph(file: &[u8]) -> GraphProto {
        ModelProto::decode(file).unwrap().graph.unwrap()
    }

    fn kinds(graph: &GraphProto) -> BTreeMap<&str, usize> {
        let mut kinds = BTreeMap::new();
        for node in &graph.node {
            *kinds.entry(node.op_type.as_str()).or_default() += 1;
        }
        kinds
    }

    #[test]
    fn every_int8_layer_of_the_shipped_models_is_fused() {
        // Of the English model's last layer only the keys and values of all tokens are computed in int8.
        for (model, layers, products) in [
            ("emotion-roberta-6x384", 5, 5 * 4 + 3),
            ("emotion-xlm-roberta-12x384-multilingual", 12, 12 * 4),
        ] {
            let fused = fuse(file(model)).unwrap();
            let graph = graph(&fused);
            let kinds = kinds(&graph);
            let count = |kind: &str| kinds.get(kind).copied().unwrap_or_default();
            assert_eq!(count("AttentionQuantize"), layers, "{kinds:?}");
            assert_eq!(count("GeluQuantize"), layers, "{kinds:?}");
            assert_eq!(count("MatMulIntegerToFloat"), products, "{kinds:?}");
            assert_eq!(count("QuantizeLinear") + count("Abs") + count("Expand"), 0, "{kinds:?}");
            assert_eq!(
                count("LayerNormQuantize"),
                2 * layers - usize::from(layers == 12),
                "{kinds:?}"
            );
        }
    }

    #[test]
    fn a_fused_graph_keeps_no_constants_that_it_does_not_use_and_evaluates_inputs_first() {
        let file = file("emotion-roberta-6x384");
        let fused = fuse(file.clone()).unwrap();
        assert!(
            fused.len() < file.len() + 100_000,
            "{} bytes instead of {}",
            fused.len(),
            file.len()
        );
        let graph = graph(&fused);
        let mut known: Vec<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        known.extend(graph.input.iter().map(|input| input.name.as_str()));
        for node in &graph.node {
            for input in node.input.iter().filter(|input| !input.is_empty()) {
                assert!(known.contains(&input.as_str()), "{input} of {}", node.name);
            }
            known.extend(node.output.iter().map(String::as_str));
        }
    }

    #[test]
    fn graphs_of_other_producers_stay_as_they_are() {
        let mut model = ModelProto::decode(&file("emotion-roberta-6x384")[..]).unwrap();
        model.producer_name = "pytorch".to_owned();
        assert!(fuse(model.encode_to_vec()).is_none());
        assert!(fuse(b"no ONNX".to_vec()).is_none());
    }

    #[test]
    fn a_file_with_fields_that_would_be_lost_stays_as_it_is() {
        let mut file = file("emotion-roberta-6x384");
        // `doc_string`, which the exporter does not write.
        file.extend([6 << 3 | 2, 4]);
        file.extend(b"note");
        assert!(ModelProto::decode(file.as_slice()).is_ok());
        assert!(fuse(file).is_none());
    }

    #[test]
    fn damaged_nodes_cause_no_panic() {
        let whole = ModelProto::decode(&file("emotion-roberta-6x384")[..]).unwrap();
        let damages: [fn(&mut NodeProto); 4] = [
            |node| node.input.clear(),
            |node| node.output.clear(),
            |node| node.attribute.clear(),
            |node| node.input.truncate(1),
        ];
        for damage in damages {
            let mut model = whole.clone();
            model.graph.as_mut().unwrap().node.iter_mut().for_each(damage);
            // It is refused later, by ONNX Runtime.
            drop(fuse(model.encode_to_vec()));
        }
    }
}
