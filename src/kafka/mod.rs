//! Consuming, assignment and pausing, dead letters, feeding.
