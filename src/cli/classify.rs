//! `moodstream classify`

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use serde_json::json;

use super::SettingsArgs;
use crate::{config::SettingsError, model::Prediction, pipeline, telemetry};

/// The number of texts classified together when reading from standard input.
const WINDOW: usize = 1_024;

/// Arguments of `moodstream classify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Texts, one per argument; `-` or none reads lines from standard input.
    texts: Vec<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = args.settings.merge()?;
    if settings.model.path.as_os_str().is_empty() {
        return Err(SettingsError::NoModelGiven.into());
    }
    telemetry::init_logs(&settings.log).map_err(SettingsError::from)?;
    let (folder, classifier) = tokio::task::block_in_place(|| pipeline::start_classifier(&settings))?;
    let profile = pipeline::profile(&settings, &folder)?;
    let info = folder.info().clone();
    let print_predictions = async |texts: Vec<String>| -> anyhow::Result<()> {
        let cleaned: Vec<Arc<str>> = texts.iter().map(|text| profile.clean(text).into()).collect();
        let predictions = classifier.classify(cleaned).await;
        let mut out = std::io::stdout().lock();
        for (text, prediction) in texts.iter().zip(predictions) {
            let line = match prediction {
                Ok(prediction) => line(text, &prediction, &info.labels, &info.id),
                Err(fault) => json!({"text": text, "error": fault.to_string()}),
            };
            writeln!(out, "{line}")?;
        }
        Ok(())
    };
    if !args.texts.is_empty() && args.texts != ["-"] {
        print_predictions(args.texts).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if std::io::stdin().is_terminal() {
        eprintln!("reading texts from the terminal, one per line; Ctrl-D ends the input");
    }
    let mut window = Vec::new();
    let interactive = std::io::stdin().is_terminal();
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line.context("can't read standard input")?;
        window.push(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
        if interactive || window.len() == WINDOW {
            print_predictions(std::mem::take(&mut window)).await?;
        }
    }
    print_predictions(window).await?;
    Ok(ExitCode::SUCCESS)
}

fn line(text: &str, prediction: &Prediction, labels: &[Arc<str>], model_id: &str) -> serde_json::Value {
    let scores: serde_json::Map<_, _> = labels
        .iter()
        .zip(prediction.scores.iter())
        .map(|(label, score)| (label.to_string(), json!(score)))
        .collect();
    json!({"text": text, "emotion": &*prediction.emotion, "score": prediction.score, "scores": scores, "model_id": model_id})
}
