//! The events that the consumer's thread handles, all on one channel.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, TryRecvError},
    },
    time::Duration,
};

use super::{offset_store::StartOffset, quarantine::QuarantineCause};
use crate::kafka::partition::Partition;

/// An event for the consumer's thread.
#[derive(Debug)]
pub(super) enum ConsumerEvent {
    /// Partitions were assigned; each comes with a ticket for the lookup of its start offset.
    Assigned(Vec<(Partition, u64)>),
    /// The positions of these partitions are out of range.
    OutOfRange(Vec<Partition>),
    /// The start offset of a partition is known.
    StartOffset {
        partition: Partition,
        ticket: u64,
        start: StartOffset,
    },
    /// Quarantine a partition: it was interrupted, or the start offset looked up under this ticket can't be used.
    Quarantine {
        partition: Partition,
        ticket: Option<u64>,
        cause: QuarantineCause,
    },
    /// A partition was interrupted: look up its start offset again and continue from there.
    Restart(Partition),
    /// Commit these offsets to Kafka.
    Commit(Vec<(Arc<str>, i32, i64)>),
    /// Hand out no more records, but keep the partitions.
    Drain,
    /// Leave the group.
    Close,
    /// There may be something to poll, or room for records again.
    Wake,
}

/// Sends events to the consumer's thread. Clones share the channel.
#[derive(Debug, Clone)]
pub(super) struct EventSender {
    events: mpsc::Sender<ConsumerEvent>,
    /// Whether a [`ConsumerEvent::Wake`] is in the channel; a second one would be redundant.
    wake_sent: Arc<AtomicBool>,
}

impl EventSender {
    pub(super) fn send(&self, event: ConsumerEvent) {
        // Events are dropped once the thread has ended.
        let _ = self.events.send(event);
    }

    pub(super) fn wake(&self) {
        if !self.wake_sent.swap(true, Ordering::AcqRel) {
            self.send(ConsumerEvent::Wake);
        }
    }
}

/// The receiving side, for the consumer's thread.
#[derive(Debug)]
pub(super) struct EventReceiver {
    events: Receiver<ConsumerEvent>,
    wake_sent: Arc<AtomicBool>,
}

impl EventReceiver {
    /// The next event, if one is in the channel.
    pub(super) fn try_next(&self) -> Option<ConsumerEvent> {
        let event = match self.events.try_recv() {
            Ok(event) => event,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => ConsumerEvent::Close,
        };
        Some(self.received(event))
    }

    /// The next event, waiting at most `timeout` for it.
    pub(super) fn next_within(&self, timeout: Duration) -> Option<ConsumerEvent> {
        let event = match self.events.recv_timeout(timeout) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => ConsumerEvent::Close,
        };
        Some(self.received(event))
    }

    fn received(&self, event: ConsumerEvent) -> ConsumerEvent {
        if matches!(event, ConsumerEvent::Wake) {
            // Cleared before the queues are polled, so that records that arrive later send another one.
            self.wake_sent.store(false, Ordering::Release);
        }
        event
    }
}

/// The two ends of the channel.
pub(super) fn channel() -> (EventSender, EventReceiver) {
    let (sender, events) = mpsc::channel();
    let wake_sent = Arc::new(AtomicBool::new(false));
    (
        EventSender {
            events: sender,
            wake_sent: Arc::clone(&wake_sent),
        },
        EventReceiver { events, wake_sent },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_are_sent_once_until_received() {
        let (sender, events) = channel();
        sender.wake();
        sender.wake();
        assert!(matches!(events.try_next(), Some(ConsumerEvent::Wake)));
        assert!(events.try_next().is_none());
        sender.wake();
        assert!(matches!(events.next_within(Duration::ZERO), Some(ConsumerEvent::Wake)));
    }

    #[test]
    fn a_channel_without_senders_closes_the_consumer() {
        let (sender, events) = channel();
        sender.send(ConsumerEvent::Drain);
        drop(sender);
        assert!(matches!(events.try_next(), Some(ConsumerEvent::Drain)));
        assert!(matches!(events.try_next(), Some(ConsumerEvent::Close)));
    }
}
