//! Paces records at an even rate.

use std::time::{Duration, Instant};

/// Paces records: the nth is due n / rate after the first. Delays caused by a slow broker are caught up, but only by up to
/// one second, so that a pause is not followed by a burst.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Option<Duration>,
    due: Instant,
}

impl Pace {
    pub(super) fn new(rate: Option<f64>, now: Instant) -> Self {
        Self {
            interval: rate.map(|rate| Duration::from_secs_f64((1.0 / rate).min(1e9))),
            due: now,
        }
    }

    /// Returns how long to wait at `now` before the next record.
    fn next(&mut self, now: Instant) -> Duration {
        let Some(interval) = self.interval else {
            return Duration::ZERO;
        };
        if let Some(limit) = now.checked_sub(Duration::from_secs(1)) {
            self.due = self.due.max(limit);
        }
        let wait = self.due.saturating_duration_since(now);
        self.due += interval;
        wait
    }

    /// Waits by calling `serve`, which sleeps for at most the given time.
    pub(super) fn wait(&mut self, mut serve: impl FnMut(Duration)) {
        let wait = self.next(Instant::now());
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            // The producer sleeps in whole milliseconds; the remainder is slept here.
            if left >= Duration::from_millis(2) {
                serve(left - Duration::from_millis(1));
            } else {
                #[allow(clippy::disallowed_methods)] // pacing has no other condition to wait for
                std::thread::sleep(left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_due_at_even_times() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(100.0), start);
        let waits: Vec<u128> = (0..4).map(|_| pace.next(start).as_millis()).collect();
        assert_eq!(waits, [0, 10, 20, 30]);
    }

    #[test]
    fn at_most_a_second_of_delay_is_caught_up() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(10.0), start);
        pace.next(start);
        let later = start + Duration::from_secs(60);
        let at_once = (0..).take_while(|_| pace.next(later).is_zero()).count();
        assert_eq!(at_once, 11);
    }

    #[test]
    fn no_rate_no_wait() {
        let mut pace = Pace::new(None, Instant::now());
        assert!((0..1_000).all(|_| pace.next(Instant::now()).is_zero()));
    }
}
