//! Writes the fuzzers' initial corpora: `cargo build --workspace --example fuzz-seeds && target/debug/examples/fuzz-seeds FOLDER`.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::panic)]

mod properties;
mod seeds;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).unwrap_or_else(|| "tests/fuzz/corpus".into());
    seeds::write(folder.as_ref(), 2_000)
}
