//! Runs rows through an engine: many at once, results in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;
use vllm_engine::{
    AsyncLlm, ChatOptions, EngineClient, GenerationRequest, OutputKind, RequestOutput,
    SamplingParams, encode, render_chat,
};

use crate::error::{Error, Result};
use crate::record::RowResult;
use crate::row::{Row, RowInput};

/// Rows inside the engine at once: enough that its largest batch never runs dry.
const MAX_ROWS_IN_FLIGHT: usize = 512;
/// Finished rows that may wait for a slower one before them.
const MAX_ROWS_WAITING: usize = 4096;

/// How far a job has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that have a result.
    pub rows_done: usize,
    /// Of these, rows whose result is an error.
    pub rows_failed: usize,
    /// Prompt tokens of the rows done.
    pub prompt_tokens: usize,
    /// Tokens generated for them.
    pub output_tokens: usize,
}

/// One run over a data set.
pub struct Job {
    engine: Arc<AsyncLlm>,
    params: SamplingParams,
    max_tokens_is_set: bool,
    progress: Progress,
}

/// A row on its way through the engine.
struct Finished {
    index: usize,
    row: Row,
    outcome: std::result::Result<RequestOutput, String>,
}

impl Job {
    /// A job that samples every row with `params`. Without `max_tokens` prompts get vLLM's 16
    /// tokens and conversations the rest of the context.
    pub fn new(engine: Arc<AsyncLlm>, mut params: SamplingParams, max_tokens: Option<i64>) -> Self {
        params.output_kind = OutputKind::FinalOnly;
        if max_tokens.is_some() {
            params.max_tokens = max_tokens;
        }
        let max_tokens_is_set = max_tokens.is_some();
        Self {
            engine,
            params,
            max_tokens_is_set,
            progress: Progress::default(),
        }
    }

    /// Works through `rows`. `on_result` gets every result in input order, `on_progress` every
    /// change; `should_stop` is asked before a row is started, and rows under way are finished.
    ///
    /// # Errors
    /// The input cannot be read on, a result cannot be handed on, or the engine has died.
    pub fn run(
        mut self,
        rows: impl Iterator<Item = Result<std::result::Result<Row, String>>>,
        should_stop: impl Fn() -> bool,
        mut on_result: impl FnMut(RowResult) -> std::io::Result<()>,
        mut on_progress: impl FnMut(&Progress),
    ) -> Result<Progress> {
        let mut rows = rows.enumerate();
        let mut next_to_emit = 0;
        let mut num_started = 0;
        let mut waiting: BTreeMap<usize, RowResult> = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        let mut exhausted = false;
        block_on(async {
            loop {
                while !exhausted
                    && running.len() < MAX_ROWS_IN_FLIGHT
                    && num_started - next_to_emit < MAX_ROWS_WAITING
                {
                    let Some((index, row)) = rows.next().filter(|_| !should_stop()) else {
                        exhausted = true;
                        break;
                    };
                    num_started += 1;
                    match row? {
                        Ok(row) => running.push(self.start(index, row)?),
                        Err(message) => {
                            let result = RowResult {
                                index,
                                row: None,
                                outcome: Err(message),
                            };
                            self.count(&result);
                            waiting.insert(index, result);
                        }
                    }
                }
                if let Some(finished) = running.next().await {
                    let Finished {
                        index,
                        row,
                        outcome,
                    } = finished;
                    let result = RowResult {
                        index,
                        row: Some(row),
                        outcome,
                    };
                    self.count(&result);
                    waiting.insert(index, result);
                }
                while let Some(result) = waiting.remove(&next_to_emit) {
                    on_result(result)?;
                    next_to_emit += 1;
                }
                on_progress(&self.progress);
                if exhausted && running.is_empty() {
                    return Ok(self.progress);
                }
            }
        })
    }

    /// Queues a row; a row that the engine refuses finishes at once with the reason.
    fn start(&self, index: usize, row: Row) -> Result<impl Future<Output = Finished> + use<>> {
        let submitted = self
            .request(index, &row.input)
            .and_then(|request| self.engine.generate(request));
        let stream = match submitted {
            Ok(stream) => Ok(stream),
            Err(error @ vllm_engine::Error::Dead(_)) => return Err(Error::Engine(error)),
            Err(refusal) => Err(refusal.to_string()),
        };
        Ok(async move {
            let outcome = match stream {
                Err(message) => Err(message),
                Ok(mut stream) => match stream.next().await {
                    Some(Ok(output)) => Ok(output),
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err("the engine gave no output".to_owned()),
                },
            };
            Finished {
                index,
                row,
                outcome,
            }
        })
    }

    fn request(&self, index: usize, input: &RowInput) -> vllm_engine::Result<GenerationRequest> {
        let engine = &*self.engine;
        let mut params = self.params.clone();
        let (token_ids, text) = match input {
            RowInput::Prompt(text) => (encode(engine, text, true)?, Some(text.clone())),
            RowInput::TokenIds(ids) => (ids.clone(), None),
            RowInput::Messages(messages) => {
                let text = render_chat(engine, messages, &ChatOptions::default())?;
                if !self.max_tokens_is_set {
                    params.max_tokens = None;
                }
                (encode(engine, &text, false)?, Some(text))
            }
        };
        let mut request = GenerationRequest::new(index.to_string(), token_ids, params);
        request.prompt = text;
        Ok(request)
    }

    fn count(&mut self, result: &RowResult) {
        self.progress.rows_done += 1;
        match &result.outcome {
            Ok(output) => {
                self.progress.prompt_tokens += output.prompt_token_ids.len();
                self.progress.output_tokens += output
                    .outputs
                    .iter()
                    .map(|sample| sample.token_ids.len())
                    .sum::<usize>();
            }
            Err(_) => self.progress.rows_failed += 1,
        }
    }
}
