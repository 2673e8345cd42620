//! Where the broker, PostgreSQL, the model and the service's own program are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The model that the samples' languages are for.
const DEFAULT_MODEL: &str = "models/emotion-xlm-roberta-12x384-multilingual";

/// The folder with the broker, PostgreSQL and ONNX Runtime.
pub(super) fn find_runtime(named: Option<&Path>) -> Result<PathBuf> {
    let complete = |folder: &Path| folder.join("bin/tansu").exists() && folder.join("pg/bin/postgres").exists();
    let found = match named {
        Some(folder) => Some(folder.to_owned()).filter(|folder| complete(folder)),
        None => further_up()
            .map(|folder| folder.join(".runtime"))
            .find(|folder| complete(folder)),
    };
    let found = found.with_context(|| match named {
        Some(folder) => format!("{} holds no broker and PostgreSQL: run `make setup`", folder.display()),
        None => "no .runtime folder with a broker and PostgreSQL here or further up: run `make setup`".to_owned(),
    })?;
    absolute(&found)
}

pub(super) fn find_model(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = named {
        if !folder.join("config.json").exists() {
            bail!("{} is no model folder: it has no config.json", folder.display());
        }
        return absolute(folder);
    }
    let found = further_up().find_map(|root| {
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
        "no model: no folder under models/, here or further up, has a config.json; name one with --model FOLDER",
    )?;
    absolute(&found)
}

/// The working folder and its parents, then this program's.
fn further_up() -> impl Iterator<Item = PathBuf> {
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    starts
        .into_iter()
        .flatten()
        .flat_map(|start| start.ancestors().map(Path::to_owned).collect::<Vec<_>>())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("{} can't be reached", path.display()))
}

/// The program of the service: beside this one, where Cargo puts both.
pub(super) fn find_service(named: Option<&Path>) -> Result<PathBuf> {
    let service = match named {
        Some(program) => program.to_owned(),
        None => std::env::current_exe()
            .context("this program can't find itself")?
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
