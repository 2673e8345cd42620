//! Exponential backoff.

use std::time::Duration;

/// Exponentially growing delays between attempts.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Creates a backoff that starts at `first` and doubles up to `longest`.
    #[must_use]
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { longest, next: first }
    }

    /// Returns the delay before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let pauses: Vec<u128> = (0..4).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 350, 350]);
    }
}
