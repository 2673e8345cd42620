//! Changes to a model folder's `moodstream.toml`: `thresholds` and `evaluate` write their results there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use moodstream::model::toml_mistake;
use toml_edit::{DocumentMut, Item, Table, value};

use crate::files;

/// The manifest as a document: everything that is not set stays as written, including comments.
pub(crate) struct Manifest {
    path: PathBuf,
    document: DocumentMut,
}

impl Manifest {
    /// Reads the manifest of a model folder; an empty one if there is none.
    pub(crate) fn read(model: &Path) -> anyhow::Result<Self> {
        let path = model.join("moodstream.toml");
        let text = match path.exists() {
            true => fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?,
            false => String::new(),
        };
        let document = text.parse().map_err(|error: toml_edit::TomlError| {
            let mistake = toml_mistake(&text, error.span(), error.message());
            anyhow::anyhow!("{}: {mistake}", path.display())
        })?;
        Ok(Self { path, document })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The temperature, if the manifest has one.
    pub(crate) fn temperature(&self) -> anyhow::Result<Option<f64>> {
        let number = |item: &Item| item.as_float().or_else(|| item.as_integer().map(|whole| whole as f64));
        self.document
            .get("temperature")
            .map(|item| number(item).with_context(|| format!("{}: `temperature` is not a number", self.path.display())))
            .transpose()
    }

    /// Sets the temperature.
    pub(crate) fn with_temperature(mut self, temperature: f64) -> Self {
        self.document["temperature"] = value(round(temperature));
        self
    }

    /// Sets the threshold of each label.
    pub(crate) fn with_thresholds<'l>(self, thresholds: impl Iterator<Item = (&'l str, f64)>) -> Self {
        self.with_table("thresholds", thresholds)
    }

    /// Sets the figure of each language.
    pub(crate) fn with_languages<'l>(self, figures: impl Iterator<Item = (&'l str, f64)>) -> Self {
        self.with_table("languages", figures)
    }

    fn with_table<'l>(mut self, name: &str, numbers: impl Iterator<Item = (&'l str, f64)>) -> Self {
        let mut table = Table::new();
        for (key, number) in numbers {
            table.insert(key, value(round(number)));
        }
        self.document[name] = Item::Table(table);
        self
    }

    /// Writes it into the folder.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        Ok(files::write(&self.path, self.document.to_string().as_bytes())?)
    }
}

/// Rounds to four decimals, which is more than a validation split can resolve.
fn round(number: f64) -> f64 {
    (number * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn settings_that_are_not_changed_are_kept_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moodstream.toml");
        fs::write(&path, "# by hand\nname = \"x\" # kept\n\n[groups]\ngood = [\"joy\"]\n").unwrap();
        let manifest = Manifest::read(folder.path()).unwrap();
        assert_eq!(manifest.temperature().unwrap(), None);
        manifest.with_temperature(1.25).write().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "# by hand\nname = \"x\" # kept\ntemperature = 1.25\n\n[groups]\ngood = [\"joy\"]\n"
        );
        for figure in [0.5, 0.123_456] {
            let manifest = Manifest::read(folder.path()).unwrap();
            manifest
                .with_languages([("pt-BR", figure)].into_iter())
                .write()
                .unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with("\n[languages]\npt-BR = 0.1235\n") && text.contains("[groups]"),
            "{text}"
        );
        fs::write(&path, "# by hand\nname = ").unwrap();
        let error = format!("{:#}", Manifest::read(folder.path()).err().unwrap());
        assert!(error.contains("moodstream.toml: line 2: "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
