//! `moodstream check`

use std::{io::Write as _, process::ExitCode};

use super::SettingsArgs;
use crate::{
    config::Settings,
    kafka::{self, BrokerReport},
    pipeline,
    store::{Schema, Store, schema_version},
};

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
    let broker = check_broker(&settings).await;
    line(
        "broker",
        &broker.as_ref().map(|(text, _)| text.clone()).map_err(Clone::clone),
    );
    let database = check_database(&settings).await.map_err(|error| format!("{error:#}"));
    line(
        "database",
        &database.as_ref().map(|(text, _)| text.clone()).map_err(Clone::clone),
    );
    let mut well = model.is_ok() && broker.is_ok() && database.is_ok();
    if let (Ok((_, report)), Ok((_, Some(store)))) = (&broker, &database) {
        let offsets = check_offsets(&settings, store, report).await;
        line("offsets", &offsets);
        well &= offsets.is_ok();
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check_broker(settings: &Settings) -> Result<(String, BrokerReport), String> {
    let report = kafka::check_broker(&settings.kafka, TIMEOUT)
        .await
        .map_err(|error| error.to_string())?;
    let warnings = if settings.dead_letter.enabled {
        kafka::prepare_dead_letter_topic(&settings.kafka, &report, TIMEOUT, true)
            .await
            .map_err(|error| error.to_string())?
    } else {
        vec!["dead letters are counted only".to_owned()]
    };
    Ok((describe(&report, &warnings), report))
}

/// Returns the store where its schema is current.
async fn check_database(settings: &Settings) -> anyhow::Result<(String, Option<Store>)> {
    let store = Store::connect(&settings.database).await?;
    let text = match store.schema().await? {
        Schema::Current => "ok: schema up to date".to_owned(),
        Schema::Ahead { version } => format!(
            "ok: the schema is at version {version}, this program at {}; it may write to it",
            schema_version()
        ),
        Schema::Behind => {
            anyhow::ensure!(
                settings.store.migrate,
                "the schema is older than this program: run `moodstream migrate`"
            );
            let text = "ok: the schema is older than this program; `run` applies the migrations";
            return Ok((text.to_owned(), None));
        }
    };
    let lacking = store.lacking_rights().await?;
    anyhow::ensure!(
        lacking.is_empty(),
        "the role lacks {}: grant it by `moodstream migrate --service-role`",
        lacking.join(", ")
    );
    Ok((text, Some(store)))
}

async fn check_offsets(settings: &Settings, store: &Store, broker: &BrokerReport) -> Result<String, String> {
    let report = pipeline::check_offsets(settings, store, broker, TIMEOUT)
        .await
        .map_err(|error| format!("{error:#}"))?;
    if !report.faults.is_empty() {
        return Err(format!(
            "would be quarantined (docs/quarantine.md): {}",
            report.faults.join("; ")
        ));
    }
    let warnings: String = report.warnings.iter().map(|warning| format!("; {warning}")).collect();
    Ok(format!(
        "ok: {} partitions have one, {} records behind{warnings}",
        report.known, report.lag
    ))
}

/// Describes what the broker has.
fn describe(report: &BrokerReport, warnings: &[String]) -> String {
    let topics: Vec<String> = report
        .topics
        .iter()
        .map(|(topic, partitions)| format!("{topic} ({partitions} partitions)"))
        .collect();
    let warnings: String = warnings.iter().map(|warning| format!("; {warning}")).collect();
    format!(
        "ok: {}; topics {}{warnings}",
        report.brokers.join(", "),
        topics.join(", ")
    )
}

fn line(what: &str, result: &Result<String, String>) {
    let (mark, text) = match result {
        Ok(text) => ("+", text),
        Err(text) => ("!", text),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // The reader (`head`, for example) may have ended already.
    let _ = writeln!(std::io::stdout(), "{mark} {what:<9} {text}");
}
