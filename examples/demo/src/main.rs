//! `moodstream-demo`: runs the whole service on sample posts, with a throwaway broker and PostgreSQL.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser as _;
use console::Term;
use indicatif::{ProgressBar, ProgressStyle};
use moodstream_demo::{Counts, Writer};
use sqlx::{PgPool, Row, postgres::PgPoolOptions};
use time::OffsetDateTime;
use tokio::{
    io::AsyncWriteExt,
    signal::unix::{SignalKind, signal},
};

#[path = "../../../tests/support/exposition.rs"]
mod exposition;
mod http;
mod locate;
mod plot;
mod process;
mod progress;
mod report;
mod services;
mod setup;
mod terminal;

use locate::{find_model, find_runtime, find_service};
use plot::{Screen, thousands};
use process::{Running, Scratch};
use progress::Progress;
use report::Timing;
use setup::Setup;
use terminal::{colours, in_ci, print, stdout_is_terminal};

const TOPIC: &str = "posts";
const GROUP: &str = "moodstream-demo";
const PARTITIONS: u32 = 4;
/// How far back the sample goes.
const SPAN: time::Duration = time::Duration::minutes(30);
/// The demo gives up when the service commits nothing for this long.
const STALL: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);
/// The interval between live posts.
const TRICKLE: Duration = Duration::from_millis(350);

/// Run the whole service on sample posts, with a throwaway broker and PostgreSQL.
#[derive(Debug, clap::Parser)]
#[command(version)]
struct Args {
    /// How many sample posts to feed.
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    posts: u32,
    /// The seed of the sample: the same seed writes the same posts.
    #[arg(long, value_name = "N", default_value_t = 7)]
    seed: u64,
    /// The model folder. By default the multilingual one under models/, or else the first there with a config.json.
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// The folder with the broker, PostgreSQL and ONNX Runtime of `make setup`. By default .runtime, here or in a parent folder.
    #[arg(long, value_name = "FOLDER", env = "MOODSTREAM_RUNTIME")]
    runtime: Option<PathBuf>,
    /// The service's program. By default `moodstream` beside this one.
    #[arg(long, value_name = "FILE")]
    service: Option<PathBuf>,
    /// Exit after the summary, as without a terminal or with CI=true.
    #[arg(long)]
    once: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = tokio::runtime::Runtime::new()
        .context("can't start the runtime")
        .and_then(|runtime| runtime.block_on(run(args)));
    ended.unwrap_or_else(|error| {
        eprintln!("moodstream-demo: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs the demo: until Ctrl-C on a terminal, else until the summary is written.
async fn run(args: Args) -> Result<ExitCode> {
    let started = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt()).context("can't handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't handle SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("can't handle SIGHUP")?;
    let scratch = Scratch::new()?;
    let mut stack = Stack::default();
    let result = tokio::select! {
        result = demonstrate(&args, started, &scratch, &mut stack) => result,
        _ = interrupt.recv() => Ok(false),
        _ = terminate.recv() => Ok(false),
        _ = hangup.recv() => Ok(false),
    };
    let summed_up = stack.summed_up;
    stack.stop().await;
    scratch.close()?;
    if stdout_is_terminal() {
        print("\n  Stopped; all temporary data is removed.\n")?;
    }
    let ended_by_itself = result?;
    Ok(if ended_by_itself || summed_up {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(130)
    })
}

/// The running processes, in the order in which they started.
#[derive(Default)]
struct Stack {
    running: Vec<Running>,
    summed_up: bool,
}

impl Stack {
    fn check(&mut self) -> Result<()> {
        self.running.iter_mut().try_for_each(Running::check)
    }

    /// Stops the processes in reverse order, so that the service shuts down while the broker and the database still answer.
    async fn stop(self) {
        for running in self.running.into_iter().rev() {
            running.stop(Duration::from_secs(10)).await;
        }
    }
}

/// Returns true if the demo ended by itself, and false if it was still running live posts.
async fn demonstrate(args: &Args, started: Instant, scratch: &Scratch, stack: &mut Stack) -> Result<bool> {
    let runtime = find_runtime(args.runtime.as_deref())?;
    let model = find_model(args.model.as_deref())?;
    let service = find_service(args.service.as_deref())?;
    let screen = Screen {
        width: usize::from(Term::stdout().size().1).clamp(60, 160),
        colour: colours(),
    };
    let progress = Progress::new(screen);

    progress.say("writing sample posts, starting a broker and PostgreSQL");
    let now = OffsetDateTime::now_utc();
    let mut writer = Writer::new(args.seed);
    let sample = writer.sample(args.posts as usize, SPAN, now);
    let feed_file = scratch.path("posts.jsonl");
    std::fs::write(&feed_file, sample.records.join(&b'\n')).context("the sample posts can't be written")?;

    let (broker, postgres) = tokio::join!(
        services::start_broker(&runtime, scratch),
        services::start_postgres(&runtime, scratch)
    );
    // If only one of them started, the stack gets it before the other's error is returned.
    let (broker, postgres) = match (broker, postgres) {
        (Ok(broker), Ok(postgres)) => (broker, postgres),
        (Ok((running, _)), Err(error)) | (Err(error), Ok((running, _))) => {
            stack.running.push(running);
            return Err(error);
        }
        (Err(error), Err(_)) => return Err(error),
    };
    let (broker, brokers) = broker;
    let (postgres, database) = postgres;
    stack.running.extend([postgres, broker]);

    let setup = Setup {
        binary: service,
        brokers: brokers.to_string(),
        database,
        model,
        http: services::free_address()?,
        settings: setup::write_settings(scratch)?,
        onnxruntime: std::env::var_os("ORT_DYLIB_PATH")
            .filter(|path| !path.is_empty())
            .map_or_else(|| runtime.join("lib/libonnxruntime.so"), PathBuf::from),
    };
    progress.say("applying the migrations and feeding the posts");
    let feeding = setup.job("feed").args(["feed".as_ref(), feed_file.as_os_str()]).args([
        "--topic",
        TOPIC,
        "--create-partitions",
        &PARTITIONS.to_string(),
    ]);
    tokio::try_join!(
        setup.job("migrate").args(["migrate"]).run(scratch),
        feeding.run(scratch)
    )?;

    progress.say("loading the model");
    stack.running.push(setup.service().start(scratch)?);
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect(&setup.database)
        .await
        .context("PostgreSQL does not answer")?;
    let timing = catch_up(&pool, &setup, stack, sample.counts, started, &progress).await?;

    let report = report::gather(&pool, setup.http, now - SPAN, &sample.intents).await?;
    progress.clear();
    print(&report.render(&sample.counts, &timing, screen))?;
    stack.summed_up = true;
    let goes_on = !(args.once || !stdout_is_terminal() || in_ci());
    print(&setup.where_to_look(&runtime, goes_on, screen))?;
    if !goes_on {
        pool.close().await;
        return Ok(true);
    }
    live(&pool, &setup, scratch, stack, &mut writer, screen).await?;
    Ok(false)
}

/// Waits until all records that were fed are committed.
async fn catch_up(
    pool: &PgPool,
    setup: &Setup,
    stack: &mut Stack,
    fed: Counts,
    started: Instant,
    progress: &Progress,
) -> Result<Timing> {
    let all = fed.records() as u64;
    let mut ready = None;
    let mut first_results = None;
    let mut committed = 0;
    let mut moved = Instant::now();
    loop {
        stack.check()?;
        if ready.is_none() && http::get(setup.http, "/ready").await.is_ok() {
            ready = Some(Instant::now());
        }
        let row = sqlx::query("SELECT coalesce(sum(next_offset), 0)::bigint FROM consumer_offset WHERE topic = $1")
            .bind(TOPIC)
            .fetch_one(pool)
            .await
            .context("consumer_offset can't be read")?;
        let now_committed = u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
        if now_committed > committed {
            (committed, moved) = (now_committed, Instant::now());
            first_results.get_or_insert_with(|| started.elapsed());
            progress.committed(committed, all);
        }
        if committed >= all {
            // If all was committed before the first successful check of /ready, the time was too short to measure.
            let catch_up = ready.unwrap_or(moved).elapsed();
            return Ok(Timing {
                first_results: first_results.unwrap_or_default(),
                catch_up,
            });
        }
        if moved.elapsed() > STALL {
            bail!(
                "{committed} of {all} records are committed, without progress for {} s",
                STALL.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Keeps feeding posts at a slow rate until it is interrupted or something fails.
async fn live(
    pool: &PgPool,
    setup: &Setup,
    scratch: &Scratch,
    stack: &mut Stack,
    writer: &mut Writer,
    screen: Screen,
) -> Result<()> {
    let mut feed = setup
        .job("live-feed")
        .args(["feed", "-", "--topic", TOPIC])
        .piped()
        .start(scratch)?;
    let mut input = feed.stdin()?;
    stack.running.push(feed);
    print("\n  Posts keep coming. Ctrl-C stops the demo and removes its data.\n\n")?;
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("  {spinner} {wide_msg}")?);
    bar.enable_steady_tick(Duration::from_millis(120));
    let mut tick = tokio::time::interval(TRICKLE);
    loop {
        tick.tick().await;
        stack.check()?;
        let mut line = writer.next_live(OffsetDateTime::now_utc());
        line.push(b'\n');
        input.write_all(&line).await.context("the live posts can't be fed")?;
        input.flush().await.context("the live posts can't be fed")?;
        let rows: i64 = sqlx::query("SELECT count(*) FROM post")
            .fetch_one(pool)
            .await?
            .try_get(0)?;
        let newest = report::newest(pool, screen).await?;
        bar.set_message(format!(
            "{} posts · {newest}",
            thousands(u64::try_from(rows).unwrap_or(0))
        ));
    }
}
