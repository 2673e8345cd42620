//! Checkpoints in Hugging Face's folder layout.
