//! The way from a running service to an ended one.

use tokio::sync::watch;

/// How far the service is on its way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Requests are welcome.
    Running,
    /// No new connections; running requests may still be answered.
    Stopping,
    /// The engine has been told to end; what it leaves unanswered is answered with an error.
    Ending,
    /// Everything is dropped at once.
    Killed,
}

/// A handle to stop the service; clones stop the same one.
#[derive(Debug, Clone)]
pub struct Shutdown {
    phase: watch::Sender<Phase>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Running),
        }
    }
}

impl Shutdown {
    /// A handle for a service that is to run.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes one phase on: the first call stops in order, the second at once.
    pub fn trigger(&self) {
        self.phase.send_modify(|phase| {
            *phase = match phase {
                Phase::Running => Phase::Stopping,
                Phase::Stopping | Phase::Ending | Phase::Killed => Phase::Killed,
            }
        });
    }

    /// Stops in order; does nothing where a stop has begun.
    pub fn stop(&self) {
        self.advance(Phase::Stopping);
    }

    /// Goes on to `phase` unless it is reached already.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let earlier = *current < phase;
            if earlier {
                *current = phase;
            }
            earlier
        });
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until `phase` or a later one is reached.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self
            .phase
            .subscribe()
            .wait_for(|current| *current >= phase)
            .await;
    }

    /// Lets SIGINT (Ctrl-C) and SIGTERM trigger this handle from now on.
    ///
    /// # Errors
    /// Where the operating system refuses to tell of signals.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let mut signals = signal(kind)?;
            let shutdown = self.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    shutdown.trigger();
                }
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_trigger_stops_and_the_second_kills() {
        let shutdown = Shutdown::new();
        assert_eq!(shutdown.phase(), Phase::Running);
        shutdown.trigger();
        shutdown.reached(Phase::Stopping).await;
        assert_eq!(shutdown.phase(), Phase::Stopping);
        shutdown.stop();
        assert_eq!(shutdown.phase(), Phase::Stopping);
        shutdown.clone().trigger();
        shutdown.reached(Phase::Killed).await;
    }
}
