//! The counts and rates of a run.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::time::Instant;

use crate::store::Tally;

/// Counts of what this process has committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Records accounted for.
    pub records: u64,
    /// The records by outcome.
    #[serde(flatten)]
    pub tally: Tally,
    /// Rejected records by reason.
    pub rejected_by_reason: BTreeMap<&'static str, u64>,
    /// Committed transactions.
    pub transactions: u64,
    /// Offset ranges dropped because another consumer had advanced the partition's offset.
    pub fenced: u64,
    /// When the last transaction was committed; `None` before the first one.
    #[serde(skip)]
    pub last_commit: Option<Instant>,
}

impl Totals {
    pub(super) fn add(&mut self, tally: &Tally) {
        self.records += tally.records();
        self.tally += *tally;
        self.transactions += 1;
        self.last_commit = Some(Instant::now());
    }
}

/// The line that `--until-caught-up` prints at its end.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// What was committed.
    #[serde(flatten)]
    pub totals: Totals,
    /// The model that classified the posts.
    pub model_id: String,
    /// Seconds from the first record to the last commit.
    pub seconds: f64,
    /// Records accounted for per second.
    pub records_per_second: f64,
    /// Posts classified per second, cached ones included.
    pub posts_per_second: f64,
    /// Texts classified, by the model or without it.
    pub texts: u64,
    /// Texts classified from the cache or like an equal text of the same window.
    pub texts_cached: u64,
    /// Tokens computed, excluding padding.
    pub tokens: u64,
    /// Padding as a share of all tokens computed.
    pub padding_share: f64,
    /// Inference batches.
    pub batches: u64,
}
