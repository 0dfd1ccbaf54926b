//! The engine for concurrent callers: every request is a stream.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use futures::StreamExt;
use futures::channel::mpsc::unbounded;
use vllm_chat_template::ChatTemplate;
use vllm_scheduler::{Scheduler, SchedulerConfig};
use vllm_structured_output::GrammarCompiler;
use vllm_tokenizer::Tokenizer;

use crate::admission::{Admission, admit, compile_grammar, count, effective_stop_ids};
use crate::client::{EngineClient, GenerationRequest, ModelInfo};
use crate::config::EngineConfig;
use crate::core::EngineCore;
use crate::error::{Error, Result};
use crate::load::{ChatTemplates, LoadedModel, load};
use crate::recorder::Recorder;
use crate::runner::ModelRunner;
use crate::statistics::Statistics;
use crate::stream::RequestStream;
use crate::submission::{Command, CommandAborter, Submission};

/// An engine on a thread of its own. Share it behind an `Arc`; dropping it ends the thread.
pub struct AsyncLlm {
    info: ModelInfo,
    seed: u64,
    max_num_queued_reqs: Option<usize>,
    tokenizer: Arc<Tokenizer>,
    templates: ChatTemplates,
    /// Built for the first constrained request.
    grammars: OnceLock<Result<GrammarCompiler>>,
    statistics: Arc<Statistics>,
    commands: Sender<Command>,
    next_id: AtomicU64,
    /// Why the engine thread ended; empty while it runs.
    exit_cause: Arc<OnceLock<String>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl AsyncLlm {
    /// Loads the model and starts the engine thread.
    ///
    /// # Errors
    /// [`Error::Setup`] with what is wrong with the model, its files or the settings.
    pub fn new(config: &EngineConfig) -> Result<Self> {
        let LoadedModel {
            model,
            kv_cache,
            tokenizer,
            templates,
            info,
        } = load(config)?;
        let statistics = Arc::new(Statistics::new(info.max_model_len));
        let scheduler_config = scheduler_config(config, &info);
        let recorder = Recorder::open(config.record_steps.as_deref(), &scheduler_config)?;
        let scheduler = Scheduler::new(scheduler_config).map_err(Error::setup)?;
        let runner = ModelRunner::new(model, kv_cache, info.vocab_size);
        let core = EngineCore::new(scheduler, runner, Arc::clone(&statistics), recorder);
        let (commands, mailbox) = channel();
        let exit_cause = Arc::new(OnceLock::new());
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn({
                let exit_cause = Arc::clone(&exit_cause);
                move || {
                    if let Err(error) = vllm_tensor::bind_this_thread() {
                        tracing::warn!(
                            "The engine's thread runs where the system puts it: {error}"
                        );
                    }
                    run_thread(core, &mailbox, &exit_cause);
                }
            })
            .map_err(Error::setup)?;
        Ok(Self {
            info,
            seed: config.seed,
            max_num_queued_reqs: config.max_num_queued_reqs,
            tokenizer,
            templates,
            grammars: OnceLock::new(),
            statistics,
            commands,
            next_id: AtomicU64::new(0),
            exit_cause,
            thread: Mutex::new(Some(thread)),
        })
    }

    fn grammar_compiler(&self) -> Result<&GrammarCompiler> {
        let compiler = self.grammars.get_or_init(|| {
            let further = self.info.default_sampling.eos_token_ids.iter().copied();
            let eos: Vec<u32> = self
                .tokenizer
                .eos_token_id()
                .into_iter()
                .chain(further)
                .collect();
            GrammarCompiler::new(&self.tokenizer, self.info.vocab_size, &eos)
                .map_err(|error| Error::invalid(error.to_string()))
        });
        compiler.as_ref().map_err(Error::clone)
    }

    fn dead(&self) -> Error {
        let cause = self
            .exit_cause
            .get()
            .map_or("it was shut down", String::as_str);
        Error::Dead(cause.to_owned())
    }
}

impl EngineClient for AsyncLlm {
    fn generate(&self, mut request: GenerationRequest) -> Result<RequestStream> {
        if !self.is_alive() {
            return Err(self.dead());
        }
        let waiting = self.statistics.num_requests_waiting.get() as usize;
        if self
            .max_num_queued_reqs
            .is_some_and(|limit| waiting >= limit)
        {
            self.statistics.admission_rejections.add(1);
            return Err(Error::Busy);
        }
        let stop_ids = effective_stop_ids(&request.params, &self.info, &self.tokenizer);
        let first_id = self
            .next_id
            .fetch_add(count(request.params.n.max(1)) as u64, Relaxed);
        let admission = Admission {
            info: &self.info,
            tokenizer: &self.tokenizer,
            stop_ids: &stop_ids,
            first_id,
            engine_seed: self.seed,
        };
        let sequences = admit(&mut request, &admission, |constraint| {
            compile_grammar(self.grammar_compiler()?, constraint)
        })?;
        let ids = sequences
            .iter()
            .map(|sequence| sequence.request.id)
            .collect();
        let (sender, receiver) = unbounded();
        let submission = Box::new(Submission {
            sequences,
            events: sender,
        });
        self.commands
            .send(Command::Add(submission))
            .map_err(|_| self.dead())?;
        Ok(RequestStream::new(
            request,
            receiver.boxed(),
            Box::new(CommandAborter {
                commands: self.commands.clone(),
                ids,
            }),
            Arc::clone(&self.statistics),
            Arc::clone(&self.tokenizer),
        ))
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    fn chat_template(&self, has_tools: bool) -> Result<Option<Arc<ChatTemplate>>> {
        self.templates.get(has_tools)
    }

    fn is_alive(&self) -> bool {
        self.exit_cause.get().is_none()
    }

    fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    fn reset_prefix_cache(&self) -> bool {
        let (answer, question) = channel();
        let sent = self
            .commands
            .send(Command::ResetPrefixCache(answer))
            .is_ok();
        sent && question.recv().unwrap_or(false)
    }

    fn shutdown(&self) {
        // A closed mailbox means that the thread has ended already.
        let _ = self.commands.send(Command::Shutdown);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for AsyncLlm {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn scheduler_config(config: &EngineConfig, info: &ModelInfo) -> SchedulerConfig {
    SchedulerConfig {
        max_num_batched_tokens: config.resolved_max_num_batched_tokens(info.max_model_len),
        max_num_seqs: config.resolved_max_num_seqs(),
        max_model_len: info.max_model_len,
        enable_chunked_prefill: config.enable_chunked_prefill,
        long_prefill_token_threshold: config.long_prefill_token_threshold,
        policy: config.scheduling_policy,
        num_blocks: info.num_blocks,
        block_size: info.block_size,
        enable_prefix_caching: config.enable_prefix_caching,
        watermark: 0.0,
    }
}

/// The engine thread: a panic ends its requests with an error instead of leaving them waiting.
fn run_thread(mut core: EngineCore, mailbox: &Receiver<Command>, exit_cause: &OnceLock<String>) {
    let outcome = catch_unwind(AssertUnwindSafe(|| run_loop(&mut core, mailbox)));
    let cause = match outcome {
        Ok(()) => "it was shut down".to_owned(),
        Err(panic) => format!("a bug in the engine: {}", panic_message(panic.as_ref())),
    };
    let failed = cause.starts_with("a bug");
    // Set before the requests learn of it: who sees a failed request must see a dead engine.
    let _ = exit_cause.set(cause.clone());
    if failed {
        tracing::error!("the engine has stopped: {cause}");
        core.fail_all(&Error::Dead(cause));
    }
}

/// Steps while there is work; sleeps in the mailbox while there is none.
fn run_loop(core: &mut EngineCore, mailbox: &Receiver<Command>) {
    loop {
        if !core.has_unfinished() {
            match mailbox.recv() {
                Ok(command) => {
                    if handle(core, command).is_break() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        while let Ok(command) = mailbox.try_recv() {
            if handle(core, command).is_break() {
                return;
            }
        }
        core.step();
    }
}

fn handle(core: &mut EngineCore, command: Command) -> std::ops::ControlFlow<()> {
    match command {
        Command::Add(submission) => core.add(*submission),
        Command::Abort(ids) => core.abort(&ids),
        Command::ResetPrefixCache(answer) => {
            // The asker may have given up waiting.
            let _ = answer.send(core.reset_prefix_cache());
        }
        Command::Shutdown => return std::ops::ControlFlow::Break(()),
    }
    std::ops::ControlFlow::Continue(())
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "unknown"
    }
}
