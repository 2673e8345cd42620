//! The second stage: records gathered into windows, each classified as one.
//!
//! A window closes when it is full, when its oldest record has waited `max_delay`, or, so that an
//! idle stream does not wait in vain, after a short linger when nothing else is in work. While
//! the sessions are busy it goes on filling: waiting then costs nothing and makes batches better.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::Instant,
};

use super::read::{Fate, Reader};
use crate::{
    classify::Classifier,
    config::WindowSettings,
    kafka::Message,
    model::Verdict,
    observe::metric,
    post::{Reason, Reject},
};

/// Records read by one blocking task: large enough to hide its cost, small enough to share cores.
const CHUNK: usize = 256;
/// How long a window waits for company when nothing else is in work.
const LINGER: Duration = Duration::from_millis(3);

/// A record with its fate.
#[derive(Debug)]
pub(super) struct Item {
    /// The record; dropping it gives its bytes back to the consumer's budget.
    pub message: Message,
    /// What is to become of it.
    pub fate: Fate,
}

/// A record whose fate is settled as far as the model goes.
#[derive(Debug)]
pub(super) struct Judged {
    /// The record.
    pub message: Message,
    /// What is to become of it: never [`Fate::Post`] without a verdict.
    pub fate: Fate,
    /// The verdict of a post.
    pub verdict: Option<Verdict>,
}

/// A window in work; windows are awaited in the order they were closed.
pub(super) type Pending = JoinHandle<anyhow::Result<Vec<Judged>>>;

#[derive(Default)]
struct Window {
    items: Vec<Item>,
    posts: usize,
    opened: Option<Instant>,
}

impl Window {
    fn extend(&mut self, items: Vec<Item>) {
        self.opened.get_or_insert_with(Instant::now);
        self.posts += items
            .iter()
            .filter(|item| matches!(item.fate, Fate::Post { .. }))
            .count();
        self.items.extend(items);
    }

    fn is_full(&self, settings: &WindowSettings) -> bool {
        self.posts >= settings.max_posts || self.items.len() >= settings.max_records
    }
}

/// How many windows are in work, and a signal when one is done.
#[derive(Default)]
struct Load {
    windows: AtomicUsize,
    done: Notify,
}

/// Gathers records into windows until the channel of records closes; sends each window, already in work, on.
/// Notes when the first record came.
///
/// # Errors
/// A reading task failed, which no input makes it do.
pub(super) async fn gather(
    records: mpsc::Receiver<Message>,
    reader: Arc<Reader>,
    classifier: Arc<Classifier>,
    settings: WindowSettings,
    windows: mpsc::Sender<Pending>,
    first_record: Arc<OnceLock<Instant>>,
) -> anyhow::Result<()> {
    let mut chunks = std::pin::pin!(read_chunks(records, reader, first_record));
    let load = Arc::new(Load::default());
    let max_delay = Duration::from_millis(settings.max_delay_ms);
    let mut window = Window::default();
    loop {
        let idle = load.windows.load(Ordering::Acquire) == 0;
        let patience = if idle { max_delay.min(LINGER) } else { max_delay };
        let close_at = window.opened.map(|opened| opened + patience);
        tokio::select! {
            chunk = chunks.next() => match chunk {
                Some(items) => window.extend(items?),
                None => break,
            },
            () = sleep_until(close_at) => {
                if dispatch(&mut window, &classifier, &load, &windows).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            // A window done may leave the sessions idle: look at the patience again.
            () = load.done.notified() => continue,
        }
        if window.is_full(&settings) && dispatch(&mut window, &classifier, &load, &windows).await.is_err() {
            return Ok(());
        }
    }
    // The last window: an error means that settling has ended, and with it the need for it.
    let _ = dispatch(&mut window, &classifier, &load, &windows).await;
    Ok(())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Reads records in chunks, several at once on the blocking pool, in order.
fn read_chunks(
    records: mpsc::Receiver<Message>,
    reader: Arc<Reader>,
    first_record: Arc<OnceLock<Instant>>,
) -> impl Stream<Item = anyhow::Result<Vec<Item>>> {
    let readers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    stream::unfold((records, first_record), |(mut records, first_record)| async move {
        let mut chunk = Vec::with_capacity(CHUNK);
        let more = records.recv_many(&mut chunk, CHUNK).await > 0;
        if more {
            first_record.get_or_init(Instant::now);
        }
        more.then_some((chunk, (records, first_record)))
    })
    .map(move |chunk: Vec<Message>| {
        let reader = Arc::clone(&reader);
        async move {
            let items = tokio::task::spawn_blocking(move || read_chunk(&reader, chunk)).await?;
            Ok(items)
        }
    })
    .buffered(readers)
}

fn read_chunk(reader: &Reader, chunk: Vec<Message>) -> Vec<Item> {
    let begun = std::time::Instant::now();
    let now = OffsetDateTime::now_utc();
    let count = chunk.len() as u64;
    let items: Vec<Item> = chunk
        .into_iter()
        .map(|message| {
            let fate = reader.read(&message, now);
            Item { message, fate }
        })
        .collect();
    metrics::histogram!(metric::STAGE_SECONDS, "stage" => "read").record(begun.elapsed().as_secs_f64());
    metrics::counter!(metric::STAGE_RECORDS, "stage" => "read").increment(count);
    items
}

/// Puts the window in work and hands it on; waits while the stage below is full.
async fn dispatch(
    window: &mut Window,
    classifier: &Arc<Classifier>,
    load: &Arc<Load>,
    windows: &mpsc::Sender<Pending>,
) -> Result<(), mpsc::error::SendError<()>> {
    let closed = std::mem::take(window);
    if closed.items.is_empty() {
        return Ok(());
    }
    // The place comes first: a window must not run before there is room to hold its result.
    let place = windows.reserve().await?;
    load.windows.fetch_add(1, Ordering::AcqRel);
    metrics::histogram!(metric::WINDOW_RECORDS).record(closed.items.len() as f64);
    let (classifier, load) = (Arc::clone(classifier), Arc::clone(load));
    place.send(tokio::spawn(async move {
        let judged = judge(closed.items, &classifier).await;
        load.windows.fetch_sub(1, Ordering::AcqRel);
        load.done.notify_one();
        judged
    }));
    Ok(())
}

async fn judge(items: Vec<Item>, classifier: &Classifier) -> anyhow::Result<Vec<Judged>> {
    #[cfg(all(feature = "fail-points", debug_assertions))]
    crate::fail_point::dawdle("window-before").await;
    let begun = std::time::Instant::now();
    let texts: Vec<Arc<str>> = items
        .iter()
        .filter_map(|item| match &item.fate {
            Fate::Post { cleaned, .. } => Some(Arc::clone(cleaned)),
            _ => None,
        })
        .collect();
    let posts = texts.len();
    let verdicts = if texts.is_empty() {
        Vec::new()
    } else {
        classifier.classify(texts).await
    };
    anyhow::ensure!(
        verdicts.len() == posts,
        "the classifier answered {} of {posts} texts",
        verdicts.len()
    );
    // A fault that is not the text's (a session broke) must not send posts to the dead letters.
    if let Some(fault) = verdicts
        .iter()
        .filter_map(|verdict| verdict.as_ref().err())
        .find(|fault| !fault.is_of_the_text())
    {
        anyhow::bail!("the classifier can't go on: {fault}");
    }
    let mut verdicts = verdicts.into_iter();
    let judged = items
        .into_iter()
        .map(|Item { message, fate }| {
            if !matches!(fate, Fate::Post { .. }) {
                return Judged {
                    message,
                    fate,
                    verdict: None,
                };
            }
            match verdicts.next() {
                Some(Ok(verdict)) => Judged {
                    message,
                    fate,
                    verdict: Some(verdict),
                },
                Some(Err(fault)) => rejected(message, fault.to_string()),
                None => rejected(message, "no answer".to_owned()),
            }
        })
        .collect();
    metrics::histogram!(metric::STAGE_SECONDS, "stage" => "classify").record(begun.elapsed().as_secs_f64());
    metrics::counter!(metric::STAGE_RECORDS, "stage" => "classify").increment(posts as u64);
    Ok(judged)
}

fn rejected(message: Message, detail: String) -> Judged {
    Judged {
        message,
        fate: Fate::Rejected(Reject {
            reason: Reason::Model,
            detail,
        }),
        verdict: None,
    }
}
