//! `moodstream dead-letters`

use std::{io::Write as _, ops::ControlFlow, process::ExitCode};

use anyhow::Context as _;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::SettingsArgs;
use crate::{
    config::SettingsError,
    kafka::{self, Replay, StoredDeadLetter, read_dead_letters},
    post::Reason,
    telemetry,
};

/// Arguments of `moodstream dead-letters`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show dead letters, one JSON object per line.
    List(ListArgs),
    /// Send records back to the topic and partition that they came from, to be processed again.
    Replay(ReplayArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// The maximum number of characters of a value to show; 0 shows all.
    #[arg(long, default_value_t = 200, value_name = "N")]
    max_chars: usize,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, clap::Args)]
struct ReplayArgs {
    #[command(flatten)]
    filter: Filter,
    /// Send them to this topic instead, partitioned by key.
    #[arg(long, value_name = "TOPIC")]
    to: Option<String>,
    /// Only print how many would be sent.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Selects dead letters.
#[derive(Debug, Clone, clap::Args)]
struct Filter {
    /// The dead-letter topic; defaults to the one in the settings.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only dead letters with this reason; may be repeated.
    #[arg(long = "reason", value_name = "REASON", value_parser = clap::builder::PossibleValuesParser::new(Reason::NAMES))]
    reasons: Vec<String>,
    /// Only dead letters of records from this topic.
    #[arg(long, value_name = "TOPIC")]
    origin_topic: Option<String>,
    /// Only dead letters written since this time (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = |text: &str| OffsetDateTime::parse(text, &Rfc3339).map_err(|error| error.to_string()))]
    since: Option<OffsetDateTime>,
    /// Only the first N of these.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

impl Filter {
    fn admits(&self, letter: &StoredDeadLetter) -> bool {
        let reason = letter.reason.as_deref();
        let origin = letter.origin.as_ref().map(|origin| &*origin.topic);
        (self.reasons.is_empty() || reason.is_some_and(|reason| self.reasons.iter().any(|wanted| wanted == reason)))
            && self.origin_topic.as_deref().is_none_or(|wanted| origin == Some(wanted))
            && self
                .since
                .is_none_or(|since| letter.written_at.is_some_and(|written| written >= since))
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => list(args).await,
        Command::Replay(args) => replay(args).await,
    }
}

/// Reads the selected dead letters on a blocking thread, into a short queue.
fn read(
    settings: &SettingsArgs,
    filter: Filter,
) -> anyhow::Result<(
    crate::config::Settings,
    tokio::sync::mpsc::Receiver<StoredDeadLetter>,
    tokio::task::JoinHandle<anyhow::Result<()>>,
)> {
    let settings = settings.merge()?;
    kafka::check_clients(&settings.kafka)?;
    telemetry::init_logs(&settings.log).map_err(SettingsError::from)?;
    let topic = filter
        .topic
        .clone()
        .unwrap_or_else(|| settings.kafka.dead_letter_topic());
    let options = settings.kafka.clone();
    options.properties.check()?;
    let (letters, receiver) = tokio::sync::mpsc::channel(64);
    let started = OffsetDateTime::now_utc();
    let reading = tokio::task::spawn_blocking(move || {
        let mut left = filter.limit.unwrap_or(u64::MAX);
        read_dead_letters(&options, &topic, |letter| {
            // A running service may add dead letters meanwhile, including those of records just sent back.
            let is_new = letter.written_at.is_some_and(|written| written > started);
            if is_new || !filter.admits(&letter) {
                return ControlFlow::Continue(());
            }
            if left == 0 || letters.blocking_send(letter).is_err() {
                return ControlFlow::Break(());
            }
            left -= 1;
            ControlFlow::Continue(())
        })?;
        Ok(())
    });
    Ok((settings, receiver, reading))
}

async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let (_, mut letters, reading) = read(&args.settings, args.filter)?;
    while let Some(letter) = letters.recv().await {
        writeln!(std::io::stdout().lock(), "{}", line(&letter, args.max_chars))?;
    }
    reading.await??;
    Ok(ExitCode::SUCCESS)
}

fn line(letter: &StoredDeadLetter, max_chars: usize) -> serde_json::Value {
    let time = |time: Option<OffsetDateTime>| time.and_then(|time| time.format(&Rfc3339).ok());
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        match max_chars {
            0 => text.into_owned(),
            most => text.chars().take(most).collect(),
        }
    };
    json!({
        "partition": letter.place.partition, "offset": letter.place.offset, "reason": letter.reason, "detail": letter.detail,
        "origin": letter.origin.as_ref().map(ToString::to_string), "origin_timestamp": time(letter.origin_timestamp),
        "written_at": time(letter.written_at), "lacks": letter.lacks, "key": letter.key.as_deref().map(text),
        "value": letter.value.as_deref().map(text), "value_bytes": letter.value.as_ref().map(bytes::Bytes::len),
    })
}

async fn replay(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    /// The number of records sent together.
    const BATCH: usize = 500;

    let (settings, mut letters, reading) = read(&args.settings, args.filter)?;
    let replay = Replay::new(&settings.kafka, args.to.clone())?;
    let (mut sent, mut incomplete, mut unknown) = (0_u64, 0_u64, 0_u64);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let letter = letters.recv().await;
        let ended = letter.is_none();
        match letter {
            // Without its complete value and its key it would be another record.
            Some(letter) if !letter.lacks.is_empty() => incomplete += 1,
            Some(letter) if !replay.takes(&letter) => unknown += 1,
            Some(letter) => batch.push(letter),
            None => {}
        }
        if batch.len() == BATCH || ended {
            if !args.dry_run {
                replay
                    .send(&batch)
                    .await
                    .with_context(|| format!("after {sent} records"))?;
            }
            sent += batch.len() as u64;
            batch.clear();
        }
        if ended {
            break;
        }
    }
    reading.await??;
    let verb = if args.dry_run { "would send" } else { "sent" };
    eprintln!(
        "{verb} {sent} records back; skipped {incomplete} that are incomplete in the dead letter, and {unknown} without an origin"
    );
    Ok(ExitCode::SUCCESS)
}
