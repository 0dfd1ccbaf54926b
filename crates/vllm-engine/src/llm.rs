//! The engine for a program that waits: prompts in, outputs back in the same order.

use std::sync::Arc;

use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;
use vllm_sampling::{BeamSearchParams, OutputKind, SamplingParams};

use crate::async_llm::AsyncLlm;
use crate::beam::{BeamSearchOutput, beam_search};
use crate::chat::{ChatOptions, render_chat};
use crate::client::{EngineClient, GenerationRequest, ModelInfo, RequestOutput};
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::prompt::Prompt;

/// A model ready to generate, for offline use.
///
/// ```
/// use vllm_engine::{Llm, SamplingParams};
///
/// let llm = Llm::new("demo")?;
/// let params = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
/// let outputs = llm.generate(&["The capital of France is"], &params)?;
/// assert!(outputs[0].outputs[0].text.starts_with(" Paris."));
/// # Ok::<(), vllm_engine::Error>(())
/// ```
pub struct Llm {
    engine: Arc<AsyncLlm>,
}

impl Llm {
    /// Loads a model with vLLM's defaults.
    ///
    /// # Errors
    /// [`Error::Setup`] with what is wrong with the model or its files.
    pub fn new(model: impl Into<String>) -> Result<Self> {
        Self::with_config(&EngineConfig::new(model))
    }

    /// Loads a model with settings of your own.
    ///
    /// # Errors
    /// [`Error::Setup`] with what is wrong with the model, its files or the settings.
    pub fn with_config(config: &EngineConfig) -> Result<Self> {
        Ok(Self {
            engine: Arc::new(AsyncLlm::new(config)?),
        })
    }

    /// Continues every prompt, all of them as one batch. Outputs come in the order of the prompts.
    ///
    /// # Errors
    /// The first prompt that is refused or fails; the others are aborted.
    pub fn generate<P>(&self, prompts: &[P], params: &SamplingParams) -> Result<Vec<RequestOutput>>
    where
        P: Clone + Into<Prompt>,
    {
        self.generate_with_progress(prompts, params, |_| {})
    }

    /// Like [`Llm::generate`]; `on_finished` sees each output as soon as it is complete.
    ///
    /// # Errors
    /// As [`Llm::generate`].
    pub fn generate_with_progress<P>(
        &self,
        prompts: &[P],
        params: &SamplingParams,
        on_finished: impl FnMut(&RequestOutput),
    ) -> Result<Vec<RequestOutput>>
    where
        P: Clone + Into<Prompt>,
    {
        let requests = prompts
            .iter()
            .enumerate()
            .map(|(index, prompt)| self.request(index, prompt.clone().into(), params))
            .collect::<Result<Vec<_>>>()?;
        self.run(requests, on_finished)
    }

    /// Answers conversations, each a list of messages as in the OpenAI API.
    ///
    /// # Errors
    /// The model has no chat template, the template refuses a conversation, or as
    /// [`Llm::generate`].
    pub fn chat(
        &self,
        conversations: &[Vec<serde_json::Value>],
        params: &SamplingParams,
    ) -> Result<Vec<RequestOutput>> {
        let requests = conversations
            .iter()
            .enumerate()
            .map(|(index, messages)| {
                let text = render_chat(&*self.engine, messages, &ChatOptions::default())?;
                let ids = encode(&*self.engine, &text, false)?;
                Ok(request(index, ids, Some(text), params))
            })
            .collect::<Result<Vec<_>>>()?;
        self.run(requests, |_| {})
    }

    /// Continues every prompt by beam search, all of them side by side. Each round runs the live
    /// beams as requests of one token, which share their prompt through the prefix cache.
    ///
    /// # Errors
    /// As [`Llm::generate`]; also a beam width whose `2 * beam_width` candidates exceed the
    /// engine's `max_logprobs`.
    pub fn beam_search<P>(
        &self,
        prompts: &[P],
        params: &BeamSearchParams,
    ) -> Result<Vec<BeamSearchOutput>>
    where
        P: Clone + Into<Prompt>,
    {
        let prompts = prompts.iter().map(|prompt| match prompt.clone().into() {
            Prompt::Text(text) => encode(&*self.engine, &text, true),
            Prompt::TokenIds(ids) => Ok(ids),
        });
        beam_search(self, &prompts.collect::<Result<Vec<_>>>()?, params)
    }

    /// What is fixed about the model.
    pub fn info(&self) -> &ModelInfo {
        self.engine.info()
    }

    /// The engine underneath, for streams.
    pub fn engine(&self) -> &Arc<AsyncLlm> {
        &self.engine
    }

    fn request(
        &self,
        index: usize,
        prompt: Prompt,
        params: &SamplingParams,
    ) -> Result<GenerationRequest> {
        Ok(match prompt {
            Prompt::Text(text) => {
                let ids = encode(&*self.engine, &text, true)?;
                request(index, ids, Some(text), params)
            }
            Prompt::TokenIds(ids) => request(index, ids, None, params),
        })
    }

    fn run(
        &self,
        requests: Vec<GenerationRequest>,
        mut on_finished: impl FnMut(&RequestOutput),
    ) -> Result<Vec<RequestOutput>> {
        let mut outputs: Vec<Option<RequestOutput>> = Vec::new();
        outputs.resize_with(requests.len(), || None);
        let mut running = FuturesUnordered::new();
        for (index, request) in requests.into_iter().enumerate() {
            let mut stream = self.engine.generate(request)?;
            running.push(async move { (index, stream.next().await) });
        }
        block_on(async {
            while let Some((index, output)) = running.next().await {
                let output = output.unwrap_or_else(|| {
                    Err(Error::Failed("the engine gave no output".to_owned()))
                })?;
                on_finished(&output);
                outputs[index] = Some(output);
            }
            Ok(())
        })?;
        Ok(outputs.into_iter().flatten().collect())
    }
}

fn request(
    index: usize,
    prompt_token_ids: Vec<u32>,
    prompt: Option<String>,
    params: &SamplingParams,
) -> GenerationRequest {
    let mut params = params.clone();
    params.output_kind = OutputKind::FinalOnly;
    let mut request = GenerationRequest::new(index.to_string(), prompt_token_ids, params);
    request.prompt = prompt;
    request
}

/// Token ids of `text`, refusing what could never fit before spending time on it.
///
/// # Errors
/// The text is longer than the model's context could hold, or cannot be encoded.
pub fn encode(engine: &dyn EngineClient, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
    let max_model_len = engine.info().max_model_len;
    let tokenizer = engine.tokenizer();
    let max_chars = max_model_len.saturating_mul(tokenizer.max_chars_per_token());
    // Bytes are an upper bound of characters, so most texts are not counted at all.
    let num_chars = if text.len() > max_chars {
        text.chars().count()
    } else {
        0
    };
    if num_chars > max_chars {
        return Err(Error::InvalidRequest {
            message: format!(
                "This model's maximum context length is {max_model_len} tokens. However, your \
                 prompt contains {num_chars} characters (more than {max_chars} characters, which \
                 is the upper bound for {max_model_len} input tokens). Please reduce the length \
                 of the input prompt."
            ),
            parameter: Some("input_text".to_owned()),
            value: Some(num_chars.to_string()),
        });
    }
    tokenizer
        .encode(text, add_special_tokens)
        .map_err(|error| Error::invalid(error.to_string()))
}
