//! Makes models for moodstream from labelled posts.
//!
//! The modules, in the order of the steps:
//!
//! - [`prepare`]: cleans, de-duplicates and splits published labelled sets into TSV files;
//! - [`unpack`]: converts a file of 4-bit weights to a checkpoint;
//! - [`cut`]: reduces a checkpoint's Unigram vocabulary to the pieces that given text uses;
//! - [`carry`]: converts a BERT checkpoint to RoBERTa with a new vocabulary;
//! - [`pretrain`]: adapts a checkpoint to raw text;
//! - [`train`]: fine-tunes a checkpoint on labelled text;
//! - [`average`]: averages the weights of several checkpoints;
//! - [`export`]: converts a checkpoint to an ONNX model folder in fp32, fp16 or int8;
//! - [`dequantize`]: converts an int8 model folder that `export` wrote back to a checkpoint;
//! - [`compare`]: trains and tunes classical classifiers and compares them with model folders;
//! - [`evaluate`]: evaluates a model folder with the service's classifier;
//! - [`thresholds`]: fits thresholds or a temperature and writes them to the manifest.
//!
//! [`data`] reads labelled sets in their published formats, [`metrics`] computes the figures of training and evaluation.
//!
//! `train` and `pretrain` share [`training`] (steps, progress, state on disk). Below these and `carry` are [`encoder`]
//! (forward and backward passes), [`optim`] (AdamW) and [`checkpoint`] (Hugging Face's folder layout).

pub mod average;
pub mod carry;
pub mod checkpoint;
pub mod compare;
pub mod cut;
pub mod data;
pub mod dequantize;
pub mod encoder;
pub mod evaluate;
pub mod export;
pub mod files;
mod manifest;
pub mod metrics;
pub mod optim;
pub mod prepare;
pub mod pretrain;
#[cfg(test)]
mod testing;
pub mod thresholds;
pub mod tokenizer;
pub mod train;
mod training;
mod unigram;
pub mod unpack;
