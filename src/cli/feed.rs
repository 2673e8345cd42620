//! `moodstream feed`

use std::{
    borrow::Cow,
    io::IsTerminal as _,
    ops::ControlFlow,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use time::OffsetDateTime;

use super::{SettingsArgs, stop_signal};
use crate::{
    config::SettingsError,
    feed::{self, FeedInput, FeedOptions, FeedProgress, shift_timestamps},
    kafka,
    post::{self, Format},
    telemetry,
};

/// Arguments of `moodstream feed`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file, with one record per line, a JSON array, pretty-printed JSON, or server-sent events. zstd and gzip are
    /// decompressed. `-` reads standard input.
    file: PathBuf,
    /// The topic.
    #[arg(long)]
    topic: String,
    /// The number of records per second; defaults to as fast as the broker accepts them.
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Create the topic with this many partitions if it does not exist.
    #[arg(long, value_name = "P")]
    create_partitions: Option<i32>,
    /// Shift all event times so that the newest is now; reads the file twice.
    #[arg(long, alias = "rebase-time")]
    shift_timestamps: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = args.settings.merge()?;
    kafka::check_clients(&settings.kafka)?;
    telemetry::init_logs(&settings.log).map_err(SettingsError::from)?;
    let input = if args.file.as_os_str() == "-" {
        FeedInput::Stdin
    } else {
        FeedInput::File(args.file.clone())
    };
    if args.shift_timestamps && input == FeedInput::Stdin {
        return Err(SettingsError::ReadTwice.into());
    }
    let options = FeedOptions {
        topic: args.topic.clone(),
        rate: args.rate,
        create_partitions: args.create_partitions,
        any_text: settings.posts.format == Format::Text,
        ..FeedOptions::default()
    };
    let parsing = settings.posts.parsing();
    let stopped = Arc::new(AtomicBool::new(false));
    let signal = Arc::clone(&stopped);
    tokio::spawn(async move {
        stop_signal().await;
        signal.store(true, Ordering::Relaxed);
    });
    let summary = tokio::task::spawn_blocking(move || {
        let newest = if args.shift_timestamps {
            shift_timestamps::newest_in(&input, options.any_text).context("reading event times")?
        } else {
            None
        };
        let shift = newest.map(|newest| OffsetDateTime::now_utc() - newest);
        let bar = bar();
        let summary = feed::feed(
            &settings.kafka,
            &options,
            &input,
            |line| rewrite(line, shift),
            |line| post::key(line, &parsing).map(|id| id.to_string()),
            |progress| {
                update(&bar, progress);
                if stopped.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )?;
        bar.finish_and_clear();
        anyhow::Ok(summary)
    })
    .await??;
    eprintln!(
        "fed {} records ({} without a key) to {} in {:.1} s: {:.0} records/s{}",
        summary.progress.acknowledged,
        summary.without_key,
        args.topic,
        summary.elapsed.as_secs_f64(),
        summary.rate(),
        if summary.interrupted { ", interrupted" } else { "" },
    );
    Ok(if summary.interrupted {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn rewrite(line: &[u8], shift: Option<time::Duration>) -> Cow<'_, [u8]> {
    shift.map_or(Cow::Borrowed(line), |shift| shift_timestamps::shift(line, shift))
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::no_length();
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn update(bar: &ProgressBar, progress: &FeedProgress) {
    if let Some(length) = progress.input_length
        && bar.length().is_none()
    {
        bar.set_length(length);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {msg} {eta}") {
            bar.set_style(style);
        }
    }
    bar.set_position(progress.input_bytes);
    bar.set_message(format!("{} records", progress.sent));
}
