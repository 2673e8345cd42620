//! Divides a window's texts into batches by token count.

use std::ops::Range;

/// Limits and alignment of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// The maximum number of tokens in a batch, including padding. A text that exceeds it alone gets its own batch.
    pub max_tokens: usize,
    /// The maximum number of texts in a batch.
    pub max_posts: usize,
    /// The batch length is padded to a multiple of this, so that a GPU sees few different shapes.
    pub multiple_of: usize,
    /// The fixed cost of a batch, in tokens. A higher cost leads to fuller batches.
    pub overhead_tokens: usize,
}

impl BatchLimits {
    /// Returns the padded length of a batch whose longest text has this many tokens.
    #[must_use]
    pub fn padded(&self, tokens: usize) -> usize {
        tokens.next_multiple_of(self.multiple_of.max(1))
    }
}

/// A window's texts, divided into batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPlan {
    /// Indices of the texts in the window, by descending token count. Equal ones keep the window's order.
    pub order: Vec<usize>,
    /// The batches, as non-empty ranges of `order`. The longest texts come first, so that the last batches are short and
    /// the sessions finish at about the same time.
    pub batches: Vec<Range<usize>>,
}

/// Divides a window with these token counts into batches of minimum total cost. The cost of a batch is
/// [`BatchLimits::overhead_tokens`] plus its padded tokens.
///
/// Some optimal plan keeps texts of equal length together, so it suffices to consider ranges of the sorted order. The
/// optimum of each prefix follows from those of shorter ones. For `n` texts this takes at most `n * max_posts` steps.
#[must_use]
pub fn plan(lengths: &[usize], limits: &BatchLimits) -> BatchPlan {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&text| std::cmp::Reverse(lengths[text]));

    // best[end]: the minimum cost of the first `end` texts, and the start of their last batch.
    let mut best: Vec<(usize, usize)> = vec![(0, 0); order.len() + 1];
    for end in 1..=order.len() {
        best[end] = (usize::MAX, end - 1);
        for start in (end.saturating_sub(limits.max_posts.max(1))..end).rev() {
            let padded = limits.padded(lengths[order[start]]).saturating_mul(end - start);
            if padded > limits.max_tokens && end - start > 1 {
                break;
            }
            let cost = best[start]
                .0
                .saturating_add(padded)
                .saturating_add(limits.overhead_tokens);
            if cost < best[end].0 {
                best[end] = (cost, start);
            }
        }
    }

    let mut batches = Vec::new();
    let mut end = order.len();
    while end > 0 {
        let start = best[end].1;
        batches.push(start..end);
        end = start;
    }
    batches.reverse();
    BatchPlan { order, batches }
}

/// Divides a window in arrival order, filling one batch after another. The baseline for [`plan`].
#[must_use]
pub fn arrival_plan(lengths: &[usize], limits: &BatchLimits) -> BatchPlan {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut longest = 0;
    for (text, &tokens) in lengths.iter().enumerate() {
        longest = longest.max(tokens);
        if let Some(last) = batches.last_mut()
            && last.len() < limits.max_posts
            && limits.padded(longest).saturating_mul(last.len() + 1) <= limits.max_tokens
        {
            last.end = text + 1;
            continue;
        }
        longest = tokens;
        batches.push(text..text + 1);
    }
    BatchPlan {
        order: (0..lengths.len()).collect(),
        batches,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits() -> impl Strategy<Value = BatchLimits> {
        (
            16usize..2000,
            1usize..40,
            prop_oneof![Just(1usize), Just(8)],
            0usize..200,
        )
            .prop_map(|(max_tokens, max_posts, multiple_of, overhead_tokens)| BatchLimits {
                max_tokens,
                max_posts,
                multiple_of,
                overhead_tokens,
            })
    }

    fn batch_tokens(lengths: &[usize], texts: &[usize], limits: &BatchLimits) -> usize {
        limits.padded(texts.iter().map(|&text| lengths[text]).max().unwrap_or(0)) * texts.len()
    }

    /// Returns the cost of a plan.
    fn cost(lengths: &[usize], limits: &BatchLimits, plan: &BatchPlan) -> usize {
        plan.batches
            .iter()
            .map(|batch| limits.overhead_tokens + batch_tokens(lengths, &plan.order[batch.clone()], limits))
            .sum()
    }

    fn assert_sound(lengths: &[usize], limits: &BatchLimits, plan: &BatchPlan) -> Result<(), TestCaseError> {
        let mut seen: Vec<usize> = plan
            .batches
            .iter()
            .flat_map(|batch| plan.order[batch.clone()].to_vec())
            .collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        for batch in &plan.batches {
            prop_assert!(!batch.is_empty() && batch.len() <= limits.max_posts);
            let texts = &plan.order[batch.clone()];
            prop_assert!(texts.len() == 1 || batch_tokens(lengths, texts, limits) <= limits.max_tokens);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn every_text_is_in_one_batch_and_the_bounds_hold(lengths in prop::collection::vec(1usize..300, 0..200), limits in limits()) {
            let ordered = plan(&lengths, &limits);
            assert_sound(&lengths, &limits, &ordered)?;
            prop_assert!(ordered.order.windows(2).all(|pair| lengths[pair[0]] >= lengths[pair[1]]));
            assert_sound(&lengths, &limits, &arrival_plan(&lengths, &limits))?;
        }

        #[test]
        fn it_never_costs_more_than_arrival_order(lengths in prop::collection::vec(1usize..300, 0..200), limits in limits()) {
            prop_assert!(cost(&lengths, &limits, &plan(&lengths, &limits)) <= cost(&lengths, &limits, &arrival_plan(&lengths, &limits)));
        }

        #[test]
        fn with_free_batches_it_never_pads_more_than_arrival_order(lengths in prop::collection::vec(1usize..300, 0..200), limits in limits()) {
            let limits = BatchLimits { overhead_tokens: 0, ..limits };
            prop_assert!(cost(&lengths, &limits, &plan(&lengths, &limits)) <= cost(&lengths, &limits, &arrival_plan(&lengths, &limits)));
        }
    }

    #[test]
    fn batches_end_where_lengths_differ_most() {
        let limits = BatchLimits {
            max_tokens: 1000,
            max_posts: 4,
            multiple_of: 1,
            overhead_tokens: 10,
        };
        let plan = plan(&[10, 100, 10, 100, 10], &limits);
        assert_eq!(plan.order, [1, 3, 0, 2, 4]);
        assert_eq!(plan.batches, [0..2, 2..5]);
    }

    #[test]
    fn a_text_above_the_token_limit_gets_its_own_batch() {
        let limits = BatchLimits {
            max_tokens: 64,
            max_posts: 8,
            multiple_of: 8,
            overhead_tokens: 10,
        };
        assert_eq!(plan(&[5, 100, 5], &limits).batches, [0..1, 1..3]);
    }
}
