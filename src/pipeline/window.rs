//! The second stage: records are gathered into windows, and each window is classified in one call.
//!
//! A window closes as soon as a session is idle: what has come while all of them were busy goes together. So windows are small
//! while there is little to do, and fill up to their limits under a backlog. When all sessions stay busy a window closes when
//! its oldest record has waited for `max_delay_ms`: what needs no session, such as deletions, goes on then.

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
    classify::{Announced, Classifier},
    config::{UnsupportedLanguages, WindowSettings},
    kafka::Record,
    model::{Prediction, UNSUPPORTED},
    post::{Reason, Reject},
    telemetry::metric,
};

/// Records decoded by one blocking task: enough to hide its cost, few enough to share the cores.
const CHUNK: usize = 256;

/// A window in work; windows are awaited in the order they were closed.
pub(super) struct Pending {
    pub(super) task: JoinHandle<anyhow::Result<Vec<Classified>>>,
    /// Its share of what may be in work.
    _place: Option<OwnedSemaphorePermit>,
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

    /// Its share of what may be in work, in records: a full one has `max_posts` of them.
    fn share(&self, settings: &WindowSettings) -> u32 {
        u32::try_from(self.records.len().clamp(1, settings.max_posts)).unwrap_or(u32::MAX)
    }

    /// When it closes at the latest, if there is a place for it.
    fn deadline(&self, settings: &WindowSettings) -> Instant {
        self.opened.unwrap_or_else(Instant::now) + Duration::from_millis(settings.max_delay_ms)
    }
}

/// Resolves when a window that holds something is to be closed: once there is a place for its share in work, as soon as it is full, a
/// session is idle, or its oldest record has waited until the deadline. Until then it goes on filling, which costs nothing while
/// all sessions are busy, and makes better batches.
async fn due(
    is_full: bool,
    deadline: Instant,
    idle: impl Future<Output = ()>,
    places: Arc<Semaphore>,
    share: u32,
) -> Option<OwnedSemaphorePermit> {
    // The semaphore is never closed.
    let place = places.acquire_many_owned(share).await.ok();
    if !is_full {
        tokio::select! {
            () = idle => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
    place
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
    // So much as that many full windows hold: small ones may be more.
    let places = Arc::new(Semaphore::new(settings.in_flight * settings.max_posts));
    let mut window = Window::default();
    let mut more = true;
    while more || !window.is_empty() {
        let is_full = window.is_full(&settings);
        let due = due(
            is_full || !more,
            window.deadline(&settings),
            classifier.idle(),
            Arc::clone(&places),
            window.share(&settings),
        );
        let place = tokio::select! {
            // First, so that what is there already goes together.
            biased;
            chunk = chunks.next(), if more && !is_full => {
                match chunk {
                    Some(records) => window.extend(records?),
                    None => more = false,
                }
                continue;
            }
            place = due, if !window.is_empty() => place,
        };
        let closed = std::mem::take(&mut window);
        if dispatch(closed, place, &classifier, unsupported, &windows)
            .await
            .is_err()
        {
            // Committing has ended, and with it the need for windows.
            return Ok(());
        }
    }
    Ok(())
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

/// Puts the window in work and hands it on.
async fn dispatch(
    window: Window,
    place: Option<OwnedSemaphorePermit>,
    classifier: &Arc<Classifier>,
    unsupported: UnsupportedLanguages,
    windows: &mpsc::Sender<Pending>,
) -> Result<(), mpsc::error::SendError<()>> {
    // Reserved first: a window must not start before there is room for its result.
    let room = windows.reserve().await?;
    metrics::histogram!(metric::WINDOW_RECORDS).record(window.records.len() as f64);
    // At once, so that the next window does not take the same session for idle.
    let announced = classifier.announce();
    let classifier = Arc::clone(classifier);
    let task = tokio::spawn(async move { classify(window.records, &classifier, announced, unsupported).await });
    room.send(Pending { task, _place: place });
    Ok(())
}

/// Classifies a window's posts in one call.
async fn classify(
    records: Vec<Decoded>,
    classifier: &Classifier,
    announced: Announced,
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
        classifier.classify_announced(announced, texts).await
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// When a window closes, in milliseconds, if a place is free after so many, and a session idle.
    fn closes_after(is_full: bool, deadline: u64, idle: u64, place: u64) -> u64 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let start = Instant::now();
            let after = move |millis| start + Duration::from_millis(millis);
            let places = Arc::new(Semaphore::new(2));
            let held = Arc::clone(&places).acquire_owned().await.unwrap();
            tokio::spawn(async move {
                tokio::time::sleep_until(after(place)).await;
                drop(held);
            });
            let idle = tokio::time::sleep_until(after(idle));
            assert!(due(is_full, after(deadline), idle, places, 2).await.is_some());
            u64::try_from(start.elapsed().as_millis()).unwrap()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_full_window_waits_for_a_place_alone(deadline in 0u64..200, idle in 0u64..200, place in 0u64..200) {
            prop_assert_eq!(closes_after(true, deadline, idle, place), place);
        }

        #[test]
        fn another_waits_for_a_session_or_its_deadline_too(deadline in 0u64..200, idle in 0u64..200, place in 0u64..200) {
            prop_assert_eq!(closes_after(false, deadline, idle, place), place.max(idle.min(deadline)));
        }
    }
}
