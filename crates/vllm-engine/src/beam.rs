//! Beam search over an engine: every round asks for one more token of every live beam.

use vllm_sampling::{
    BeamSearch, BeamSearchParams, OutputKind, SamplingParams, TokenLogprob, TokenLogprobs,
};

use crate::client::{EngineClient, RequestOutput};
use crate::error::{Error, Result};
use crate::llm::Llm;

/// What became of one prompt: the best sequences, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamSearchOutput {
    /// At most `beam_width` sequences.
    pub sequences: Vec<BeamSequence>,
}

/// One sequence of a beam search.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamSequence {
    /// Prompt and generated tokens.
    pub token_ids: Vec<u32>,
    /// The text of prompt and generated tokens together.
    pub text: String,
    /// Sum of the generated tokens' log-probabilities.
    pub cumulative_logprob: f64,
}

/// Runs all prompts' searches in step.
pub(crate) fn beam_search(
    llm: &Llm,
    prompts: &[Vec<u32>],
    params: &BeamSearchParams,
) -> Result<Vec<BeamSearchOutput>> {
    let tokenizer = llm.engine().tokenizer();
    let mut searches: Vec<BeamSearch> = prompts
        .iter()
        .map(|prompt| BeamSearch::new(params.clone(), prompt, tokenizer.eos_token_id()))
        .collect();
    let round_params = SamplingParams {
        temperature: params.temperature,
        max_tokens: Some(1),
        logprobs: Some(i64::try_from(params.logprobs_per_round()).unwrap_or(i64::MAX)),
        ignore_eos: params.ignore_eos,
        detokenize: false,
        output_kind: OutputKind::FinalOnly,
        ..SamplingParams::default()
    };
    while searches.iter().any(|search| !search.is_finished()) {
        let open: Vec<&mut BeamSearch> = searches
            .iter_mut()
            .filter(|search| !search.is_finished())
            .collect();
        let beams: Vec<Vec<u32>> = open
            .iter()
            .flat_map(|search| search.live().iter().map(|beam| beam.token_ids.clone()))
            .collect();
        let mut outputs = llm.generate(&beams, &round_params)?.into_iter();
        for search in open {
            let candidates: Vec<TokenLogprobs> = outputs
                .by_ref()
                .take(search.live().len())
                .map(candidates)
                .collect();
            search
                .advance(&candidates)
                .map_err(|error| Error::Failed(error.to_string()))?;
        }
    }
    searches
        .into_iter()
        .map(|search| {
            let sequences = search.into_best().into_iter().map(|beam| {
                let text = tokenizer
                    .decode(&beam.token_ids, params.skip_special_tokens)
                    .map_err(|error| Error::Failed(error.to_string()))?;
                Ok(BeamSequence {
                    token_ids: beam.token_ids,
                    text,
                    cumulative_logprob: beam.cumulative_logprob,
                })
            });
            Ok(BeamSearchOutput {
                sequences: sequences.collect::<Result<_>>()?,
            })
        })
        .collect()
}

/// The likeliest next tokens that a one-token request reports.
fn candidates(output: RequestOutput) -> TokenLogprobs {
    let entries = output
        .outputs
        .into_iter()
        .flat_map(|sample| sample.logprobs.into_iter().flatten().flatten())
        .map(|entry| TokenLogprob {
            token_id: entry.token_id,
            logprob: entry.logprob,
            rank: entry.rank,
        })
        .collect();
    TokenLogprobs { entries }
}
