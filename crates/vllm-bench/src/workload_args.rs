//! Workloads by vLLM's flags.

use std::path::PathBuf;

use vllm_tokenizer::Tokenizer;

use crate::error::{Error, Result};
use crate::random::RandomWorkload;
use crate::share_gpt::ShareGptWorkload;
use crate::workload::SampleRequest;

/// What to ask for.
#[derive(Debug, Clone, PartialEq, clap::Args)]
#[command(next_help_heading = "Workload")]
pub struct WorkloadArgs {
    /// How many prompts
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub num_prompts: usize,
    /// Random tokens, or a file of conversations [default: sharegpt with --dataset-path, else
    /// random]
    #[arg(long, value_name = "NAME")]
    dataset_name: Option<DataSetName>,
    /// ShareGPT-like file: a JSON list, or JSON lines, of {"conversations": [{"value": …}, …]}
    #[arg(long, value_name = "FILE", alias = "dataset")]
    dataset_path: Option<PathBuf>,
    /// Tokens of a random prompt [default: 1024]
    #[arg(long, value_name = "TOKENS", alias = "input-len")]
    random_input_len: Option<usize>,
    /// Tokens to generate [default: 128 for random prompts, else as long as each answer]
    #[arg(long, value_name = "TOKENS", aliases = ["random-output-len", "sharegpt-output-len"])]
    output_len: Option<usize>,
    /// Lengths of random prompts and outputs vary by this share up and down
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    random_range_ratio: f64,
    /// Tokens with which all random prompts begin, besides their own
    #[arg(long, value_name = "TOKENS", alias = "prefix-len", default_value_t = 0)]
    random_prefix_len: usize,
    /// Decides which prompts are drawn
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DataSetName {
    Random,
    Sharegpt,
}

impl WorkloadArgs {
    /// Draws or reads the requests, for a model with this tokenizer and as many token ids as
    /// `vocab_size`.
    ///
    /// # Errors
    /// Flags that contradict each other, or a file that cannot be used.
    pub fn requests(&self, tokenizer: &Tokenizer, vocab_size: usize) -> Result<Vec<SampleRequest>> {
        if self.num_prompts == 0 {
            let message = "--num-prompts must be at least 1";
            return Err(Error::Workload(message.to_owned()));
        }
        match (self.dataset_name, &self.dataset_path) {
            (Some(DataSetName::Random) | None, None) => {
                let workload = RandomWorkload {
                    num_prompts: self.num_prompts,
                    input_len: self.random_input_len.unwrap_or(1024),
                    output_len: self.output_len.unwrap_or(128),
                    range_ratio: self.random_range_ratio,
                    prefix_len: self.random_prefix_len,
                    seed: self.seed,
                };
                workload.draw(tokenizer, vocab_size)
            }
            (Some(DataSetName::Sharegpt) | None, Some(path)) => {
                if self.random_input_len.is_some() {
                    let message = "--input-len is for random prompts; those of a file have theirs";
                    return Err(Error::Workload(message.to_owned()));
                }
                let workload = ShareGptWorkload {
                    num_prompts: self.num_prompts,
                    output_len: self.output_len,
                    seed: self.seed,
                };
                workload.read(path, tokenizer)
            }
            (Some(DataSetName::Sharegpt), None) => Err(Error::Workload(
                "--dataset-name sharegpt needs --dataset-path FILE".to_owned(),
            )),
            (Some(DataSetName::Random), Some(_)) => Err(Error::Workload(
                "--dataset-name random reads no --dataset-path".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use vllm_engine::EngineClient;
    use vllm_engine::mock::MockEngine;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        workload: WorkloadArgs,
    }

    fn requests(flags: &str) -> Result<Vec<SampleRequest>> {
        let words = std::iter::once("bench").chain(flags.split_whitespace());
        let engine = MockEngine::new("text").unwrap();
        let args = Command::try_parse_from(words).unwrap().workload;
        args.requests(engine.tokenizer(), engine.info().vocab_size)
    }

    #[test]
    fn lengths_have_vllms_several_names() {
        for flags in [
            "--random-input-len 5 --random-output-len 3",
            "--dataset-name random --input-len 5 --output-len 3",
        ] {
            let requests = requests(&format!("--num-prompts 2 {flags}")).unwrap();
            let lengths = requests
                .iter()
                .map(|r| (r.prompt_token_ids.len(), r.output_len));
            assert_eq!(lengths.collect::<Vec<_>>(), [(5, 3), (5, 3)]);
        }
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        for (flags, part) in [
            ("--num-prompts 0", "--num-prompts"),
            ("--dataset-name sharegpt", "--dataset-path"),
            ("--dataset-name random --dataset-path x", "random reads no"),
            ("--dataset-path x --input-len 3", "--input-len"),
            ("--dataset-path no/such.json", "no/such.json"),
        ] {
            let message = requests(flags).unwrap_err().to_string();
            assert!(message.contains(part), "{flags}: {message}");
        }
    }
}
