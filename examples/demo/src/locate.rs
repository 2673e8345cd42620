//! Finds the broker, PostgreSQL, the model and the service's program.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A multilingual model, as the samples are in several languages.
const DEFAULT_MODEL: &str = "models/emotion-xlm-roberta-12x384-multilingual";

/// The folder with the broker, PostgreSQL and ONNX Runtime.
pub(super) fn find_runtime(named: Option<&Path>) -> Result<PathBuf> {
    let complete = |folder: &Path| folder.join("bin/tansu").exists() && folder.join("pg/bin/postgres").exists();
    let found = match named {
        Some(folder) => Some(folder.to_owned()).filter(|folder| complete(folder)),
        None => candidate_folders()
            .map(|folder| folder.join(".runtime"))
            .find(|folder| complete(folder)),
    };
    let found = found.with_context(|| match named {
        Some(folder) => format!(
            "{} does not contain a broker and PostgreSQL: run `make setup`",
            folder.display()
        ),
        None => {
            "no .runtime folder with a broker and PostgreSQL here or in a parent folder: run `make setup`".to_owned()
        }
    })?;
    absolute(&found)
}

pub(super) fn find_model(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = named {
        if !folder.join("config.json").exists() {
            bail!("{} is not a model folder: it has no config.json", folder.display());
        }
        return absolute(folder);
    }
    let found = candidate_folders().find_map(|root| {
        let default = root.join(DEFAULT_MODEL);
        if default.join("config.json").exists() {
            return Some(default);
        }
        let mut folders: Vec<PathBuf> = std::fs::read_dir(root.join("models"))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        folders.sort();
        folders.into_iter().find(|folder| folder.join("config.json").exists())
    });
    let found = found.context(
        "no model folder with a config.json under models/ here or in a parent folder; name one with --model FOLDER",
    )?;
    absolute(&found)
}

/// The working folder and its parents, then this program's path and its parents.
fn candidate_folders() -> impl Iterator<Item = PathBuf> {
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    starts
        .into_iter()
        .flatten()
        .flat_map(|start| start.ancestors().map(Path::to_owned).collect::<Vec<_>>())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("{} can't be resolved", path.display()))
}

/// Returns the service's program: by default beside this one, where Cargo puts both.
pub(super) fn find_service(named: Option<&Path>) -> Result<PathBuf> {
    let service = match named {
        Some(program) => program.to_owned(),
        None => std::env::current_exe()
            .context("the path of this program is unknown")?
            .with_file_name("moodstream"),
    };
    if !service.is_file() {
        bail!(
            "no service at {}: build it with `cargo build --release --package moodstream`, or name it with --service",
            service.display()
        );
    }
    absolute(&service)
}
