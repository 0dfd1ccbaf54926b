//! Runs rows through an engine: many at once, results as they finish.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::channel::mpsc::Receiver;
use futures::executor::block_on;
use futures::future::poll_fn;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use vllm_engine::{
    ChatOptions, DefaultSampling, EngineClient, FinishReason, GenerationRequest, OutputKind,
    RequestOutput, RequestStream, SamplingParams, encode, render_chat,
};

use crate::done::DoneRows;
use crate::error::{Error, Result};
use crate::feed::{ReadRow, feed};
use crate::openai::{BatchJob, BatchRequest, Refusal, Reply, engine_refusal};
use crate::reader::Record;
use crate::result::{Answer, RowResult, Tokens};
use crate::row::{Row, RowInput, UnreadRow};
use crate::seed::row_seed;
use crate::stop::Stop;

/// Rows that may be started ahead of the first one without a result. It bounds what has to be
/// held back to bring rows in order.
const MAX_ROWS_AHEAD: u64 = 4096;

/// How a job answers its rows.
#[derive(Debug, Clone)]
pub struct JobSettings {
    /// The model's name, which lines of batch files may repeat.
    pub model: String,
    /// How to sample plain rows, but for the seed.
    pub params: SamplingParams,
    /// The answer's length, for plain rows. Without, prompts get vLLM's 16 tokens and
    /// conversations the rest of the context.
    pub max_tokens: Option<i64>,
    /// What lines of batch files get that leave sampling fields out.
    pub defaults: DefaultSampling,
    /// Every row draws from a seed of its own that comes from this one.
    pub seed: i64,
    /// Unix time at which the job was begun.
    pub created: u64,
    /// Rows inside the engine at once.
    pub max_rows_in_flight: usize,
    /// The job ends when more rows than this fail.
    pub max_errors: Option<u64>,
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that have a result.
    pub rows_done: u64,
    /// Of these, rows whose result is an error.
    pub rows_failed: u64,
    /// What they took.
    pub tokens: Tokens,
}

impl Progress {
    /// Counts one more row.
    pub(crate) fn add(&mut self, tokens: Tokens, failed: bool) {
        self.rows_done += 1;
        self.rows_failed += u64::from(failed);
        self.tokens.prompt += tokens.prompt;
        self.tokens.cached += tokens.cached;
        self.tokens.output += tokens.output;
    }
}

/// One run over a data set.
pub struct Job {
    engine: Arc<dyn EngineClient>,
    settings: JobSettings,
    batch: Arc<BatchJob>,
}

enum Event {
    Finished(Result<RowResult>),
    Read(Option<Result<ReadRow>>),
    Stopped,
}

impl Job {
    /// A job on this engine.
    pub fn new(engine: Arc<dyn EngineClient>, mut settings: JobSettings) -> Self {
        settings.params.output_kind = OutputKind::FinalOnly;
        if settings.max_tokens.is_some() {
            settings.params.max_tokens = settings.max_tokens;
        }
        let batch = Arc::new(BatchJob {
            model: settings.model.clone(),
            defaults: settings.defaults.clone(),
            seed: settings.seed,
            created: settings.created,
        });
        Self {
            engine,
            settings,
            batch,
        }
    }

    /// Works through `records`, which a thread reads ahead, but for those that are `done`.
    /// `on_result` gets every result as it finishes, `on_progress` every change, counted on from
    /// `progress`. After a stop, rows under way are finished.
    ///
    /// # Errors
    /// The input cannot be read on or is not the one that was begun, a result cannot be handed
    /// on, too many rows failed, or the engine has died.
    pub fn run(
        &self,
        records: impl Iterator<Item = Result<Record>> + Send + 'static,
        mut done: DoneRows,
        mut progress: Progress,
        stop: &Stop,
        mut on_result: impl FnMut(RowResult) -> Result<()>,
        mut on_progress: impl FnMut(&Progress),
    ) -> Result<Progress> {
        let earlier = (progress.rows_failed > 0).then(|| "in an earlier run".to_owned());
        self.check_failures(&progress, earlier)?;
        let mut rows = feed(records, done.clone())?;
        let mut running = FuturesUnordered::new();
        let mut next_index = done.low();
        let mut ended = false;
        on_progress(&progress);
        loop {
            let may_start = !ended
                && running.len() < self.settings.max_rows_in_flight.max(1)
                && next_index < done.low() + MAX_ROWS_AHEAD;
            if running.is_empty() && ended {
                return Ok(progress);
            }
            let event = block_on(poll_fn(|cx| {
                if !ended && stop.poll_requested(cx).is_ready() {
                    return Poll::Ready(Event::Stopped);
                }
                if let Poll::Ready(Some(result)) = running.poll_next_unpin(cx) {
                    return Poll::Ready(Event::Finished(result));
                }
                poll_rows(&mut rows, may_start, cx)
            }));
            match event {
                Event::Stopped | Event::Read(None) => ended = true,
                Event::Read(Some(read)) => {
                    let read = read?;
                    next_index = read.index + 1;
                    running.push(self.start(read)?.boxed());
                }
                Event::Finished(result) => {
                    let result = result?;
                    done.insert(result.index, result.checksum);
                    progress.add(result.tokens, result.error.is_some());
                    let error = result.error.clone();
                    on_result(result)?;
                    on_progress(&progress);
                    self.check_failures(&progress, error)?;
                }
            }
        }
    }

    fn check_failures(&self, progress: &Progress, error: Option<String>) -> Result<()> {
        match (error, self.settings.max_errors) {
            (Some(message), Some(limit)) if progress.rows_failed > limit => {
                Err(Error::TooManyFailures {
                    failed: progress.rows_failed,
                    limit,
                    message,
                })
            }
            _ => Ok(()),
        }
    }

    /// Queues a row; a row that is refused finishes at once with the reason.
    fn start(
        &self,
        read: ReadRow,
    ) -> Result<impl Future<Output = Result<RowResult>> + Send + use<>> {
        let ReadRow {
            index,
            checksum,
            row,
        } = read;
        let work = match row {
            Ok(row) => self.submit(index, row)?,
            Err(UnreadRow { reason, columns }) => {
                let answer = Answer::Unread(columns);
                Work::Refused((Tokens::default(), Some(reason), answer))
            }
        };
        Ok(async move {
            let (tokens, error, answer) = work.finish().await?;
            Ok(RowResult {
                index,
                checksum,
                tokens,
                error,
                answer,
            })
        })
    }

    fn submit(&self, index: u64, row: Box<Row>) -> Result<Work> {
        let RowInput::Batch(line) = row.input else {
            let streams = self
                .request(index, &row.input)
                .and_then(|request| self.engine.generate(request));
            return Ok(match alive(streams)? {
                Ok(stream) => Work::Plain(row, Box::new(stream)),
                Err(refusal) => Work::Refused(plain(row, Err(refusal.to_string()))),
            });
        };
        let job = Arc::clone(&self.batch);
        let prepared = match line.prepare(&*self.engine, &job, index) {
            Ok(prepared) => prepared,
            Err(refusal) => return Ok(Work::Refused(batch(&line, &job, index, Err(refusal)))),
        };
        let mut streams = Vec::with_capacity(prepared.engine_requests.len());
        for request in prepared.engine_requests {
            match alive(self.engine.generate(request))? {
                Ok(stream) => streams.push(stream),
                Err(error) => {
                    let refusal = engine_refusal(&error);
                    return Ok(Work::Refused(batch(&line, &job, index, Err(refusal))));
                }
            }
        }
        Ok(Work::Batch(Box::new(BatchWork {
            line,
            job,
            index,
            reply: prepared.reply,
            streams,
        })))
    }

    fn request(&self, index: u64, input: &RowInput) -> vllm_engine::Result<GenerationRequest> {
        let engine = &*self.engine;
        let mut params = self.settings.params.clone();
        params.seed = Some(row_seed(self.settings.seed, index));
        let (token_ids, text) = match input {
            RowInput::Prompt(text) => (encode(engine, text, true)?, Some(text.clone())),
            RowInput::TokenIds(ids) => (ids.clone(), None),
            RowInput::Messages(messages) => {
                let text = render_chat(engine, messages, &ChatOptions::default())?;
                params.max_tokens = self.settings.max_tokens;
                (encode(engine, &text, false)?, Some(text))
            }
            RowInput::Batch(_) => {
                return Err(vllm_engine::Error::invalid("a batch line is no prompt"));
            }
        };
        let mut request = GenerationRequest::new(index.to_string(), token_ids, params);
        request.prompt = text;
        Ok(request)
    }
}

fn poll_rows(
    rows: &mut Receiver<Result<ReadRow>>,
    may_start: bool,
    cx: &mut Context<'_>,
) -> Poll<Event> {
    match may_start {
        true => rows.poll_next_unpin(cx).map(Event::Read),
        false => Poll::Pending,
    }
}

/// Tells an engine that refuses one row from one that serves no rows any more.
fn alive<T>(outcome: vllm_engine::Result<T>) -> Result<vllm_engine::Result<T>> {
    match outcome {
        Err(error @ vllm_engine::Error::Dead(_)) => Err(Error::Engine(error)),
        other => Ok(other),
    }
}

/// What is left to say about a row.
type Finished = (Tokens, Option<String>, Answer);

/// A row on its way through the engine.
enum Work {
    Refused(Finished),
    Plain(Box<Row>, Box<RequestStream>),
    Batch(Box<BatchWork>),
}

struct BatchWork {
    line: BatchRequest,
    job: Arc<BatchJob>,
    index: u64,
    reply: Reply,
    streams: Vec<RequestStream>,
}

impl Work {
    async fn finish(self) -> Result<Finished> {
        match self {
            Self::Refused(finished) => Ok(finished),
            Self::Plain(row, stream) => {
                let output = alive(last_output(*stream).await)?;
                Ok(plain(row, output.map_err(|error| error.to_string())))
            }
            Self::Batch(work) => work.finish().await,
        }
    }
}

impl BatchWork {
    async fn finish(self) -> Result<Finished> {
        let mut outputs = Vec::with_capacity(self.streams.len());
        for stream in self.streams {
            match alive(last_output(stream).await)? {
                Ok(output) => outputs.push(output),
                Err(error) => {
                    let refusal = engine_refusal(&error);
                    return Ok(batch(&self.line, &self.job, self.index, Err(refusal)));
                }
            }
        }
        let body = self.reply.body(&outputs);
        let (_, error, answer) = batch(&self.line, &self.job, self.index, body);
        Ok((Tokens::of(&outputs), error, answer))
    }
}

async fn last_output(mut stream: RequestStream) -> vllm_engine::Result<RequestOutput> {
    let gone = || vllm_engine::Error::Dead("it gave up a row".to_owned());
    let output = stream.next().await.unwrap_or_else(|| Err(gone()))?;
    let ended_by = |reason| {
        output
            .outputs
            .iter()
            .any(|o| o.finish_reason == Some(reason))
    };
    // Nobody aborts rows of a job but an engine that ends.
    match ended_by(FinishReason::Abort) {
        true => Err(gone()),
        false => Ok(output),
    }
}

fn plain(row: Box<Row>, output: std::result::Result<RequestOutput, String>) -> Finished {
    let output = output.and_then(|output| {
        let failed =
            |o: &vllm_engine::CompletionOutput| o.finish_reason == Some(FinishReason::Error);
        match output.outputs.iter().any(failed) {
            true => Err("the model's output is not a number: nothing could be sampled".to_owned()),
            false => Ok(output),
        }
    });
    let (output, error) = match output {
        Ok(output) => (Some(output), None),
        Err(message) => (None, Some(message)),
    };
    let tokens = Tokens::of(output.as_slice());
    let answer = Answer::Plain {
        row,
        output: output.map(Box::new),
    };
    (tokens, error, answer)
}

fn batch(
    line: &BatchRequest,
    job: &BatchJob,
    index: u64,
    body: std::result::Result<String, Refusal>,
) -> Finished {
    let error = body
        .as_ref()
        .err()
        .map(|refusal| refusal.message().to_owned());
    let line = line.answer_line(job, index, body);
    (Tokens::default(), error, Answer::Batch(line))
}
