//! From labelled posts to a model that moodstream serves.
//!
//! The modules, in the order of the work:
//!
//! - [`prepare`]: labelled sets as published become one clean, split, de-duplicated TSV;
//! - [`unpack`]: a file of 4-bit weights becomes a checkpoint;
//! - [`cut`]: a checkpoint's Unigram vocabulary is cut to what given text uses;
//! - [`carry`]: a BERT-like checkpoint becomes a RoBERTa one with a vocabulary of its own;
//! - [`pretrain`]: masked-language-model adaptation of a checkpoint to raw text;
//! - [`train`]: a checkpoint is fine-tuned on labelled text;
//! - [`average`]: the mean of the weights of several checkpoints;
//! - [`export`]: a checkpoint becomes an ONNX model folder in fp32, fp16 or int8;
//! - [`compare`]: classical classifiers are trained, tuned and held against model folders;
//! - [`evaluate`]: a model folder is judged in the runtime that serves it;
//! - [`thresholds`]: thresholds or a temperature are fitted and written to the manifest.
//!
//! [`data`] reads labelled sets as they were published, [`metrics`] holds the figures that training
//! and judging share.
//!
//! `train` and `pretrain` share [`training`] (steps, progress, state on disk). Under them and `carry` stand [`encoder`]
//! (forward and backward passes), [`optim`] (AdamW) and [`checkpoint`] (Hugging Face's folder layout).

pub mod average;
pub mod carry;
pub mod checkpoint;
pub mod compare;
pub mod cut;
pub mod data;
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
