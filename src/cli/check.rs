//! `moodstream check`

use std::process::ExitCode;

use super::SettingsArgs;
use crate::{kafka, pipeline, store::Store};

/// How long the broker may take to answer.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Arguments of `moodstream check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = match args.settings.load() {
        Ok(settings) => settings,
        Err(error) => {
            line("settings", &Err(error.to_string()));
            return Ok(ExitCode::from(2));
        }
    };
    line("settings", &Ok("ok".to_owned()));
    let model =
        tokio::task::block_in_place(|| pipeline::start_classifier(&settings)).and_then(|(folder, _classifier)| {
            pipeline::post_filter(&settings)?;
            pipeline::profile(&settings, &folder)?;
            let info = folder.info();
            Ok(format!(
                "ok: {} ({}, {}), labels {}",
                info.id,
                info.precision,
                info.provider,
                info.labels.join(", ")
            ))
        });
    let model = model.map_err(|error| format!("{error:#}"));
    line("model", &model);
    let broker = kafka::check_broker(&settings.kafka, TIMEOUT)
        .await
        .map(|report| describe(&report))
        .map_err(|error| error.to_string());
    line("broker", &broker);
    let database = check_database(&settings).await.map_err(|error| format!("{error:#}"));
    line("database", &database);
    let well = model.is_ok() && broker.is_ok() && database.is_ok();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check_database(settings: &crate::config::Settings) -> anyhow::Result<String> {
    let store = Store::connect(&settings.database).await?;
    if store.schema_is_current().await? {
        return Ok("ok: schema up to date".to_owned());
    }
    anyhow::ensure!(
        settings.store.migrate,
        "the schema is not this version's: run `moodstream migrate`"
    );
    Ok("ok: the schema is not this version's yet; `run` applies the migrations".to_owned())
}

fn describe(report: &kafka::BrokerReport) -> String {
    let topics: Vec<String> = report
        .topics
        .iter()
        .map(|(topic, partitions)| format!("{topic} ({partitions} partitions)"))
        .collect();
    format!("ok: {}; topics {}", report.brokers.join(", "), topics.join(", "))
}

fn line(what: &str, result: &Result<String, String>) {
    let (mark, text) = match result {
        Ok(text) => ("+", text),
        Err(text) => ("!", text),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    println!("{mark} {what:<9} {text}");
}
