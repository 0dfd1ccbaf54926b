//! What a benchmark asks for, and how the engine is asked.

use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;
use vllm_engine::{
    EngineClient, Error as EngineError, GenerationRequest, OutputKind, RequestOutput,
    SamplingParams,
};

use crate::error::{Error, Result};

/// One request of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleRequest {
    /// The prompt.
    pub prompt_token_ids: Vec<u32>,
    /// How many tokens to generate.
    pub output_len: usize,
}

/// How tokens are generated in a benchmark: always as many as asked for, past any end of sequence.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Samples for each prompt.
    pub n: i64,
    /// vLLM's benchmarks sample at 1; 0 takes the likeliest token.
    pub temperature: f64,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            n: 1,
            temperature: 1.0,
        }
    }
}

impl Generation {
    fn params(&self, output_len: usize) -> SamplingParams {
        SamplingParams {
            n: self.n,
            temperature: self.temperature,
            max_tokens: Some(i64::try_from(output_len).unwrap_or(i64::MAX)),
            ignore_eos: true,
            output_kind: OutputKind::FinalOnly,
            ..SamplingParams::default()
        }
    }

    /// Hands all requests to the engine at once and waits for them.
    pub(crate) fn run(
        &self,
        engine: &dyn EngineClient,
        requests: &[SampleRequest],
        mut on_finished: impl FnMut(&RequestOutput),
    ) -> Result<()> {
        check_lengths(requests, engine.info().max_model_len)?;
        let mut running = FuturesUnordered::new();
        for (index, request) in requests.iter().enumerate() {
            let mut stream = engine.generate(GenerationRequest::new(
                index.to_string(),
                request.prompt_token_ids.clone(),
                self.params(request.output_len),
            ))?;
            running.push(async move {
                let nothing = || EngineError::Failed("the engine gave no output".to_owned());
                stream.next().await.ok_or_else(nothing)?
            });
        }
        block_on(async {
            while let Some(output) = running.next().await {
                on_finished(&output?);
            }
            Ok(())
        })
    }
}

/// An engine would cut such answers short, and the figures would be those of a smaller workload.
fn check_lengths(requests: &[SampleRequest], max_model_len: usize) -> Result<()> {
    let too_long = requests
        .iter()
        .map(|request| (request.prompt_token_ids.len(), request.output_len))
        .find(|(prompt, output)| prompt.saturating_add(*output) > max_model_len);
    match too_long {
        None => Ok(()),
        Some((prompt, output)) => Err(Error::Workload(format!(
            "a prompt of {prompt} tokens and {output} tokens of output do not fit into the \
             model's {max_model_len} tokens; ask for less"
        ))),
    }
}
