//! Gathers records into windows, and classifies each window in one call.
//!
//! A window closes as soon as a session is idle, with all records that arrived while the sessions were busy. So windows are
//! small at low load, and fill up to their limits under a backlog. If all sessions stay busy, a window closes when its oldest
//! record has waited for `max_delay_ms`, so that records that need no session, such as deletions, are not held up.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use time::OffsetDateTime;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
    time::Instant,
};

use super::{
    classified::{Classified, Outcome},
    decode::{Content, Decoded, Decoder},
};
use crate::{
    classify::{Classifier, Reservation},
    config::{UnsupportedLanguages, WindowSettings},
    kafka::Record,
    model::{Prediction, UNSUPPORTED},
    post::{Reason, Reject},
    telemetry::metric,
};

/// Records decoded by one blocking task: enough to make its overhead negligible, few enough to spread over the cores.
const CHUNK: usize = 256;

/// A window being classified. Windows are awaited in the order in which they were closed.
pub(super) struct Pending {
    pub(super) task: JoinHandle<anyhow::Result<Vec<Classified>>>,
    /// Its share of the windows' capacity, held until the committing stage takes its records.
    _permit: Option<OwnedSemaphorePermit>,
}

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

    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn is_full(&self, settings: &WindowSettings) -> bool {
        self.posts >= settings.max_posts || self.records.len() >= settings.max_records
    }

    /// The permits that it needs of the windows' capacity: one for each record, at most `max_posts`.
    fn permits(&self, settings: &WindowSettings) -> u32 {
        u32::try_from(self.records.len().clamp(1, settings.max_posts)).unwrap_or(u32::MAX)
    }

    /// When it closes at the latest, provided that there is capacity for it.
    fn deadline(&self, settings: &WindowSettings) -> Instant {
        self.opened.unwrap_or_else(Instant::now) + Duration::from_millis(settings.max_delay_ms)
    }
}

/// Resolves when a window that is not empty should be closed: when there is capacity for it, and it is full, a session is
/// idle, or the deadline has passed. Until then it keeps filling, which costs nothing while all sessions are busy and makes
/// better batches.
async fn due(
    is_full: bool,
    deadline: Instant,
    idle: impl Future<Output = ()>,
    capacity: Arc<Semaphore>,
    permits: u32,
) -> Option<OwnedSemaphorePermit> {
    // The semaphore is never closed.
    let permit = capacity.acquire_many_owned(permits).await.ok();
    if !is_full {
        tokio::select! {
            () = idle => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
    permit
}

/// Gathers records into windows until their channel closes. Starts classifying each window and sends its task handle to
/// `windows`. Notes when the first record arrived.
///
/// # Errors
/// A decoding task panicked, which would be a bug.
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
    // As many records as `in_flight` full windows hold; there may be more windows if they are small.
    let capacity = Arc::new(Semaphore::new(settings.in_flight * settings.max_posts));
    let mut window = Window::default();
    let mut more = true;
    while more || !window.is_empty() {
        let is_full = window.is_full(&settings);
        let due = due(
            is_full || !more,
            window.deadline(&settings),
            classifier.idle(),
            Arc::clone(&capacity),
            window.permits(&settings),
        );
        let permit = tokio::select! {
            // Chunks first, so that records that are already available share a window.
            biased;
            chunk = chunks.next(), if more && !is_full => {
                match chunk {
                    Some(records) => window.extend(records?),
                    None => more = false,
                }
                continue;
            }
            permit = due, if !window.is_empty() => permit,
        };
        let closed = std::mem::take(&mut window);
        if dispatch(closed, permit, &classifier, unsupported, &windows)
            .await
            .is_err()
        {
            // The committing stage has ended, so no more windows are needed.
            return Ok(());
        }
    }
    Ok(())
}

/// Decodes records in chunks, several at once on the blocking thread pool, and returns the chunks in order.
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

/// Starts classifying a window and sends its task handle on.
async fn dispatch(
    window: Window,
    permit: Option<OwnedSemaphorePermit>,
    classifier: &Arc<Classifier>,
    unsupported: UnsupportedLanguages,
    windows: &mpsc::Sender<Pending>,
) -> Result<(), mpsc::error::SendError<()>> {
    // Reserved first, since a window must not start before there is room for its handle.
    let slot = windows.reserve().await?;
    metrics::histogram!(metric::WINDOW_RECORDS).record(window.records.len() as f64);
    // Reserved at once, so that the next window doesn't count on the same idle session.
    let reservation = classifier.reserve_session();
    let classifier = Arc::clone(classifier);
    let task = tokio::spawn(async move { classify(window.records, &classifier, reservation, unsupported).await });
    slot.send(Pending { task, _permit: permit });
    Ok(())
}

/// Classifies a window's posts in one call.
async fn classify(
    records: Vec<Decoded>,
    classifier: &Classifier,
    reservation: Reservation,
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
        classifier.classify_reserved(reservation, texts).await
    };
    // A fault that is not caused by the text, such as a broken session, must not turn posts into dead letters.
    if let Some(fault) = predictions
        .iter()
        .filter_map(|prediction| prediction.as_ref().err())
        .find(|fault| !fault.is_of_the_text())
    {
        anyhow::bail!("the classifier can't continue: {fault}");
    }
    let done = std::time::Instant::now();
    let mut predictions = predictions.into_iter();
    let classified = records
        .into_iter()
        .map(|Decoded { record, content }| {
            let outcome = match content {
                Content::Post { post, subjects, .. } => match predictions.next() {
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
                            subjects,
                            prediction,
                        }
                    }
                    Some(Err(fault)) => Outcome::Rejected(Reject {
                        reason: Reason::Model,
                        detail: fault.to_string(),
                    }),
                    None => anyhow::bail!("the classifier returned fewer predictions than texts"),
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

/// The prediction of a post whose language the model doesn't support. The scores are kept for inspection.
fn without_emotion(prediction: Prediction) -> Prediction {
    Prediction {
        emotion: UNSUPPORTED.into(),
        score: 0.0,
        ..prediction
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// When a window closes, if its deadline passes, a session becomes idle and capacity becomes free at the given times.
    /// All times are in milliseconds from its opening.
    fn closes_after(is_full: bool, deadline: u64, idle: u64, free: u64) -> u64 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let start = Instant::now();
            let after = move |millis| start + Duration::from_millis(millis);
            let capacity = Arc::new(Semaphore::new(2));
            let held = Arc::clone(&capacity).acquire_owned().await.unwrap();
            tokio::spawn(async move {
                tokio::time::sleep_until(after(free)).await;
                drop(held);
            });
            let idle = tokio::time::sleep_until(after(idle));
            assert!(due(is_full, after(deadline), idle, capacity, 2).await.is_some());
            u64::try_from(start.elapsed().as_millis()).unwrap()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_full_window_waits_only_for_capacity(deadline in 0u64..200, idle in 0u64..200, free in 0u64..200) {
            prop_assert_eq!(closes_after(true, deadline, idle, free), free);
        }

        #[test]
        fn a_partly_filled_window_also_waits_for_a_session_or_its_deadline(
            deadline in 0u64..200, idle in 0u64..200, free in 0u64..200
        ) {
            prop_assert_eq!(closes_after(false, deadline, idle, free), free.max(idle.min(deadline)));
        }
    }
}
