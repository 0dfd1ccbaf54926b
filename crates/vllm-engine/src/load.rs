//! From a model's name to everything that serving it needs.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use vllm_chat_template::ChatTemplate;
use vllm_hub::{FileBytes, ModelFiles, ResolveOptions, Token};
use vllm_models::{
    CheckedModel, FileBuffer, LoadFormat, Model, ModelConfig, WeightFiles, Weights,
    check_architecture,
};
use vllm_sampling::DefaultSampling;
use vllm_tensor::{DType, Device, KvCache};
use vllm_tokenizer::{Tokenizer, TokenizerFiles};

use crate::client::ModelInfo;
use crate::config::{DEMO_MODEL, EngineConfig};
use crate::error::{Error, Result};
use crate::memory::{MemoryPlan, available_memory_bytes};

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
    files: ModelFiles,
    model_config: ModelConfig,
    device: Device,
    dtype: DType,
    model: CheckedModel,
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
    let files = resolve(name, &options)?;
    let config = EngineConfig {
        tokenizer: None,
        ..config.clone()
    };
    load_tokenizer(&config, &files)
}

fn prepare(config: &EngineConfig) -> Result<Prepared> {
    let options = ResolveOptions {
        revision: config.revision.clone(),
        without_weights: config.load_format == LoadFormat::Dummy,
        ..hub_options(config)
    };
    let files = resolve(&config.model, &options)?;
    let mut model_config = read_model_config(&files)?;
    check_architecture(&model_config).map_err(Error::setup)?;
    let device = vllm_tensor::select_device(&config.device).map_err(Error::setup)?;
    let (weights, weights_dtype) = open_weights(&files, config.load_format)?;
    let requested_dtype = vllm_tensor::parse_dtype(&config.dtype).map_err(Error::setup)?;
    let dtype = model_config
        .resolve_dtype(requested_dtype, weights_dtype, &device)
        .map_err(Error::setup)?;
    let max_model_len = resolve_max_model_len(config.max_model_len, &model_config)?;
    // Some rotary scalings depend on how long this run's sequences may be.
    model_config.max_model_len = max_model_len;
    let model = CheckedModel::new(&model_config, weights, &device, dtype).map_err(Error::setup)?;
    let kv_cache_spec = model_config.kv_cache_spec(dtype);
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
        plan,
    } = prepare(config)?;
    tracing::info!("Memory plan: {plan}");
    let tokenizer = Arc::new(load_tokenizer(config, &files)?);
    let default_sampling = load_default_sampling(config, &files)?;

    let started = Instant::now();
    let model = model.load(&mut |_| ()).map_err(Error::setup)?;
    tracing::info!(
        "Loading weights took {:.2} seconds",
        started.elapsed().as_secs_f64()
    );
    let kv_cache = KvCache::new(
        model_config.kv_cache_spec(dtype),
        plan.num_blocks,
        plan.block_size,
        &device,
    )
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

fn read_model_config(files: &ModelFiles) -> Result<ModelConfig> {
    let json = files.read("config.json").map_err(Error::setup)?.ok_or_else(|| {
        Error::Setup(format!(
            "{} has no config.json: give a folder in Hugging Face layout, a hub name, or `demo`",
            files.name()
        ))
    })?;
    ModelConfig::from_json(&json).map_err(Error::setup)
}

fn load_tokenizer(config: &EngineConfig, model_files: &ModelFiles) -> Result<Tokenizer> {
    let own_files = match &config.tokenizer {
        Some(name) => {
            let options = ResolveOptions {
                without_weights: true,
                ..hub_options(config)
            };
            Some(resolve(name, &options)?)
        }
        None => None,
    };
    let files = own_files.as_ref().unwrap_or(model_files);
    let mut found: HashMap<&str, FileBytes> = HashMap::new();
    for name in [
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
    ] {
        if let Some(bytes) = files.read(name).map_err(Error::setup)? {
            found.insert(name, bytes);
        }
    }
    let mut additional_chat_templates = Vec::new();
    for path in files.list() {
        let name = path
            .strip_prefix("additional_chat_templates/")
            .and_then(|file| file.strip_suffix(".jinja"));
        if let (Some(name), Some(bytes)) = (name, files.read(path).map_err(Error::setup)?) {
            additional_chat_templates.push((name.to_owned(), bytes.to_vec()));
        }
    }
    let get = |name: &str| found.get(name).map(|bytes| &bytes[..]);
    if config.load_format == LoadFormat::Dummy
        && ["tokenizer.json", "vocab.json"]
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
        tokenizer_config_json: get("tokenizer_config.json"),
        special_tokens_map_json: get("special_tokens_map.json"),
        added_tokens_json: get("added_tokens.json"),
        chat_template_jinja: get("chat_template.jinja"),
        additional_chat_templates,
        config_json: get("config.json"),
    })
    .map_err(|error| Error::Setup(format!("{}: {error}", files.name())))
}

fn load_default_sampling(config: &EngineConfig, files: &ModelFiles) -> Result<DefaultSampling> {
    const FILE: &str = "generation_config.json";
    // End-of-sequence ids count even where the sampling defaults of the model are not wanted.
    let own = files.read(FILE).map_err(Error::setup)?;
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
        Some(wanted) if wanted > longest => Err(Error::Setup(format!(
            "User-specified max_model_len ({wanted}) is greater than the derived max_model_len \
             ({longest}) of the model's config.json; lower --max-model-len"
        ))),
        Some(wanted) => Ok(wanted),
    }
}

/// Opens the weight files without reading them; tells the dtype that most of them are in, too.
fn open_weights(files: &ModelFiles, format: LoadFormat) -> Result<(Weights, Option<DType>)> {
    if format == LoadFormat::Dummy {
        return Ok((Weights::Dummy, None));
    }
    let weights = WeightFiles::open(files.list(), format, |name| {
        let bytes = files.open(name)?;
        Ok::<FileBuffer, vllm_hub::Error>(Arc::new(bytes))
    })
    .map_err(|error| Error::Setup(format!("{}: {error}", files.name())))?;
    let dtype = weights.dtype();
    Ok((weights.into(), dtype))
}
