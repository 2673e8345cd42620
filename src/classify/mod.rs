//! Tokenising, micro-batching, ONNX sessions, decoding.
