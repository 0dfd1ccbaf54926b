//! From a model's name to everything that serving it needs.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use vllm_chat_template::ChatTemplate;
use vllm_hub::{FileBytes, ModelFiles, ResolveOptions, Token};
use vllm_models::{
    CheckedModel, FileBuffer, LoadFormat, LoadProgress, LoadQuantization, Model, ModelConfig,
    Quantization, WeightFiles, Weights, check_architecture,
};
use vllm_sampling::DefaultSampling;
use vllm_tensor::{DType, Device, Isa, KvCache, KvCacheDType, KvCacheSpec};
use vllm_tokenizer::{Tokenizer, TokenizerFiles};

use crate::client::ModelInfo;
use crate::config::{DEMO_MODEL, EngineConfig};
use crate::error::{Error, Result};
use crate::memory::{MemoryPlan, available_memory_bytes};
use crate::model_folder::ModelFolder;

/// A model in memory, before an engine runs it.
pub(crate) struct LoadedModel {
    pub(crate) model: Box<dyn Model>,
    pub(crate) kv_cache: KvCache,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) templates: ChatTemplates,
    pub(crate) info: ModelInfo,
}

/// The chat templates of a tokenizer, parsed when first asked for.
pub(crate) struct ChatTemplates {
    tokenizer: Arc<Tokenizer>,
    plain: OnceLock<Result<Option<Arc<ChatTemplate>>>>,
    with_tools: OnceLock<Result<Option<Arc<ChatTemplate>>>>,
}

impl ChatTemplates {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            tokenizer,
            plain: OnceLock::new(),
            with_tools: OnceLock::new(),
        }
    }

    /// The template for requests with or without tools; `None` if the model has none.
    pub(crate) fn get(&self, has_tools: bool) -> Result<Option<Arc<ChatTemplate>>> {
        let cell = if has_tools {
            &self.with_tools
        } else {
            &self.plain
        };
        cell.get_or_init(|| self.parse(has_tools)).clone()
    }

    fn parse(&self, has_tools: bool) -> Result<Option<Arc<ChatTemplate>>> {
        let source = self
            .tokenizer
            .chat_template(None, has_tools)
            .map_err(|error| Error::invalid(error.to_string()))?;
        source
            .map(|source| ChatTemplate::new(source).map(Arc::new))
            .transpose()
            .map_err(|error| Error::invalid(error.to_string()))
    }
}

/// What is known of a model once its small files are read: enough to plan the memory.
struct Prepared {
    files: ModelFolder,
    model_config: ModelConfig,
    device: Device,
    dtype: DType,
    model: CheckedModel,
    kv_cache_spec: KvCacheSpec,
    plan: MemoryPlan,
}

/// The memory that a model would take, found without loading it.
///
/// # Errors
/// As loading the model would fail, up to reading its weights.
pub fn plan_memory(config: &EngineConfig) -> Result<MemoryPlan> {
    prepare(config).map(|prepared| prepared.plan)
}

/// The tokenizer that `config` names, for programs that run no model.
///
/// # Errors
/// The model or tokenizer cannot be found, or its files cannot be understood.
pub fn open_tokenizer(config: &EngineConfig) -> Result<Tokenizer> {
    let options = ResolveOptions {
        revision: config.revision.clone(),
        without_weights: true,
        ..hub_options(config)
    };
    let name = config.tokenizer.as_ref().unwrap_or(&config.model);
    let files = ModelFolder::new(resolve(name, &options)?)?;
    let config = EngineConfig {
        tokenizer: None,
        ..config.clone()
    };
    load_tokenizer(&config, &files)
}

/// The files of the model that `config` names.
pub(crate) fn open_folder(config: &EngineConfig) -> Result<ModelFolder> {
    let options = ResolveOptions {
        revision: config.revision.clone(),
        without_weights: config.load_format == LoadFormat::Dummy,
        pytorch_weights: config.load_format == LoadFormat::Pt,
        ..hub_options(config)
    };
    ModelFolder::new(resolve(&config.model, &options)?)
}

fn prepare(config: &EngineConfig) -> Result<Prepared> {
    let files = open_folder(config)?;
    let mut model_config = read_model_config(&files)?;
    check_architecture(&model_config).map_err(Error::setup)?;
    let device = vllm_tensor::select_device(&config.device).map_err(Error::setup)?;
    let (weights, weights_dtype) = open_weights(files.files(), config.load_format)?;
    let quantization = resolve_quantization(config, &model_config, files.is_gguf())?;
    let weights = weights.quantize(quantization);
    let requested_dtype = vllm_tensor::parse_dtype(&config.dtype).map_err(Error::setup)?;
    let dtype = model_config
        .resolve_dtype(requested_dtype, weights_dtype, &device)
        .map_err(Error::setup)?;
    let max_model_len = resolve_max_model_len(config.max_model_len, &model_config)?;
    // Some rotary scalings depend on how long this run's sequences may be.
    model_config.max_model_len = max_model_len;
    let model = CheckedModel::new(&model_config, weights, &device, dtype).map_err(Error::setup)?;
    let mut kv_cache_spec = model_config.kv_cache_spec(dtype);
    if let Some(dtype) = KvCacheDType::parse(&config.kv_cache_dtype).map_err(Error::setup)? {
        kv_cache_spec.dtype = dtype;
    }
    let plan = MemoryPlan::new(
        config,
        kv_cache_spec.bytes_per_block(config.block_size, &device) as u64,
        model.weight_bytes(),
        max_model_len,
        vllm_tensor::free_device_memory(&device).unwrap_or_else(available_memory_bytes),
    )?;
    Ok(Prepared {
        files,
        model_config,
        device,
        dtype,
        model,
        kv_cache_spec,
        plan,
    })
}

/// Loads what `config` names.
pub(crate) fn load(config: &EngineConfig) -> Result<LoadedModel> {
    if let Some(threads) = config.num_threads {
        vllm_tensor::set_num_threads(threads).map_err(Error::setup)?;
    }
    let Prepared {
        files,
        model_config,
        device,
        dtype,
        model,
        kv_cache_spec,
        plan,
    } = prepare(config)?;
    tracing::info!("Memory plan: {plan}");
    if device.is_cpu() {
        tracing::info!(
            "CPU kernels: {}, threads: {}",
            Isa::current().map_err(Error::setup)?.name(),
            vllm_tensor::num_threads().map_err(Error::setup)?
        );
    }
    let default_sampling = load_default_sampling(config, &files)?;
    let (model, tokenizer) = thread::scope(|scope| {
        // Large vocabularies take about as long as the weights of a small model.
        let tokenizer = TokenizerThread::start(scope, config, &files, model_config.vocab_size);
        let model = load_weights(model, config, || tokenizer.has_failed());
        // Without a tokenizer the weights were not read to their end.
        let tokenizer = tokenizer.join()?;
        Ok::<_, Error>((model?, Arc::new(tokenizer)))
    })?;
    let kv_cache = KvCache::new(kv_cache_spec, plan.num_blocks, plan.block_size, &device)
        .map_err(Error::setup)?;

    let info = ModelInfo {
        name: config.model.clone(),
        architecture: model_config
            .architectures
            .first()
            .cloned()
            .unwrap_or_default(),
        max_model_len: plan.max_model_len,
        vocab_size: model_config.vocab_size,
        max_logprobs: config.max_logprobs,
        default_sampling,
        dtype: vllm_tensor::dtype_name(dtype).to_owned(),
        kv_cache_dtype: config.kv_cache_dtype.clone(),
        device: vllm_tensor::device_name(&device),
        block_size: plan.block_size,
        num_blocks: plan.num_blocks,
        enable_prefix_caching: config.enable_prefix_caching,
    };
    let templates = ChatTemplates::new(Arc::clone(&tokenizer));
    Ok(LoadedModel {
        model,
        kv_cache,
        tokenizer,
        templates,
        info,
    })
}

/// Loads the weights, telling the observer, or the log every few seconds, and stops when `is_in_vain`.
fn load_weights(
    model: CheckedModel,
    config: &EngineConfig,
    is_in_vain: impl Fn() -> bool,
) -> Result<Box<dyn Model>> {
    const LOG_INTERVAL: Duration = Duration::from_secs(5);
    let started = Instant::now();
    let mut last_logged = started;
    let mut watch = |progress: LoadProgress| {
        match &config.load_observer {
            Some(observer) => observer.tell(progress),
            None if last_logged.elapsed() >= LOG_INTERVAL => {
                last_logged = Instant::now();
                tracing::info!(
                    "Loading weights: {:.2} of {:.2} GiB",
                    gib(progress.loaded_bytes),
                    gib(progress.total_bytes)
                );
            }
            None => {}
        }
        match is_in_vain() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let model = model.load(&mut watch).map_err(Error::setup)?;
    tracing::info!(
        "Loading weights took {:.2} seconds",
        started.elapsed().as_secs_f64()
    );
    Ok(model)
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// A tokenizer that is loaded on a thread of its own.
struct TokenizerThread<'scope> {
    thread: ScopedJoinHandle<'scope, Result<Tokenizer>>,
    has_failed: Arc<AtomicBool>,
}

impl<'scope> TokenizerThread<'scope> {
    fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        config: &'env EngineConfig,
        files: &'env ModelFolder,
        vocab_size: usize,
    ) -> Self {
        let has_failed = Arc::new(AtomicBool::new(false));
        let failed = has_failed.clone();
        let thread = scope.spawn(move || {
            let started = Instant::now();
            let tokenizer = load_tokenizer(config, files)
                .and_then(|tokenizer| check_vocabulary(tokenizer, config, vocab_size));
            failed.store(tokenizer.is_err(), Ordering::Relaxed);
            tracing::debug!(
                "Loading the tokenizer took {:.2} seconds",
                started.elapsed().as_secs_f64()
            );
            tokenizer
        });
        Self { thread, has_failed }
    }

    fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    fn join(self) -> Result<Tokenizer> {
        let panicked = |_| Error::Setup("reading the tokenizer failed unexpectedly".to_owned());
        self.thread.join().map_err(panicked)?
    }
}

/// Refuses a tokenizer that belongs to another model: most of its tokens would have no embedding.
fn check_vocabulary(
    tokenizer: Tokenizer,
    config: &EngineConfig,
    vocab_size: usize,
) -> Result<Tokenizer> {
    let entries = tokenizer.base_vocab_size();
    if entries <= vocab_size {
        return Ok(tokenizer);
    }
    Err(Error::Setup(format!(
        "the tokenizer of {} has {entries} entries, but the model {} has embeddings for only \
         {vocab_size} (vocab_size in config.json): they do not belong together",
        config.tokenizer.as_ref().unwrap_or(&config.model),
        config.model,
    )))
}

fn resolve(name: &str, options: &ResolveOptions) -> Result<ModelFiles> {
    if name == DEMO_MODEL && !std::path::Path::new(name).is_dir() {
        return Ok(ModelFiles::embedded(DEMO_MODEL, vllm_demo_model::FILES));
    }
    vllm_hub::resolve(name, options).map_err(Error::setup)
}

fn hub_options(config: &EngineConfig) -> ResolveOptions {
    let mut options = ResolveOptions::from_env();
    if let Some(token) = &config.hf_token {
        options.token = Some(Token::new(token));
    }
    if let Some(folder) = &config.download_dir {
        options.cache = Some(folder.clone());
    }
    options
}

pub(crate) fn read_model_config(files: &ModelFolder) -> Result<ModelConfig> {
    let json = files.read("config.json")?.ok_or_else(|| {
        Error::Setup(format!(
            "{} has no config.json: give a folder in Hugging Face layout, a .gguf file, a hub name, or `demo`",
            files.name()
        ))
    })?;
    ModelConfig::from_json(&json).map_err(Error::setup)
}

fn load_tokenizer(config: &EngineConfig, model_files: &ModelFolder) -> Result<Tokenizer> {
    let own_files = match &config.tokenizer {
        Some(name) => {
            let options = ResolveOptions {
                without_weights: true,
                ..hub_options(config)
            };
            Some(ModelFolder::new(resolve(name, &options)?)?)
        }
        None => None,
    };
    let files = own_files.as_ref().unwrap_or(model_files);
    let mut found: HashMap<&str, FileBytes> = HashMap::new();
    for name in [
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
    ] {
        if let Some(bytes) = files.read(name)? {
            found.insert(name, bytes);
        }
    }
    let mut additional_chat_templates = Vec::new();
    for path in files.files().list() {
        let name = path
            .strip_prefix("additional_chat_templates/")
            .and_then(|file| file.strip_suffix(".jinja"));
        // Only these are read: the others include the weights.
        let Some(name) = name else { continue };
        if let Some(bytes) = files.read(path)? {
            additional_chat_templates.push((name.to_owned(), bytes.to_vec()));
        }
    }
    let get = |name: &str| found.get(name).map(|bytes| &bytes[..]);
    if config.load_format == LoadFormat::Dummy
        && ["tokenizer.json", "vocab.json", "tokenizer.model"]
            .iter()
            .all(|name| get(name).is_none())
    {
        tracing::warn!("{} has no tokenizer: text is made up, too", files.name());
        let vocab_size = read_model_config(model_files)?.vocab_size;
        return Tokenizer::placeholder(vocab_size, get("config.json")).map_err(Error::setup);
    }
    Tokenizer::from_files(&TokenizerFiles {
        tokenizer_json: get("tokenizer.json"),
        vocab_json: get("vocab.json"),
        merges_txt: get("merges.txt"),
        sentencepiece_model: get("tokenizer.model"),
        tokenizer_config_json: get("tokenizer_config.json"),
        special_tokens_map_json: get("special_tokens_map.json"),
        added_tokens_json: get("added_tokens.json"),
        chat_template_jinja: get("chat_template.jinja"),
        additional_chat_templates,
        config_json: get("config.json"),
    })
    .map_err(|error| Error::Setup(format!("{}: {error}", files.name())))
}

fn load_default_sampling(config: &EngineConfig, files: &ModelFolder) -> Result<DefaultSampling> {
    const FILE: &str = "generation_config.json";
    // End-of-sequence ids count even where the sampling defaults of the model are not wanted.
    let own = files.read(FILE)?;
    let mut defaults = match &own {
        Some(json) => DefaultSampling::from_json(json).map_err(Error::setup)?,
        None => DefaultSampling::default(),
    };
    match config.generation_config.as_str() {
        "auto" => {}
        "vllm" => defaults = defaults.eos_only(),
        folder => {
            let json = ModelFiles::folder(folder)
                .and_then(|other| other.open(FILE))
                .map_err(Error::setup)?;
            let other = DefaultSampling::from_json(&json).map_err(Error::setup)?;
            defaults = DefaultSampling {
                eos_token_ids: defaults.eos_token_ids,
                ..other
            };
        }
    }
    if let Some(overrides) = &config.override_generation_config {
        let overrides = overrides.to_string();
        defaults = DefaultSampling::from_json(overrides.as_bytes())
            .map_err(Error::setup)?
            .or(&defaults);
    }
    Ok(defaults)
}

fn resolve_max_model_len(wanted: Option<usize>, config: &ModelConfig) -> Result<usize> {
    let longest = config.longest_model_len;
    match wanted {
        None => Ok(config.max_model_len),
        Some(0) => Err(Error::Setup(
            "--max-model-len must be at least 1".to_owned(),
        )),
        Some(wanted) if wanted > longest && !allows_long_max_model_len() => {
            Err(Error::Setup(format!(
                "User-specified max_model_len ({wanted}) is greater than the derived \
                 max_model_len ({longest} in the model's config.json). To allow overriding this \
                 maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1, with care: beyond it \
                 most models write nonsense"
            )))
        }
        Some(wanted) if wanted > longest => {
            tracing::warn!(
                "max_model_len ({wanted}) is beyond what the model is made for ({longest})"
            );
            Ok(wanted)
        }
        Some(wanted) => Ok(wanted),
    }
}

fn allows_long_max_model_len() -> bool {
    std::env::var("VLLM_ALLOW_LONG_MAX_MODEL_LEN").is_ok_and(|value| value.trim() == "1")
}

/// What to quantize to while loading. The name of a checkpoint's own method asks for nothing.
fn resolve_quantization(
    config: &EngineConfig,
    model_config: &ModelConfig,
    is_gguf: bool,
) -> Result<LoadQuantization> {
    let own = &model_config.quantization_config["quant_method"];
    let own = own.as_str().or(is_gguf.then_some("gguf"));
    let layers = match (config.quantization.as_deref(), own) {
        (None, _) => None,
        // vLLM has several kernels for one form of weights, each with a name.
        (Some(name), Some(own)) if name.trim_end_matches("_marlin") == own => None,
        (Some(name), Some(own)) => {
            return Err(Error::Setup(format!(
                "Quantization method specified in the model config ({own}) does not match the \
                 quantization method specified in the `quantization` argument ({name}); leave \
                 --quantization away"
            )));
        }
        (Some(name), None) => Some(Quantization::from_name(name).map_err(Error::setup)?),
    };
    with_embeddings(layers, config)
}

/// Adds to what linear layers become what embeddings and output layers do.
pub(crate) fn with_embeddings(
    layers: Option<Quantization>,
    config: &EngineConfig,
) -> Result<LoadQuantization> {
    let (embeddings, head) = match config.embedding_quantization.as_deref() {
        None => (None, layers),
        Some("none") => (None, None),
        Some(name) => {
            let method = Quantization::from_name(name).map_err(Error::setup)?;
            (Some(method), Some(method))
        }
    };
    Ok(LoadQuantization {
        layers,
        embeddings,
        head,
    })
}

/// Opens the weight files without reading them; tells the dtype that most of them are in, too.
pub(crate) fn open_weights(
    files: &ModelFiles,
    format: LoadFormat,
) -> Result<(Weights, Option<DType>)> {
    if format == LoadFormat::Dummy {
        return Ok((Weights::Dummy, None));
    }
    let mut opened = Vec::new();
    let weights = WeightFiles::open(files.list(), format, |name| {
        let bytes = Arc::new(files.open(name)?);
        opened.push(Arc::clone(&bytes));
        Ok::<FileBuffer, vllm_hub::Error>(bytes)
    })
    .map_err(|error| Error::Setup(format!("{}: {error}", files.name())))?;
    let dtype = weights.dtype();
    let weights = weights.on_release(move |part| opened.iter().for_each(|file| file.release(part)));
    Ok((weights.into(), dtype))
}
