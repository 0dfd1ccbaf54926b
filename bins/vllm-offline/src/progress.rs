//! The progress bar: shown on a terminal, silent in a pipe.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use vllm_batch::Progress;

/// Rows done, tokens per second and the time left, on standard error.
pub(crate) struct ProgressDisplay {
    bar: ProgressBar,
}

impl ProgressDisplay {
    /// A bar over `total` rows. Indicatif hides it where standard error is no terminal.
    pub(crate) fn new(total: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        let template = "{bar:30} {pos}/{len} prompts  {msg}  {elapsed} elapsed, {left} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(out, "{}", indicatif::HumanDuration(state.eta()));
            };
            bar.set_style(style.with_key("left", left));
        }
        Self { bar }
    }

    /// Shows how far the job has come.
    pub(crate) fn update(&self, progress: &Progress) {
        let seconds = self.bar.elapsed().as_secs_f64().max(1e-9);
        self.bar.set_message(format!(
            "prompt {:.0} tok/s, output {:.0} tok/s",
            progress.prompt_tokens as f64 / seconds,
            progress.output_tokens as f64 / seconds,
        ));
        self.bar.set_position(progress.rows_done as u64);
    }

    /// Runs `print` with the bar out of the way.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Leaves the final state on the screen.
    pub(crate) fn finish(&self) {
        self.bar.finish();
    }
}
