//! A wish to stop that wakes who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

/// Asks a job to start no more rows. Clones are the same wish.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requested: AtomicBool,
    waker: AtomicWaker,
}

impl Stop {
    /// Stops the job; rows under way are finished. Says whether that was asked before.
    pub fn request(&self) -> bool {
        let before = self.0.requested.swap(true, SeqCst);
        self.0.waker.wake();
        before
    }

    /// Whether the job is to stop.
    pub fn is_requested(&self) -> bool {
        self.0.requested.load(SeqCst)
    }

    pub(crate) fn poll_requested(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.waker.register(cx.waker());
        match self.is_requested() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
