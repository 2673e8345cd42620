//! `moodstream demo`: the whole service on sample posts, on a throwaway broker and PostgreSQL.

use std::{
    io::{ErrorKind, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use console::Term;
use indicatif::{ProgressBar, ProgressStyle};
use sqlx::{PgPool, Row, postgres::PgPoolOptions};
use time::OffsetDateTime;
use tokio::{
    io::AsyncWriteExt,
    signal::unix::{SignalKind, signal},
};

mod damage;
mod languages;
mod phrases;
mod plot;
mod posts;
mod process;
mod report;
mod services;
mod setup;
mod wire;

use plot::{Screen, thousands};
use posts::{Counts, Writer};
use process::{Running, Scratch};
use report::Timing;
use setup::Setup;

const TOPIC: &str = "posts";
const GROUP: &str = "moodstream-demo";
const PARTITIONS: u32 = 4;
/// How far back the sample goes.
const SPAN: time::Duration = time::Duration::minutes(30);
/// The service has failed when it settles nothing for so long.
const STALL: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);
/// A live post each so often.
const TRICKLE: Duration = Duration::from_millis(350);

/// Run the whole service on sample posts, on a throwaway broker and PostgreSQL.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many sample posts to feed.
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    posts: u32,
    /// The seed of the sample: the same seed writes the same posts.
    #[arg(long, value_name = "N", default_value_t = 7)]
    seed: u64,
    /// The model folder; the first under models/ that has a config.json if absent.
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// Where `make setup` has put the broker, PostgreSQL and ONNX Runtime; .runtime here or further up if absent.
    #[arg(long, value_name = "FOLDER", env = "MOODSTREAM_RUNTIME")]
    runtime: Option<PathBuf>,
    /// End after the summary, as without a terminal or with CI=true.
    #[arg(long)]
    once: bool,
}

/// Sample records without end, as the demo feeds them: posts in every wire format, reposts, duplicates, deletions, late
/// posts and damage. The same seed and times give the same bytes.
pub struct Samples(Writer);

impl Samples {
    /// Begins with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Writer::new(seed))
    }

    /// The next records, about as many as asked for, written in the half hour before `now`, in the order in which
    /// they arrive.
    pub fn next(&mut self, records: usize, now: OffsetDateTime) -> Vec<Vec<u8>> {
        self.0.sample(records, SPAN, now).records
    }
}

/// Runs the demo: until Ctrl-C on a terminal, else until the summary is written.
///
/// # Errors
///
/// When a piece of it is missing, can't be started or fails; the message holds its last words.
pub async fn run(args: Args) -> Result<ExitCode> {
    let started = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt()).context("Ctrl-C can't be watched for")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be watched for")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP can't be watched for")?;
    let scratch = Scratch::new()?;
    let mut stack = Stack::default();
    let result = tokio::select! {
        result = show(&args, started, &scratch, &mut stack) => result,
        _ = interrupt.recv() => Ok(false),
        _ = terminate.recv() => Ok(false),
        _ = hangup.recv() => Ok(false),
    };
    let summed_up = stack.summed_up;
    stack.stop().await;
    scratch.close()?;
    if stdout_is_watched() {
        print("\n  Stopped, and nothing left behind.\n")?;
    }
    let ended_by_itself = result?;
    Ok(if ended_by_itself || summed_up {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(130)
    })
}

/// What runs, in the order of starting.
#[derive(Default)]
struct Stack {
    running: Vec<Running>,
    summed_up: bool,
}

impl Stack {
    fn check(&mut self) -> Result<()> {
        self.running.iter_mut().try_for_each(Running::check)
    }

    /// Stops the last started first: the service says goodbye to a broker and a database that still answer.
    async fn stop(self) {
        for running in self.running.into_iter().rev() {
            running.stop(Duration::from_secs(10)).await;
        }
    }
}

/// True when it came to its end by itself.
async fn show(args: &Args, started: Instant, scratch: &Scratch, stack: &mut Stack) -> Result<bool> {
    let runtime = find_runtime(args.runtime.as_deref())?;
    let model = find_model(args.model.as_deref())?;
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
    // Whatever has started goes onto the stack before a failure of the other ends this.
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
        binary: std::env::current_exe().context("this program can't find itself")?,
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

    let report = report::gather(&pool, setup.http, now - SPAN).await?;
    progress.clear();
    print(&report.render(&sample.counts, &timing, screen))?;
    stack.summed_up = true;
    let goes_on = !(args.once || !stdout_is_watched() || in_ci());
    print(&setup.where_to_look(&runtime, goes_on, screen))?;
    if !goes_on {
        pool.close().await;
        return Ok(true);
    }
    live(&pool, &setup, scratch, stack, &mut writer, screen).await?;
    Ok(false)
}

/// Waits until all that was fed is settled.
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
    let mut settled = 0;
    let mut moved = Instant::now();
    loop {
        stack.check()?;
        if ready.is_none() && report::http_get(setup.http, "/ready").await.is_ok() {
            ready = Some(Instant::now());
        }
        let row = sqlx::query("SELECT coalesce(sum(next_offset), 0)::bigint FROM consumer_offset WHERE topic = $1")
            .bind(TOPIC)
            .fetch_one(pool)
            .await
            .context("consumer_offset can't be read")?;
        let now_settled = u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
        if now_settled > settled {
            (settled, moved) = (now_settled, Instant::now());
            first_results.get_or_insert_with(|| started.elapsed());
            progress.settled(settled, all);
        }
        if settled >= all {
            // Committed before the first look at /ready: then the wait was not worth measuring.
            let settling = ready.unwrap_or(moved).elapsed();
            return Ok(Timing {
                first_results: first_results.unwrap_or_default(),
                settling,
            });
        }
        if moved.elapsed() > STALL {
            bail!(
                "{settled} of {all} records are settled, and no more for {} s",
                STALL.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Goes on with a trickle of posts until it is interrupted or something fails.
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
    print("\n  Posts keep coming; Ctrl-C ends it all and removes every trace.\n\n")?;
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

/// What happens, as a bar on a terminal and as plain lines elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    plain: std::cell::Cell<u64>,
}

impl Progress {
    fn new(screen: Screen) -> Self {
        print(&format!("\n  {}\n\n", screen.bold("moodstream demo"))).ok();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Self {
            bar,
            plain: std::cell::Cell::new(0),
        }
    }

    fn say(&self, what: &'static str) {
        match &self.bar {
            Some(bar) => bar.set_message(what),
            None => eprintln!("demo: {what}"),
        }
    }

    fn settled(&self, settled: u64, all: u64) {
        let Some(bar) = &self.bar else {
            // A line each tenth is enough for a log.
            let tenth = settled * 10 / all.max(1);
            if tenth > self.plain.replace(tenth) {
                eprintln!("demo: {settled} of {all} records are settled");
            }
            return;
        };
        if bar.length().is_none() {
            bar.set_length(all);
            let template = "  {spinner} classifying {wide_bar:.cyan/238} {human_pos}/{human_len}  {per_sec:>14}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
        }
        bar.set_position(settled);
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The folder with the broker, PostgreSQL and ONNX Runtime.
fn find_runtime(named: Option<&Path>) -> Result<PathBuf> {
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

fn find_model(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = named {
        if !folder.join("config.json").exists() {
            bail!("{} is no model folder: it has no config.json", folder.display());
        }
        return absolute(folder);
    }
    let found = further_up().find_map(|root| {
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

fn colours() -> bool {
    // https://no-color.org: present and not empty.
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn stdout_is_watched() -> bool {
    std::io::stdout().is_terminal()
}

fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Writes to standard output; a reader that has gone away is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("the output can't be written"),
        _ => Ok(()),
    }
}
