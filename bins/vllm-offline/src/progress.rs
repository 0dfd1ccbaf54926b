//! The progress bar: shown on a terminal, silent in a pipe.

use std::sync::OnceLock;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use vllm_batch::Progress;

use crate::summary::Rates;

const WITH_TOTAL: &str = "{bar:30} {pos}/{len} rows  {msg}  {elapsed} elapsed, {left} left";
const WITHOUT_TOTAL: &str = "{spinner} {pos} rows  {msg}  {elapsed} elapsed";

/// The bar of this process, for messages that come from elsewhere.
static SHOWN: OnceLock<ProgressBar> = OnceLock::new();

/// Prints a line on standard error, above the bar if one is shown.
pub(crate) fn announce(line: &str) {
    match SHOWN.get() {
        Some(bar) => bar.suspend(|| eprintln!("{line}")),
        None => eprintln!("{line}"),
    }
}

/// Rows done, tokens per second and the time left, on standard error.
pub(crate) struct ProgressDisplay {
    bar: ProgressBar,
    resumed: Progress,
}

impl ProgressDisplay {
    /// A bar over `total` rows, of which earlier runs have done some. Indicatif hides it where
    /// standard error is no terminal.
    pub(crate) fn new(total: Option<u64>, resumed: Progress) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = total.map_or(WITHOUT_TOTAL, |_| WITH_TOTAL);
        if let Ok(style) = ProgressStyle::with_template(template) {
            let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = match state.per_sec() > 0.0 {
                    true => write!(out, "{}", HumanDuration(state.eta())),
                    false => write!(out, "unknown"),
                };
            };
            bar.set_style(style.with_key("left", left));
        }
        bar.set_position(resumed.rows_done);
        // Rows of earlier runs say nothing about the time left.
        bar.reset_eta();
        // There is one job in a process, so this is the first bar.
        let _ = SHOWN.set(bar.clone());
        Self { bar, resumed }
    }

    /// Shows how far the job has come.
    pub(crate) fn update(&self, progress: &Progress) {
        if self.bar.is_hidden() {
            return;
        }
        let rates = Rates::of(&self.resumed, progress, self.bar.elapsed().as_secs_f64());
        self.bar.set_message(format!(
            "prompt {:.0} tok/s, output {:.0} tok/s, cache hits {:.0}%",
            rates.prompt,
            rates.output,
            100.0 * rates.cache_hits,
        ));
        self.bar.set_position(progress.rows_done);
    }

    /// Runs `print` with the bar out of the way.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Leaves the final state on the screen.
    pub(crate) fn finish(&self) {
        self.bar.abandon();
    }
}
