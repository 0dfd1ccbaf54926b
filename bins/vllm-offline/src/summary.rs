//! What a run has done, for people and for programs.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use vllm_batch::{Error, Progress, Tokens};

/// A run from its beginning to now. Rates count what this run has done; rows and tokens count
/// earlier runs of the same job too.
pub(crate) struct Summary {
    begun: Instant,
    resumed: Progress,
    progress: Progress,
    seconds: f64,
}

impl Summary {
    pub(crate) fn new(resumed: Progress) -> Self {
        Self {
            begun: Instant::now(),
            resumed,
            progress: resumed,
            seconds: 0.0,
        }
    }

    pub(crate) fn update(&mut self, progress: &Progress) {
        self.progress = *progress;
        self.seconds = self.begun.elapsed().as_secs_f64();
    }

    fn rates(&self) -> Rates {
        Rates::of(&self.resumed, &self.progress, self.seconds)
    }

    /// Writes the summary as JSON.
    pub(crate) fn write(&self, path: &Path, is_complete: bool) -> Result<(), Error> {
        let (progress, rates) = (&self.progress, self.rates());
        let summary = json!({
            "complete": is_complete,
            "rows": progress.rows_done,
            "rows_failed": progress.rows_failed,
            "rows_of_earlier_runs": self.resumed.rows_done,
            "prompt_tokens": progress.tokens.prompt,
            "cached_prompt_tokens": progress.tokens.cached,
            "output_tokens": progress.tokens.output,
            "seconds": self.seconds,
            "prompt_tokens_per_second": rates.prompt,
            "output_tokens_per_second": rates.output,
            "cache_hit_rate": rates.cache_hits,
        });
        std::fs::write(path, format!("{summary:#}\n")).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Progress {
            rows_done,
            rows_failed,
            tokens: Tokens { prompt, output, .. },
        } = self.progress;
        let rates = self.rates();
        write!(
            f,
            "{rows_done} rows, {rows_failed} failed; prompt {prompt} tokens ({:.0}/s), output \
             {output} tokens ({:.0}/s), cache hits {:.0}%, {:.1} s",
            rates.prompt,
            rates.output,
            100.0 * rates.cache_hits,
            self.seconds,
        )
    }
}

/// Speeds between two states of a job.
pub(crate) struct Rates {
    /// Prompt tokens per second.
    pub(crate) prompt: f64,
    /// Generated tokens per second.
    pub(crate) output: f64,
    /// Share of the prompt tokens that the prefix cache held.
    pub(crate) cache_hits: f64,
}

impl Rates {
    pub(crate) fn of(from: &Progress, to: &Progress, seconds: f64) -> Self {
        let ratio = |part: u64, whole: f64| {
            if whole > 0.0 {
                part as f64 / whole
            } else {
                0.0
            }
        };
        let prompt = to.tokens.prompt - from.tokens.prompt;
        Self {
            prompt: ratio(prompt, seconds),
            output: ratio(to.tokens.output - from.tokens.output, seconds),
            cache_hits: ratio(to.tokens.cached - from.tokens.cached, prompt as f64),
        }
    }
}
