//! The encoder: forward and backward passes.
