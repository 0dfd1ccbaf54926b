//! Progress on a terminal.
//!
//! Knows bars on standard error and when to leave them out. It must never know what is progressing:
//! callers bring names and numbers.
//!
//! ```
//! if let Some(bar) = vllm_terminal::ByteBar::on_terminal("Loading weights") {
//!     bar.show(512, 1024);
//!     bar.show(1024, 1024); // the bar goes away
//! }
//! ```
#![forbid(unsafe_code)]

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TEMPLATE: &str = "{msg} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left";

/// A bar over bytes on standard error.
#[derive(Debug)]
pub struct ByteBar(ProgressBar);

impl ByteBar {
    /// A bar behind the words `what`; `None` where standard error is no terminal.
    pub fn on_terminal(what: &'static str) -> Option<Self> {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if bar.is_hidden() {
            return None;
        }
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Some(Self(bar))
    }

    /// Shows that `done` of `total` bytes are done; takes the bar away when all are.
    pub fn show(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
        if done >= total {
            self.0.finish_and_clear();
        }
    }
}
