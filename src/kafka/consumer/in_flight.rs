//! The limit on the number and bytes of records in flight.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use super::event::EventSender;
use crate::sync::lock;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Used {
    records: usize,
    bytes: usize,
    /// Whether the consumer waits for room.
    waiting: bool,
}

/// The limit on records in flight. Once it is reached, no permit is granted until a quarter of it is free
/// again: otherwise a slow pipeline would get one record at a time, with a context switch for each.
#[derive(Debug)]
pub(super) struct InFlightLimit {
    max_records: usize,
    max_bytes: usize,
    used: Mutex<Used>,
    events: EventSender,
}

impl InFlightLimit {
    /// `events` gets a wake-up when there is room again.
    pub(super) fn new(max_records: usize, max_bytes: usize, events: EventSender) -> Arc<Self> {
        Arc::new(Self {
            max_records: max_records.max(1),
            max_bytes: max_bytes.max(1),
            used: Mutex::default(),
            events,
        })
    }

    /// A permit, not yet acquired, for a record of `bytes`. A record larger than the limit uses all of it.
    pub(super) fn request(self: &Arc<Self>, bytes: usize) -> InFlightPermit {
        InFlightPermit {
            bytes: bytes.min(self.max_bytes),
            acquired: false,
            limit: Arc::clone(self),
        }
    }

    /// Records and bytes in flight.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        let used = lock(&self.used);
        (used.records, used.bytes)
    }

    fn try_acquire(&self, bytes: usize) -> bool {
        let mut used = lock(&self.used);
        let fits = used.records < self.max_records && used.bytes + bytes <= self.max_bytes;
        if !fits || (used.waiting && !self.reopened(&used)) {
            used.waiting = true;
            return false;
        }
        used.waiting = false;
        used.records += 1;
        used.bytes += bytes;
        true
    }

    /// Whether there is enough room to grant permits again.
    fn reopened(&self, used: &Used) -> bool {
        used.records <= self.max_records - self.max_records.div_ceil(4)
            && used.bytes <= self.max_bytes - self.max_bytes.div_ceil(4)
    }

    fn release(&self, bytes: usize) {
        let wake = {
            let mut used = lock(&self.used);
            used.records -= 1;
            used.bytes -= bytes;
            used.waiting && self.reopened(&used)
        };
        if wake {
            self.events.wake();
        }
    }
}

/// A record's share of the limit, released on drop.
pub struct InFlightPermit {
    bytes: usize,
    acquired: bool,
    limit: Arc<InFlightLimit>,
}

impl InFlightPermit {
    /// The bytes counted for the record.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Acquires the permit if there is room. Returns whether it is acquired.
    pub(super) fn try_acquire(&mut self) -> bool {
        self.acquired = self.acquired || self.limit.try_acquire(self.bytes);
        self.acquired
    }

    /// Releases the permit, which may be acquired again.
    pub(super) fn release(&mut self) {
        if std::mem::take(&mut self.acquired) {
            self.limit.release(self.bytes);
        }
    }
}

impl fmt::Debug for InFlightPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlightPermit")
            .field("bytes", &self.bytes)
            .field("acquired", &self.acquired)
            .finish_non_exhaustive()
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn limit(records: usize, bytes: usize) -> Arc<InFlightLimit> {
        InFlightLimit::new(records, bytes, crate::kafka::consumer::event::channel().0)
    }

    fn acquire(limit: &Arc<InFlightLimit>, bytes: usize) -> Option<InFlightPermit> {
        let mut permit = limit.request(bytes);
        permit.try_acquire().then_some(permit)
    }

    #[test]
    fn permits_beyond_either_limit_are_refused() {
        let by_records = limit(1, 100);
        let held = acquire(&by_records, 1).unwrap();
        assert!(acquire(&by_records, 1).is_none());
        drop(held);
        assert!(acquire(&by_records, 1).is_some());

        let by_bytes = limit(10, 100);
        let _held = acquire(&by_bytes, 60).unwrap();
        assert!(acquire(&by_bytes, 41).is_none());
    }

    #[test]
    fn a_record_larger_than_the_limit_uses_all_of_it_and_passes_alone() {
        let limit = limit(10, 100);
        let small = acquire(&limit, 1).unwrap();
        assert!(acquire(&limit, 1_000).is_none());
        drop(small);
        let huge = acquire(&limit, 1_000).unwrap();
        assert_eq!(limit.in_flight(), (1, 100));
        drop(huge);
        assert_eq!(limit.in_flight(), (0, 0));
    }

    #[test]
    fn a_released_permit_can_be_acquired_again_and_is_released_once() {
        let limit = limit(1, 100);
        let mut permit = limit.request(10);
        assert_eq!(limit.in_flight(), (0, 0), "a permit takes no room until it is acquired");
        assert!(permit.try_acquire() && permit.try_acquire());
        assert_eq!(limit.in_flight(), (1, 10));
        permit.release();
        permit.release();
        assert_eq!(limit.in_flight(), (0, 0));
        assert!(permit.try_acquire());
        drop(permit);
        assert_eq!(limit.in_flight(), (0, 0));
    }

    #[test]
    fn once_full_it_grants_permits_only_when_a_quarter_is_free() {
        let limit = limit(8, 1_000);
        let mut held: Vec<_> = (0..8).map(|_| acquire(&limit, 1).unwrap()).collect();
        assert!(acquire(&limit, 1).is_none());
        held.pop();
        assert!(acquire(&limit, 1).is_none(), "less than a quarter is free");
        held.pop();
        assert!(acquire(&limit, 1).is_some());
    }

    proptest! {
        #[test]
        fn limits_hold_and_it_never_gets_stuck(steps in prop::collection::vec((any::<bool>(), 0usize..200), 1..200)) {
            let limit = limit(5, 100);
            let mut held = Vec::new();
            for (take, bytes) in steps {
                if take {
                    held.extend(acquire(&limit, bytes));
                } else {
                    held.pop();
                }
                let (records, used) = limit.in_flight();
                prop_assert_eq!(records, held.len());
                prop_assert!(records <= 5 && used <= 100);
            }
            held.clear();
            prop_assert!(acquire(&limit, 1_000).is_some(), "with nothing in flight there is room for any record");
        }
    }
}
