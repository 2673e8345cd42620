//! Random data for the tests of the solvers.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::sparse::Rows;

/// Random sparse rows and classes. Most rows have a feature of their class, so that there is something to learn.
pub(crate) fn random_rows(seed: u64, count: usize, width: usize, classes: usize) -> (Rows, Vec<usize>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = Rows::new(width);
    let mut truth = Vec::new();
    for at in 0..count {
        // Every class has rows.
        let class = if at < classes {
            at
        } else {
            random.random_range(0..classes)
        };
        let mut columns: Vec<u32> = (0..random.random_range(0..6))
            .map(|_| random.random_range(0..width as u32))
            .collect();
        if random.random::<f64>() < 0.7 {
            columns.push((class % width) as u32);
        }
        columns.sort_unstable();
        columns.dedup();
        rows.push(columns.into_iter().map(|column| (column, random.random::<f32>())));
        truth.push(class);
    }
    (rows, truth)
}
