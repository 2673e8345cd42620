//! Sparse matrices.

/// A matrix of sparse rows (compressed sparse rows, CSR).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    /// The start of each row in `columns` and `values`, and the end of the last.
    offsets: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f32>,
    width: usize,
}

impl Rows {
    /// A matrix without rows, with `width` columns.
    pub(crate) fn new(width: usize) -> Self {
        Self {
            offsets: vec![0],
            columns: Vec::new(),
            values: Vec::new(),
            width,
        }
    }

    /// Adds a row of columns, each at most once, and their values.
    pub(crate) fn push(&mut self, features: impl IntoIterator<Item = (u32, f32)>) {
        for (column, value) in features {
            debug_assert!((column as usize) < self.width);
            self.columns.push(column);
            self.values.push(value);
        }
        self.offsets.push(self.columns.len());
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The number of columns.
    pub(crate) const fn width(&self) -> usize {
        self.width
    }

    /// The number of values of all rows.
    #[cfg(test)]
    pub(crate) fn values(&self) -> usize {
        self.values.len()
    }

    /// The columns of a row and their values.
    pub(crate) fn row(&self, at: usize) -> Row<'_> {
        let range = self.offsets[at]..self.offsets[at + 1];
        Row {
            columns: &self.columns[range.clone()],
            values: &self.values[range],
        }
    }

    /// All rows in order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.len()).map(|at| self.row(at))
    }

    /// The rows at these positions, in this order; a position may occur more than once.
    pub(crate) fn select(&self, positions: &[usize]) -> Self {
        let mut selected = Self::new(self.width);
        for &at in positions {
            selected.push(self.row(at).iter());
        }
        selected
    }

    /// The transposed matrix.
    pub(crate) fn transposed(&self) -> Self {
        let mut offsets = vec![0; self.width + 1];
        for &column in &self.columns {
            offsets[column as usize + 1] += 1;
        }
        for column in 0..self.width {
            offsets[column + 1] += offsets[column];
        }
        let mut next = offsets.clone();
        let mut columns = vec![0; self.columns.len()];
        let mut values = vec![0.0; self.values.len()];
        for (at, row) in self.iter().enumerate() {
            for (column, value) in row.iter() {
                let place = &mut next[column as usize];
                columns[*place] = at as u32;
                values[*place] = value;
                *place += 1;
            }
        }
        Self {
            offsets,
            columns,
            values,
            width: self.len(),
        }
    }
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    /// The columns that have a value.
    pub(crate) columns: &'a [u32],
    /// Their values.
    pub(crate) values: &'a [f32],
}

impl<'a> Row<'a> {
    /// Columns with their values.
    #[inline(always)]
    pub(crate) fn iter(self) -> impl ExactSizeIterator<Item = (u32, f32)> + 'a {
        self.columns.iter().copied().zip(self.values.iter().copied())
    }

    /// The sum of the squared values.
    pub(crate) fn square(self) -> f64 {
        self.values.iter().map(|&value| f64::from(value).powi(2)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let mut rows = Rows::new(4);
        rows.push([(0, 1.0), (3, 2.0)]);
        rows.push([]);
        rows.push([(3, 3.0)]);
        rows
    }

    #[test]
    fn rows_are_selected_and_transposed() {
        let rows = rows();
        assert_eq!((rows.len(), rows.width(), rows.values()), (3, 4, 3));
        let transposed = rows.transposed();
        assert_eq!((transposed.len(), transposed.width()), (4, 3));
        assert_eq!(transposed.row(3).columns, [0, 2]);
        assert_eq!(transposed.row(3).values, [2.0, 3.0]);
        assert!(transposed.row(1).columns.is_empty());
        assert_eq!(transposed.transposed(), rows);
        let selected = rows.select(&[2, 0, 2]);
        assert_eq!((selected.len(), selected.row(1).columns), (3, &[0, 3][..]));
    }
}
