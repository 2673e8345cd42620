//! Writes the model folder under a temporary name and renames it when it is complete.

use std::fs;
use std::path::Path;

use moodstream::{clean::Profile, model::toml_mistake};

use super::error::{ExportError, ManifestFault};
use crate::files::{self, FileError};

/// Files of the checkpoint that are copied.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
pub(crate) const MANIFEST: &str = "moodstream.toml";

/// A model folder that is being written. If it is dropped before [`Self::publish`], nothing is left behind.
#[derive(Debug)]
pub(crate) struct Staging(files::Staging);

impl Staging {
    /// Starts a folder that will be renamed to `target`.
    pub(crate) fn begin(target: &Path) -> Result<Self, ExportError> {
        if target.exists() {
            return Err(ExportError::Exists(target.to_owned()));
        }
        Ok(Self(files::Staging::new(target)?))
    }

    /// The folder until it is published.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Copies the configuration and the tokenizer, and writes the manifest.
    pub(crate) fn describe(&self, checkpoint: &Path, name: Option<&str>) -> Result<(), ExportError> {
        for file in NEEDED {
            self.copy(checkpoint, file)?;
        }
        for file in OPTIONAL {
            if checkpoint.join(file).is_file() {
                self.copy(checkpoint, file)?;
            }
        }
        self.write(MANIFEST, manifest(checkpoint, name)?.as_bytes())
    }

    pub(crate) fn write_onnx(&self, file: &str, bytes: &[u8]) -> Result<(), ExportError> {
        let onnx = self.path().join("onnx");
        fs::create_dir_all(&onnx).map_err(FileError::when("make", &onnx))?;
        self.write(&format!("onnx/{file}"), bytes)
    }

    /// Renames the folder.
    pub(crate) fn publish(self) -> Result<(), ExportError> {
        Ok(self.0.finish()?)
    }

    fn copy(&self, checkpoint: &Path, file: &str) -> Result<(), ExportError> {
        let path = checkpoint.join(file);
        let bytes = fs::read(&path).map_err(|source| ExportError::Read { path, source })?;
        self.write(file, &bytes)
    }

    /// Writes a file.
    pub(crate) fn write(&self, file: &str, bytes: &[u8]) -> Result<(), ExportError> {
        Ok(files::write(&self.path().join(file), bytes)?)
    }
}

/// The checkpoint's manifest as text and as a table; both are empty if it has none.
fn read_manifest(checkpoint: &Path) -> Result<(String, toml::Table), ExportError> {
    let path = checkpoint.join(MANIFEST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(ExportError::Read { path, source }),
    };
    let table = text.parse().map_err(|error: toml::de::Error| {
        let fault = ManifestFault::NotToml(toml_mistake(&text, error.span(), error.message()));
        ExportError::Manifest { path, fault }
    })?;
    Ok((text, table))
}

/// The cleaning profile in the checkpoint's manifest.
pub(crate) fn profile(checkpoint: &Path) -> Result<Profile, ExportError> {
    let (_, table) = read_manifest(checkpoint)?;
    let Some(name) = table.get("profile") else {
        return Ok(Profile::default());
    };
    let fault = match name.as_str().map(Profile::from_name) {
        Some(Ok(profile)) => return Ok(profile),
        Some(Err(unknown)) => unknown.into(),
        None => ManifestFault::ProfileNotAString,
    };
    let path = checkpoint.join(MANIFEST);
    Err(ExportError::Manifest { path, fault })
}

/// The checkpoint's manifest with the given name, or with the folder's name if it has none.
pub(crate) fn manifest(checkpoint: &Path, name: Option<&str>) -> Result<String, ExportError> {
    let (text, mut table) = read_manifest(checkpoint)?;
    let folder_name = checkpoint.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name
        .map(str::to_owned)
        .or_else(|| if table.contains_key("name") { None } else { folder_name });
    let Some(name) = name else { return Ok(text) };
    table.insert("name".to_owned(), name.into());
    toml::to_string(&table).map_err(|error| ExportError::Manifest {
        path: checkpoint.join(MANIFEST),
        fault: error.into(),
    })
}
