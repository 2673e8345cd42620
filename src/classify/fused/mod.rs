//! Fused operators for int8 graphs on a CPU.
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

/// Returns the file of the same model with fused operators, or `None` if there is nothing to fuse. `file` is an ONNX file.
pub(super) fn fuse(file: &[u8]) -> Option<Vec<u8>> {
    let mut model = ModelProto::decode(file).ok()?;
    if model.producer_name != PRODUCER {
        return None;
    }
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

/// Whether this processor has fused multiply-add, without which the operators would be slow.
pub(super) fn is_fast_here() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        cfg!(target_arch = "aarch64")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;
    use crate::model::onnx::GraphProto;

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
            let fused = fuse(&file(model)).unwrap();
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
        let fused = fuse(&file).unwrap();
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
        assert!(fuse(&model.encode_to_vec()).is_none());
        assert!(fuse(b"no ONNX").is_none());
    }
}
