//! Rate limiting of log lines.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::sync::lock;

const INTERVAL: Duration = Duration::from_secs(10);
const MAX_KINDS: usize = 64;

/// Allows one log line of each kind per ten seconds.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter(Mutex<HashMap<String, (Instant, u64)>>);

impl LogLimiter {
    /// Returns `Some` if the line may be logged, with the number of lines suppressed since the last one.
    pub(crate) fn allow(&self, kind: &str) -> Option<u64> {
        self.allow_at(kind, Instant::now())
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<String, (Instant, u64)>> {
        lock(&self.0)
    }

    fn allow_at(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds();
        if let Some((last, suppressed)) = kinds.get_mut(kind) {
            if now.duration_since(*last) < INTERVAL {
                *suppressed += 1;
                return None;
            }
            *last = now;
            return Some(std::mem::take(suppressed));
        }
        if kinds.len() >= MAX_KINDS {
            kinds.clear();
        }
        kinds.insert(kind.to_owned(), (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_kind_and_ten_seconds_with_the_number_suppressed() {
        let (limiter, start) = (LogLimiter::default(), Instant::now());
        assert_eq!(limiter.allow_at("down", start), Some(0));
        assert_eq!(limiter.allow_at("down", start + Duration::from_secs(1)), None);
        assert_eq!(limiter.allow_at("other", start + Duration::from_secs(1)), Some(0));
        assert_eq!(limiter.allow_at("down", start + Duration::from_secs(2)), None);
        assert_eq!(limiter.allow_at("down", start + Duration::from_secs(11)), Some(2));
        assert_eq!(limiter.allow_at("down", start + Duration::from_secs(22)), Some(0));
    }

    #[test]
    fn the_number_of_kinds_is_bounded() {
        let (limiter, now) = (LogLimiter::default(), Instant::now());
        for kind in 0..1_000 {
            limiter.allow_at(&kind.to_string(), now);
        }
        assert!(limiter.kinds().len() <= MAX_KINDS);
    }
}
