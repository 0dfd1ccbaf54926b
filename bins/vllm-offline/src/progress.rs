//! Progress: a bar on a terminal, a line now and then elsewhere.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use vllm_batch::Progress;

use crate::summary::Rates;

const WITH_TOTAL: &str = "{bar:30} {pos}/{len} rows  {msg}  {elapsed} elapsed, {left} left";
const WITHOUT_TOTAL: &str = "{spinner} {pos} rows  {msg}  {elapsed} elapsed";

/// How often a line tells where standard error is no terminal, such as in a batch system's log.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

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
    total: Option<u64>,
    last_line: Cell<Instant>,
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
        Self {
            bar,
            resumed,
            total,
            last_line: Cell::new(Instant::now()),
        }
    }

    /// Shows how far the job has come.
    pub(crate) fn update(&self, progress: &Progress) {
        if self.bar.is_hidden() {
            if self.last_line.get().elapsed() >= LINE_INTERVAL {
                self.last_line.set(Instant::now());
                eprintln!("{}", self.line(progress, self.bar.elapsed()));
            }
            return;
        }
        self.bar
            .set_message(self.rates(progress, self.bar.elapsed()));
        self.bar.set_position(progress.rows_done);
    }

    fn rates(&self, progress: &Progress, elapsed: Duration) -> String {
        let rates = Rates::of(&self.resumed, progress, elapsed.as_secs_f64());
        format!(
            "prompt {:.0} tok/s, output {:.0} tok/s, cache hits {:.0}%",
            rates.prompt,
            rates.output,
            100.0 * rates.cache_hits,
        )
    }

    /// What the bar shows, in words.
    fn line(&self, progress: &Progress, elapsed: Duration) -> String {
        let done = progress.rows_done;
        let done_now = done - self.resumed.rows_done;
        let rates = self.rates(progress, elapsed);
        let of_all = self
            .total
            .map_or(String::new(), |total| format!("/{total}"));
        let left = self.total.filter(|_| done_now > 0).map(|total| {
            let rows_left = total.saturating_sub(done) as f64;
            let seconds = elapsed.as_secs_f64() * rows_left / done_now as f64;
            format!(", {} left", HumanDuration(Duration::from_secs_f64(seconds)))
        });
        format!(
            "{done}{of_all} rows  {rates}  {} elapsed{}",
            HumanDuration(elapsed),
            left.unwrap_or_default()
        )
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

#[cfg(test)]
mod tests {
    use vllm_batch::Tokens;

    use super::*;

    fn progress(rows_done: u64, prompt: u64, cached: u64, output: u64) -> Progress {
        Progress {
            rows_done,
            rows_failed: 0,
            tokens: Tokens {
                prompt,
                cached,
                output,
            },
        }
    }

    #[test]
    fn a_line_in_a_log_tells_what_the_bar_tells() {
        let display = ProgressDisplay::new(Some(1000), progress(100, 50, 0, 50));
        let line = display.line(&progress(300, 2050, 500, 1050), Duration::from_secs(100));
        assert_eq!(
            line,
            "300/1000 rows  prompt 20 tok/s, output 10 tok/s, cache hits 25%  2 minutes elapsed, \
             6 minutes left"
        );
        let stream = ProgressDisplay::new(None, Progress::default());
        let line = stream.line(&Progress::default(), Duration::from_secs(90));
        assert!(line.starts_with("0 rows  prompt 0 tok/s"), "{line}");
        assert!(!line.contains("left"), "{line}");
    }
}
