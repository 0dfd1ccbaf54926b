//! What Ctrl-C does, by what the program is doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use vllm_batch::Stop;

use crate::progress::announce;

/// What the program is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Doing {
    /// Fetching data, loading the model.
    Preparing,
    /// Answering rows.
    Answering,
    /// Writing and sending the output.
    Delivering,
}

/// Ends the process at once, except while it answers rows: then the first Ctrl-C lets those under
/// way finish, and only the second ends it.
#[derive(Debug, Clone)]
pub(crate) struct Interrupts {
    doing: Arc<AtomicU8>,
    stop: Stop,
}

impl Interrupts {
    /// Takes over Ctrl-C and the signals that end a process.
    pub(crate) fn install() -> Self {
        let interrupts = Self {
            doing: Arc::new(AtomicU8::new(Doing::Preparing as u8)),
            stop: Stop::default(),
        };
        let handler = interrupts.clone();
        if let Err(error) = ctrlc::set_handler(move || handler.interrupt()) {
            eprintln!("vllm-offline: Ctrl-C will not be handled: {error}");
        }
        interrupts
    }

    /// Tells what is done from now on.
    pub(crate) fn now(&self, doing: Doing) {
        self.doing.store(doing as u8, SeqCst);
    }

    /// The wish to end the job.
    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    fn interrupt(&self) {
        let doing = self.doing.load(SeqCst);
        if doing == Doing::Answering as u8 {
            if !self.stop.request() {
                announce("vllm-offline: finishing the rows under way; Ctrl-C again stops at once");
                return;
            }
        } else if doing == Doing::Preparing as u8 {
            announce("vllm-offline: stopped before the first row; the same command begins again");
        } else {
            announce(
                "vllm-offline: stopped before the output was in its place; nothing is lost, the \
                 same command puts it there",
            );
        }
        std::process::exit(130);
    }
}
