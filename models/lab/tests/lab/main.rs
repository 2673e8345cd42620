//! The lab as users run it, and its exported models in ONNX Runtime.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod command;
mod compare;
mod dequantize;
mod export;
mod exporters;
mod recipe;
mod support;
mod teacher;
