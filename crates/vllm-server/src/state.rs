//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use vllm_chat_template::ChatTemplate;
use vllm_engine::EngineClient;
use vllm_openai::reasoning::{self, ReasoningParser};
use vllm_openai::tools::{self, ToolParser};
use vllm_openai::{LengthLimits, OutputParsers, PROTOCOL_VERSION, SamplingDefaults};
use vllm_renderer::{Renderer, sampling_defaults};

use crate::config::{ApiConfig, Fingerprint, LogConfig, ServerConfig};
use crate::error::{Error, Result};
use crate::metrics::{CountedParser, Metrics, RequestType};
use crate::shutdown::Shutdown;

/// One service's state.
pub(crate) struct AppState {
    pub(crate) engine: Arc<dyn EngineClient>,
    pub(crate) api: ApiConfig,
    pub(crate) log: LogConfig,
    pub(crate) max_body_bytes: usize,
    /// Served names, the first one for answers; never empty.
    pub(crate) model_names: Vec<String>,
    pub(crate) system_fingerprint: Option<String>,
    /// The template that replaces the model's own.
    pub(crate) chat_template: Option<Arc<ChatTemplate>>,
    /// Finds tool calls; only where clients may leave the choice to the model.
    pub(crate) tool_parser: Option<Arc<dyn ToolParser>>,
    /// Tells reasoning from the answer.
    pub(crate) reasoning_parser: Option<ReasoningParser>,
    pub(crate) metrics: Metrics,
    pub(crate) load: ServerLoad,
    pub(crate) shutdown: Shutdown,
    /// Admits as many heavy preparations at a time as there are processors.
    pub(crate) heavy_work: Semaphore,
}

/// The state as handlers get it.
pub(crate) type Shared = Arc<AppState>;

impl AppState {
    pub(crate) fn new(
        config: &ServerConfig,
        engine: Arc<dyn EngineClient>,
        shutdown: Shutdown,
    ) -> Result<Self> {
        let mut model_names = config.api.served_model_names.clone();
        if model_names.is_empty() {
            model_names.push(engine.info().name.clone());
        }
        let chat_template = chat_template(&config.api)?;
        let metrics = Metrics::new();
        let tool_parser = tool_parser(&config.api)?;
        let reasoning_parser = reasoning_parser(&config.api)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            system_fingerprint: system_fingerprint(&config.api.fingerprint, engine.as_ref()),
            api: config.api.clone(),
            log: config.log.clone(),
            max_body_bytes: config.http.max_body_bytes,
            model_names,
            chat_template: chat_template.map(Arc::new),
            tool_parser,
            reasoning_parser: reasoning_parser
                .map(|parser| parser.with_vocabulary(|mark| engine.tokenizer().token_to_id(mark))),
            metrics,
            load: ServerLoad::default(),
            shutdown,
            heavy_work: Semaphore::new(processors),
            engine,
        })
    }

    /// The parsers of the answer to a prompt that was rendered with these variables. The tool
    /// parser's work is counted as that of one API.
    pub(crate) fn output_parsers(
        &self,
        request_type: RequestType,
        prompt: &str,
        tools: &[Value],
        kwargs: impl FnOnce() -> Map<String, Value>,
    ) -> OutputParsers {
        let counted = |parser: &Arc<dyn ToolParser>| -> Arc<dyn ToolParser> {
            let own = parser.for_tools(tools);
            let parser = own.unwrap_or_else(|| Arc::clone(parser));
            Arc::new(CountedParser::new(
                parser,
                &self.metrics.tools,
                request_type,
            ))
        };
        let reasoning = self.reasoning_parser.as_ref();
        OutputParsers {
            tools: self.tool_parser.as_ref().map(counted),
            reasoning: reasoning.map(|parser| parser.for_prompt(prompt, &kwargs())),
        }
    }

    /// Makes prompts for the model.
    pub(crate) fn renderer(&self) -> Renderer<'_> {
        Renderer {
            engine: self.engine.as_ref(),
            model_name: self.model_name(),
            chat_template: self.chat_template.as_ref(),
            content_format: self.api.chat_template_content_format,
        }
    }

    /// What bounds answers.
    pub(crate) fn length_limits(&self) -> LengthLimits {
        let info = self.engine.info();
        let default_max_tokens = info.default_sampling.max_tokens;
        LengthLimits {
            max_model_len: info.max_model_len,
            default_max_tokens,
            max_tokens_cap: default_max_tokens.filter(|_| self.api.default_max_tokens_is_cap),
        }
    }

    /// What requests get that leave sampling fields out.
    pub(crate) fn sampling_defaults(&self) -> SamplingDefaults {
        sampling_defaults(&self.engine.info().default_sampling)
    }

    /// The name that stands in every answer.
    pub(crate) fn model_name(&self) -> &str {
        self.model_names.first().map_or("", String::as_str)
    }
}

/// Requests in flight on the counted routes.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerLoad(Arc<AtomicU64>);

impl ServerLoad {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Counts one request until the guard is dropped.
    pub(crate) fn enter(&self) -> LoadGuard {
        self.0.fetch_add(1, Relaxed);
        LoadGuard(Arc::clone(&self.0))
    }
}

/// One request in flight.
#[derive(Debug)]
pub(crate) struct LoadGuard(Arc<AtomicU64>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The template that the command line chose.
pub(crate) fn chat_template(api: &ApiConfig) -> Result<Option<ChatTemplate>> {
    let template = api
        .chat_template
        .as_deref()
        .map(ChatTemplate::new)
        .transpose();
    template.map_err(|error| {
        Error::Config(format!(
            "the template given with --chat-template is refused: {error}"
        ))
    })
}

/// The parser that the command line chose. Alone, without leave for automatic choice, it does not
/// count.
pub(crate) fn tool_parser(api: &ApiConfig) -> Result<Option<Arc<dyn ToolParser>>> {
    let Some(name) = &api.tool_call_parser else {
        return Ok(None);
    };
    let parser = tools::tool_parser(name).ok_or_else(|| {
        let known = tools::TOOL_PARSER_NAMES.join(", ");
        Error::Config(format!(
            "--tool-call-parser {name} is not known; choose one of: {known}"
        ))
    })?;
    Ok(api.enable_auto_tool_choice.then_some(parser))
}

/// The reasoning parser that the command line chose.
pub(crate) fn reasoning_parser(api: &ApiConfig) -> Result<Option<ReasoningParser>> {
    let Some(name) = &api.reasoning_parser else {
        return Ok(None);
    };
    let parser = reasoning::reasoning_parser(name).ok_or_else(|| {
        let known = reasoning::REASONING_PARSER_NAMES.join(", ");
        Error::Config(format!(
            "--reasoning-parser {name} is not known; choose one of: {known}"
        ))
    })?;
    Ok(Some(parser))
}

/// Tells answers of differently configured servers apart.
fn system_fingerprint(mode: &Fingerprint, engine: &dyn EngineClient) -> Option<String> {
    let hash = || {
        let info = engine.info();
        let settings = format!(
            "{}\n{}\n{}\n{}\n{}",
            info.name, info.architecture, info.dtype, info.device, info.max_model_len
        );
        let digest = digest(&SHA256, settings.as_bytes());
        digest
            .as_ref()
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    match mode {
        Fingerprint::Full => Some(format!("vllm-{PROTOCOL_VERSION}-{}", hash())),
        Fingerprint::Hash => Some(hash()),
        Fingerprint::Custom(text) => Some(text.clone()),
        Fingerprint::None => None,
    }
}
