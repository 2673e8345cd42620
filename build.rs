//! Generates the lemmatiser's tables, and triggers a rebuild when a migration is added. Both are embedded in the binary.

use std::{env, error::Error, fs, path::Path};

#[path = "src/clean/lemma/table.rs"]
mod table;

const LISTS: &str = "src/clean/wordnet";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed={LISTS}");
    println!("cargo:rerun-if-changed=src/clean/lemma/table.rs");
    let out = env::var("OUT_DIR")?;
    for name in ["nouns", "verbs"] {
        let words = fs::read_to_string(Path::new(LISTS).join(name).with_extension("txt"))?;
        let bytes = table::bytes(words.lines());
        fs::write(Path::new(&out).join(name).with_extension("table"), bytes)?;
    }
    Ok(())
}
