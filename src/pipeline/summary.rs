//! What a run did, in numbers.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::time::Instant;

use crate::store::Tally;

/// Counts of everything this process has committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Records accounted for: the sum of the six counts that follow.
    pub records: u64,
    /// Posts that were new.
    pub inserted: u64,
    /// Posts that were there already, or whose deletion was.
    pub duplicates: u64,
    /// Deletion notices.
    pub deletions: u64,
    /// Posts outside the languages or subjects asked for.
    pub filtered: u64,
    /// Posts older than what is kept.
    pub late: u64,
    /// Records that can't be processed.
    pub rejected: u64,
    /// Posts that deletion notices took out again.
    pub removed: u64,
    /// Rejected records by reason.
    pub rejected_by_reason: BTreeMap<&'static str, u64>,
    /// Flush transactions committed.
    pub transactions: u64,
    /// Partition ranges dropped because another consumer had moved on.
    pub fenced: u64,
    /// When the last transaction was committed; none before the first.
    #[serde(skip)]
    pub last_commit: Option<Instant>,
}

impl Totals {
    pub(super) fn add(&mut self, tally: &Tally) {
        self.records += tally.records();
        self.inserted += tally.inserted;
        self.duplicates += tally.duplicates;
        self.deletions += tally.deletions;
        self.filtered += tally.filtered;
        self.late += tally.late;
        self.rejected += tally.rejected;
        self.removed += tally.removed;
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
    /// Texts that went to the model or were answered for it.
    pub texts: u64,
    /// Texts answered from the cache or by an equal one of the same window.
    pub texts_cached: u64,
    /// Tokens computed, padding not counted.
    pub tokens: u64,
    /// Padding tokens as a share of all tokens computed.
    pub padding_share: f64,
    /// Inference batches.
    pub batches: u64,
}
