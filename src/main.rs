//! The `moodstream` binary.

fn main() {}
