//! A tiny linear model of our own texts, which `moodstream-lab compare --export` wrote.

use std::{fs, path::Path};

/// Copies the model folder to `folder`, so that tests can change it.
pub fn write_folder(folder: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-linear");
    fs::create_dir_all(folder).unwrap();
    for file in ["config.json", "moodstream.toml", "linear.safetensors"] {
        fs::copy(fixture.join(file), folder.join(file)).unwrap();
    }
}
