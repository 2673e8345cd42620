//! The queue of batches between the tokenizer thread and the sessions.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, PoisonError},
};

use crate::{sync::lock, telemetry::metric};

/// A FIFO queue with multiple consumers. It needs no bound, because items belong to windows, whose number is bounded.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                closed: false,
            }),
            filled: Condvar::new(),
        }
    }

    /// Appends items in order. If the queue is closed, drops them.
    pub(super) fn push_all(&self, items: impl IntoIterator<Item = T>) {
        let mut rejected = Vec::new();
        let mut state = lock(&self.state);
        if state.closed {
            rejected.extend(items);
        } else {
            state.items.extend(items);
            gauge(state.items.len());
        }
        drop(state);
        self.filled.notify_all();
        // Dropped after unlocking, since dropping an item may call back into the queue.
        drop(rejected);
    }

    /// Waits for the next item. Returns `None` once the queue is closed.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            if let Some(item) = state.items.pop_front() {
                gauge(state.items.len());
                return Some(item);
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Closes the queue, dropping its items. Consumers get `None`.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let dropped = std::mem::take(&mut state.items);
        gauge(0);
        drop(state);
        self.filled.notify_all();
        drop(dropped);
    }
}

fn gauge(depth: usize) {
    metrics::gauge!(metric::QUEUE_DEPTH, "queue" => "batches").set(depth as f64);
}
