//! The classifier's counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::telemetry::metric;

/// Totals since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// The number of texts received.
    pub texts: u64,
    /// The texts answered from the cache.
    pub cached: u64,
    /// The texts equal to another one in the same window or in a window in flight.
    pub repeated: u64,
    /// The texts without a prediction.
    pub faults: u64,
    /// The number of batches run in a session.
    pub batches: u64,
    /// The number of tokens computed, excluding padding.
    pub tokens: u64,
    /// The number of padding tokens computed.
    pub padding: u64,
    /// The time spent in sessions, in nanoseconds, summed over all sessions.
    pub inference_ns: u64,
    /// The time spent in tokenisation, in nanoseconds.
    pub tokenize_ns: u64,
}

impl Stats {
    /// Returns the share of padding among the computed tokens, in `0..=1`.
    #[must_use]
    pub fn padding_share(&self) -> f64 {
        let all = self.tokens + self.padding;
        if all == 0 {
            0.0
        } else {
            self.padding as f64 / all as f64
        }
    }
}

/// The counters behind [`Stats`], which are also exported as metrics.
#[derive(Debug, Default)]
pub(super) struct Counters {
    texts: AtomicU64,
    cached: AtomicU64,
    repeated: AtomicU64,
    faults: AtomicU64,
    batches: AtomicU64,
    tokens: AtomicU64,
    padding: AtomicU64,
    inference_ns: AtomicU64,
    tokenize_ns: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self) -> Stats {
        Stats {
            texts: self.texts.load(Relaxed),
            cached: self.cached.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            faults: self.faults.load(Relaxed),
            batches: self.batches.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            padding: self.padding.load(Relaxed),
            inference_ns: self.inference_ns.load(Relaxed),
            tokenize_ns: self.tokenize_ns.load(Relaxed),
        }
    }

    pub(super) fn window(&self, texts: usize, cached: u64, repeated: u64) {
        self.texts.fetch_add(texts as u64, Relaxed);
        self.cached.fetch_add(cached, Relaxed);
        self.repeated.fetch_add(repeated, Relaxed);
        metrics::counter!(metric::CACHE_HITS, "kind" => "cache").increment(cached);
        metrics::counter!(metric::CACHE_HITS, "kind" => "window").increment(repeated);
    }

    pub(super) fn tokenized(&self, elapsed: std::time::Duration) {
        self.tokenize_ns.fetch_add(nanos(elapsed), Relaxed);
        metrics::histogram!(metric::TOKENIZE_SECONDS).record(elapsed.as_secs_f64());
    }

    pub(super) fn batch(&self, posts: usize, tokens: usize, padded: usize, elapsed: std::time::Duration) {
        let padding = padded.saturating_sub(tokens) as u64;
        self.batches.fetch_add(1, Relaxed);
        self.tokens.fetch_add(tokens as u64, Relaxed);
        self.padding.fetch_add(padding, Relaxed);
        self.inference_ns.fetch_add(nanos(elapsed), Relaxed);
        metrics::histogram!(metric::BATCH_POSTS).record(posts as f64);
        metrics::histogram!(metric::BATCH_TOKENS).record(padded as f64);
        metrics::counter!(metric::TOKENS_TOTAL).increment(tokens as u64);
        metrics::counter!(metric::PADDING_TOKENS).increment(padding);
        metrics::histogram!(metric::INFERENCE_SECONDS).record(elapsed.as_secs_f64());
    }

    pub(super) fn fault(&self) {
        self.faults.fetch_add(1, Relaxed);
        metrics::counter!(metric::MODEL_FAULTS).increment(1);
    }
}

fn nanos(elapsed: std::time::Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
