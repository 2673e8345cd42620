//! The room for records in flight: a bound on their number and on their bytes.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::Thread,
};

/// Wakes the consumer's thread, from any thread and also before it has started.
#[derive(Debug, Default)]
pub(super) struct Waker(OnceLock<Thread>);

impl Waker {
    /// Makes the calling thread the one that is woken.
    pub(super) fn register(&self) {
        // Only the consumer's thread registers, once.
        let _ = self.0.set(std::thread::current());
    }

    /// Wakes the thread; a wake before it sleeps is not lost.
    pub(super) fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// Locks, also where a thread has panicked while holding the lock: every critical section of
/// this module tree leaves its data valid at each step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Used {
    records: usize,
    bytes: usize,
    /// The consumer waits for room.
    waiting: bool,
}

/// The room for records in flight. Once it ran out it stays closed until a quarter is free
/// again, so that a slow reader isn't served record by record with a switch of threads each.
#[derive(Debug)]
pub(super) struct Budget {
    max_records: usize,
    max_bytes: usize,
    used: Mutex<Used>,
    waker: Arc<Waker>,
}

impl Budget {
    pub(super) fn new(max_records: usize, max_bytes: usize, waker: Arc<Waker>) -> Arc<Self> {
        Arc::new(Self {
            max_records: max_records.max(1),
            max_bytes: max_bytes.max(1),
            used: Mutex::default(),
            waker,
        })
    }

    /// Room for a record of so many bytes, if there is any. A record beyond the whole budget takes all of it.
    pub(super) fn try_acquire(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let bytes = bytes.min(self.max_bytes);
        let mut used = lock(&self.used);
        let fits = used.records < self.max_records && used.bytes + bytes <= self.max_bytes;
        if !fits || (used.waiting && !self.reopened(&used)) {
            used.waiting = true;
            return None;
        }
        used.waiting = false;
        used.records += 1;
        used.bytes += bytes;
        Some(Permit {
            bytes,
            budget: Arc::clone(self),
        })
    }

    /// Whether a closed budget has enough room to open again.
    fn reopened(&self, used: &Used) -> bool {
        used.records <= self.max_records - self.max_records.div_ceil(4)
            && used.bytes <= self.max_bytes - self.max_bytes.div_ceil(4)
    }

    /// Records and bytes in flight.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        let used = lock(&self.used);
        (used.records, used.bytes)
    }

    fn release(&self, bytes: usize) {
        let wake = {
            let mut used = lock(&self.used);
            used.records -= 1;
            used.bytes -= bytes;
            used.waiting && self.reopened(&used)
        };
        if wake {
            self.waker.wake();
        }
    }
}

/// The room that one record takes up; given back on drop.
pub struct Permit {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Permit {
    /// The bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.bytes).finish()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn budget(records: usize, bytes: usize) -> Arc<Budget> {
        Budget::new(records, bytes, Arc::default())
    }

    #[test]
    fn refuses_beyond_either_bound() {
        let by_records = budget(1, 100);
        let held = by_records.try_acquire(1).unwrap();
        assert!(by_records.try_acquire(1).is_none());
        drop(held);
        assert!(by_records.try_acquire(1).is_some());

        let by_bytes = budget(10, 100);
        let _held = by_bytes.try_acquire(60).unwrap();
        assert!(by_bytes.try_acquire(41).is_none());
    }

    #[test]
    fn a_record_beyond_the_budget_takes_all_of_it_and_only_alone() {
        let budget = budget(10, 100);
        let small = budget.try_acquire(1).unwrap();
        assert!(budget.try_acquire(1_000).is_none());
        drop(small);
        let huge = budget.try_acquire(1_000).unwrap();
        assert_eq!(budget.in_flight(), (1, 100));
        drop(huge);
        assert_eq!(budget.in_flight(), (0, 0));
    }

    #[test]
    fn once_closed_it_opens_when_a_quarter_is_free() {
        let budget = budget(8, 1_000);
        let mut held: Vec<_> = (0..8).map(|_| budget.try_acquire(1).unwrap()).collect();
        assert!(budget.try_acquire(1).is_none());
        held.pop();
        assert!(
            budget.try_acquire(1).is_none(),
            "one place free is not worth opening for"
        );
        held.pop();
        assert!(budget.try_acquire(1).is_some());
    }

    proptest! {
        #[test]
        fn never_beyond_its_bounds_and_never_stuck(steps in prop::collection::vec((any::<bool>(), 0usize..200), 1..200)) {
            let budget = budget(5, 100);
            let mut held = Vec::new();
            for (take, bytes) in steps {
                if take {
                    held.extend(budget.try_acquire(bytes));
                } else {
                    held.pop();
                }
                let (records, used) = budget.in_flight();
                prop_assert_eq!(records, held.len());
                prop_assert!(records <= 5 && used <= 100);
            }
            held.clear();
            prop_assert!(budget.try_acquire(1_000).is_some(), "an empty budget takes any record");
        }
    }
}
