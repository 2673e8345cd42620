//! The interface to whatever computes logits.

use super::error::BackendError;

/// A padded batch: `rows` texts of `columns` tokens, in row-major order.
#[derive(Debug, Default)]
pub(super) struct Padded {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Token ids, padded with the padding id.
    pub(super) ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    pub(super) mask: Vec<i64>,
}

impl Padded {
    /// Replaces the content with `texts`, reusing the vectors' memory.
    pub(super) fn fill<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a [u32]>, columns: usize, pad_id: u32) {
        self.rows = texts.len();
        self.columns = columns;
        self.ids.clear();
        self.mask.clear();
        for text in texts {
            let row = self.ids.len() + columns;
            self.ids.extend(text.iter().map(|&id| i64::from(id)));
            self.mask.resize(self.ids.len(), 1);
            self.ids.resize(row, i64::from(pad_id));
            self.mask.resize(row, 0);
        }
    }

    /// Replaces the content with a batch in a larger shape. Rows that it doesn't have repeat its first row, because a row of
    /// padding alone has no mean.
    pub(super) fn copy_padded(&mut self, batch: &Self, rows: usize, columns: usize, pad_id: u32) {
        self.rows = rows;
        self.columns = columns;
        self.ids.clear();
        self.mask.clear();
        for row in 0..rows {
            let row = if row < batch.rows { row } else { 0 };
            let from = row * batch.columns..(row + 1) * batch.columns;
            let end = self.ids.len() + columns;
            self.ids.extend_from_slice(&batch.ids[from.clone()]);
            self.ids.resize(end, i64::from(pad_id));
            self.mask.extend_from_slice(&batch.mask[from]);
            self.mask.resize(end, 0);
        }
    }
}

/// A session, used by one thread.
pub(super) trait Backend: Send {
    /// Appends the batch's logits, one row per text, to `logits`, which is empty on entry.
    fn run(&mut self, batch: &Padded, logits: &mut Vec<f32>) -> Result<(), BackendError>;

    /// The number of tokens that it computes for a batch, including padding.
    fn computed_tokens(&self, batch: &Padded) -> usize {
        batch.rows * batch.columns
    }
}

/// Computes nothing. Used to measure the cost of everything else.
#[derive(Debug)]
pub(super) struct Constant {
    pub(super) labels: usize,
}

impl Backend for Constant {
    fn run(&mut self, batch: &Padded, logits: &mut Vec<f32>) -> Result<(), BackendError> {
        logits.resize(batch.rows * self.labels, 0.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded() {
        let mut padded = Padded::default();
        for _ in 0..2 {
            padded.fill([&[5u32, 6, 7][..], &[8]].into_iter(), 4, 1);
            assert_eq!((padded.rows, padded.columns), (2, 4));
            assert_eq!(padded.ids, [5, 6, 7, 1, 8, 1, 1, 1]);
            assert_eq!(padded.mask, [1, 1, 1, 0, 1, 0, 0, 0]);
        }
        let mut larger = Padded::default();
        larger.copy_padded(&padded, 3, 5, 1);
        assert_eq!((larger.rows, larger.columns), (3, 5));
        assert_eq!(larger.ids, [5, 6, 7, 1, 1, 8, 1, 1, 1, 1, 5, 6, 7, 1, 1]);
        assert_eq!(larger.mask, [1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0]);
    }
}
