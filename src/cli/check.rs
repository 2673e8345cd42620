//! `moodstream check`

use std::{io::Write as _, process::ExitCode};

use super::SettingsArgs;
use crate::{
    kafka::{self, DeadLetterTopic},
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
    let broker = kafka::check_broker(&settings.kafka, TIMEOUT)
        .await
        .map_err(|error| error.to_string())
        .and_then(|report| describe(&report, settings.dead_letter.enabled));
    line("broker", &broker);
    let database = check_database(&settings).await.map_err(|error| format!("{error:#}"));
    line("database", &database);
    let well = model.is_ok() && broker.is_ok() && database.is_ok();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check_database(settings: &crate::config::Settings) -> anyhow::Result<String> {
    let store = Store::connect(&settings.database).await?;
    match store.schema().await? {
        Schema::Current => Ok("ok: schema up to date".to_owned()),
        Schema::Ahead { version } => Ok(format!(
            "ok: the schema is at version {version}, this program at {}; it may write to it",
            schema_version()
        )),
        Schema::Behind => {
            anyhow::ensure!(
                settings.store.migrate,
                "the schema is older than this program: run `moodstream migrate`"
            );
            Ok("ok: the schema is older than this program; `run` applies the migrations".to_owned())
        }
    }
}

/// Describes what the broker has.
///
/// # Errors
/// What would stop the service later.
fn describe(report: &kafka::BrokerReport, dead_letters: bool) -> Result<String, String> {
    let topics: Vec<String> = report
        .topics
        .iter()
        .map(|(topic, partitions)| format!("{topic} ({partitions} partitions)"))
        .collect();
    let dead_letters = match &report.dead_letters {
        _ if !dead_letters => "dead letters are counted only".to_owned(),
        DeadLetterTopic::Present {
            name,
            cut_to_bytes: None,
        } => format!("dead letters to {name}"),
        DeadLetterTopic::Present {
            name,
            cut_to_bytes: Some(bytes),
        } => format!(
            "dead letters to {name}, which takes {bytes} bytes and less than the topics that are read: larger records are \
             cut there, so raise its max.message.bytes"
        ),
        DeadLetterTopic::Absent {
            name,
            created_by_broker: Some(false),
        } => {
            return Err(format!(
                "the dead-letter topic {name} is not there, and the broker makes no topics (auto.create.topics.enable): the \
                 first record that can't be handled would stop everything; create it, or set dead_letter.enabled = false"
            ));
        }
        DeadLetterTopic::Absent { name, .. } => format!("dead letters to {name}, which the first of them makes"),
    };
    Ok(format!(
        "ok: {}; topics {}; {dead_letters}",
        report.brokers.join(", "),
        topics.join(", ")
    ))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn describe(dead_letters: DeadLetterTopic) -> Result<String, String> {
        let report = kafka::BrokerReport {
            brokers: vec!["kafka-1:9092".to_owned()],
            topics: vec![("posts".to_owned(), 4)],
            dead_letters,
        };
        super::describe(&report, true)
    }

    #[test]
    fn a_dead_letter_topic_that_nobody_makes_is_a_fault() {
        let absent = |created_by_broker| DeadLetterTopic::Absent {
            name: "posts.dead-letter".to_owned(),
            created_by_broker,
        };
        assert!(describe(absent(Some(false))).unwrap_err().contains("create it"));
        assert!(describe(absent(Some(true))).is_ok() && describe(absent(None)).is_ok());
        let small = DeadLetterTopic::Present {
            name: "posts.dead-letter".to_owned(),
            cut_to_bytes: Some(1_000),
        };
        assert!(describe(small).unwrap().contains("max.message.bytes"));
    }
}
