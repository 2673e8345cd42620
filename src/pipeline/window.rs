//! The second stage: records are gathered into windows, and each window is classified in one call.
//!
//! A window closes when it is full, when its oldest record has waited for `max_delay`, or, so that an idle stream
//! does not wait for nothing, after a short linger when no other window is in work. While the sessions are busy it
//! goes on filling: waiting costs nothing then and makes better batches.

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

use super::{
    classified::{Classified, Outcome},
    decode::{Content, Decoded, Decoder},
};
use crate::{
    classify::Classifier,
    config::{UnsupportedLanguages, WindowSettings},
    kafka::Record,
    model::{Prediction, UNSUPPORTED},
    post::{Reason, Reject},
    telemetry::metric,
};

/// Records decoded by one blocking task: enough to hide its cost, few enough to share the cores.
const CHUNK: usize = 256;
/// How long a window waits for company when nothing else is in work.
const LINGER: Duration = Duration::from_millis(3);

/// A window in work; windows are awaited in the order they were closed.
pub(super) type Pending = JoinHandle<anyhow::Result<Vec<Classified>>>;

#[derive(Default)]
struct Window {
    records: Vec<Decoded>,
    posts: usize,
    opened: Option<Instant>,
}

impl Window {
    fn extend(&mut self, records: Vec<Decoded>) {
        self.opened.get_or_insert_with(Instant::now);
        self.posts += records
            .iter()
            .filter(|decoded| matches!(decoded.content, Content::Post { .. }))
            .count();
        self.records.extend(records);
    }

    fn is_full(&self, settings: &WindowSettings) -> bool {
        self.posts >= settings.max_posts || self.records.len() >= settings.max_records
    }
}

/// How many windows are in work, and a signal when one is done.
#[derive(Default)]
struct Load {
    windows: AtomicUsize,
    done: Notify,
}

/// Gathers records into windows until their channel closes, starts to classify each window and sends its handle on.
/// Notes when the first record came.
///
/// # Errors
/// A decoding task panicked, which no input makes it do.
pub(super) async fn gather(
    records: mpsc::Receiver<Record>,
    decoder: Arc<Decoder>,
    classifier: Arc<Classifier>,
    unsupported: UnsupportedLanguages,
    settings: WindowSettings,
    windows: mpsc::Sender<Pending>,
    first_record: Arc<OnceLock<Instant>>,
) -> anyhow::Result<()> {
    let mut chunks = std::pin::pin!(decode_chunks(records, decoder, first_record));
    let load = Arc::new(Load::default());
    let max_delay = Duration::from_millis(settings.max_delay_ms);
    let mut window = Window::default();
    loop {
        let idle = load.windows.load(Ordering::Acquire) == 0;
        let patience = if idle { max_delay.min(LINGER) } else { max_delay };
        let close_at = window.opened.map(|opened| opened + patience);
        tokio::select! {
            chunk = chunks.next() => match chunk {
                Some(records) => window.extend(records?),
                None => break,
            },
            () = sleep_until(close_at) => {
                if dispatch(&mut window, &classifier, unsupported, &load, &windows).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            // A window done may leave the sessions idle: look at the patience again.
            () = load.done.notified() => continue,
        }
        if window.is_full(&settings)
            && dispatch(&mut window, &classifier, unsupported, &load, &windows)
                .await
                .is_err()
        {
            return Ok(());
        }
    }
    // The last window: an error means that settling has ended, and with it the need for it.
    let _ = dispatch(&mut window, &classifier, unsupported, &load, &windows).await;
    Ok(())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Decodes records in chunks, several at once on the blocking pool, in order.
fn decode_chunks(
    records: mpsc::Receiver<Record>,
    decoder: Arc<Decoder>,
    first_record: Arc<OnceLock<Instant>>,
) -> impl Stream<Item = anyhow::Result<Vec<Decoded>>> {
    let readers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    stream::unfold((records, first_record), |(mut records, first_record)| async move {
        let mut chunk = Vec::with_capacity(CHUNK);
        let more = records.recv_many(&mut chunk, CHUNK).await > 0;
        if more {
            first_record.get_or_init(Instant::now);
        }
        more.then_some((chunk, (records, first_record)))
    })
    .map(move |chunk: Vec<Record>| {
        let decoder = Arc::clone(&decoder);
        async move {
            let decoded = tokio::task::spawn_blocking(move || decode_chunk(&decoder, chunk)).await?;
            Ok(decoded)
        }
    })
    .buffered(readers)
}

fn decode_chunk(decoder: &Decoder, chunk: Vec<Record>) -> Vec<Decoded> {
    let begun = std::time::Instant::now();
    let now = OffsetDateTime::now_utc();
    let count = chunk.len() as u64;
    let decoded = chunk.into_iter().map(|record| decoder.decode(record, now)).collect();
    metrics::histogram!(metric::STAGE_SECONDS, "stage" => "read").record(begun.elapsed().as_secs_f64());
    metrics::counter!(metric::STAGE_RECORDS, "stage" => "read").increment(count);
    decoded
}

/// Puts the window in work and hands it on; waits while the stage below is full.
async fn dispatch(
    window: &mut Window,
    classifier: &Arc<Classifier>,
    unsupported: UnsupportedLanguages,
    load: &Arc<Load>,
    windows: &mpsc::Sender<Pending>,
) -> Result<(), mpsc::error::SendError<()>> {
    let closed = std::mem::take(window);
    if closed.records.is_empty() {
        return Ok(());
    }
    // Reserved first: a window must not start before there is room for its result.
    let place = windows.reserve().await?;
    load.windows.fetch_add(1, Ordering::AcqRel);
    metrics::histogram!(metric::WINDOW_RECORDS).record(closed.records.len() as f64);
    let (classifier, load) = (Arc::clone(classifier), Arc::clone(load));
    place.send(tokio::spawn(async move {
        let classified = classify(closed.records, &classifier, unsupported).await;
        load.windows.fetch_sub(1, Ordering::AcqRel);
        load.done.notify_one();
        classified
    }));
    Ok(())
}

/// Classifies a window's posts in one call.
async fn classify(
    records: Vec<Decoded>,
    classifier: &Classifier,
    unsupported: UnsupportedLanguages,
) -> anyhow::Result<Vec<Classified>> {
    #[cfg(all(feature = "fail-points", debug_assertions))]
    crate::fail_point::pause("window-before").await;
    let begun = std::time::Instant::now();
    let texts: Vec<Arc<str>> = records
        .iter()
        .filter_map(|decoded| match &decoded.content {
            Content::Post { cleaned, .. } => Some(Arc::clone(cleaned)),
            _ => None,
        })
        .collect();
    let posts = texts.len();
    let predictions = if texts.is_empty() {
        Vec::new()
    } else {
        classifier.classify(texts).await
    };
    // A fault that is not the text's (a session broke) must not send posts to the dead letters.
    if let Some(fault) = predictions
        .iter()
        .filter_map(|prediction| prediction.as_ref().err())
        .find(|fault| !fault.is_of_the_text())
    {
        anyhow::bail!("the classifier can't go on: {fault}");
    }
    let done = std::time::Instant::now();
    let mut predictions = predictions.into_iter();
    let classified = records
        .into_iter()
        .map(|Decoded { record, content }| {
            let outcome = match content {
                Content::Post { post, topics, .. } => match predictions.next() {
                    Some(Ok(prediction)) => {
                        let is_unsupported = classifier.info().languages.support(post.lang) == Some(false);
                        if is_unsupported {
                            metrics::counter!(metric::POSTS_IN_UNSUPPORTED_LANGUAGES).increment(1);
                        }
                        let prediction = match unsupported {
                            UnsupportedLanguages::Replace if is_unsupported => without_emotion(prediction),
                            _ => prediction,
                        };
                        Outcome::Post {
                            post,
                            topics,
                            prediction,
                        }
                    }
                    Some(Err(fault)) => Outcome::Rejected(Reject {
                        reason: Reason::Model,
                        detail: fault.to_string(),
                    }),
                    None => anyhow::bail!("the classifier answered fewer texts than it was given"),
                },
                Content::Deletion(deletion) => Outcome::Deletion(deletion),
                Content::Filtered => Outcome::Filtered,
                Content::Late => Outcome::Late,
                Content::Rejected(reject) => Outcome::Rejected(reject),
            };
            Ok(Classified::new(record, begun, done, outcome))
        })
        .collect::<anyhow::Result<Vec<Classified>>>()?;
    metrics::histogram!(metric::STAGE_SECONDS, "stage" => "classify").record(begun.elapsed().as_secs_f64());
    metrics::counter!(metric::STAGE_RECORDS, "stage" => "classify").increment(posts as u64);
    Ok(classified)
}

/// The prediction of a post whose language the model doesn't support. The scores stay, for whoever wants to look.
fn without_emotion(prediction: Prediction) -> Prediction {
    Prediction {
        emotion: UNSUPPORTED.into(),
        score: 0.0,
        ..prediction
    }
}
