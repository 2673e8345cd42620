//! The `moodstream-lab` binary.

fn main() {}
