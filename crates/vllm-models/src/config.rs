use serde::de::DeserializeOwned;
use serde_json::Value;
use vllm_tensor::{DType, Device, KvCacheSpec};

use crate::parts::rope;
use crate::{Error, Result};

/// What a `config.json` says of a model, as transformers 4 and 5 write it.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Class names of the model, best first.
    pub architectures: Vec<String>,
    /// The family, such as `opt`; empty where the config names none.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of decoder layers.
    pub num_layers: usize,
    /// Query heads of a layer.
    pub num_heads: usize,
    /// Key and value heads of a layer.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of token ids, padding included.
    pub vocab_size: usize,
    /// The longest sequence of a run that does not say otherwise: prompt and output together.
    ///
    /// Set it to what the run allows before the model is loaded: some rotations depend on it.
    pub max_model_len: usize,
    /// The longest sequence the model is made for; a run may ask for that much.
    pub longest_model_len: usize,
    /// The checkpoint's dtype, where the config names it.
    pub dtype: Option<DType>,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text; the first is the principal one.
    pub eos_token_ids: Vec<u32>,
    /// Positions that a token attends to, itself included, where limited.
    pub sliding_window: Option<usize>,
    /// Whether the output layer shares the embedding where the checkpoint has none of its own.
    pub tie_word_embeddings: bool,
    /// How the checkpoint is quantized, as the config says it; `Null` where it is not.
    pub quantization_config: Value,
    /// The whole text config, for what only one family knows.
    pub raw: Value,
}

/// The maximum when the config names none, as vLLM assumes.
const DEFAULT_MAX_MODEL_LEN: usize = 2048;

/// Names that a config may give its maximum length; the smallest counts.
const MAX_LEN_KEYS: [&str; 9] = [
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
];

/// Model types whose activations go beyond what float16 holds.
const OVERFLOW_IN_FLOAT16: [&str; 4] = ["gemma2", "gemma3", "gemma3_text", "glm4"];

/// Rotary scalings whose factor is already part of the stated maximum length.
const ROPE_TYPES_WITHIN_MAX_LEN: [&str; 6] = [
    "su",
    "longrope",
    "llama3",
    "yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
];

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// No JSON object; a missing, negative or oversized number; an unknown dtype.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let root: Value = serde_json::from_slice(json)
            .map_err(|e| Error::Config(format!("invalid JSON: {e}")))?;
        if !root.is_object() {
            return Err(Error::Config("expected a JSON object".to_owned()));
        }
        let architectures = strings(&root, "architectures")?;
        let root_dtype = dtype(&root)?;
        let root_quantization = quantization_config(&root);
        // Models of several modalities keep the language model's config inside.
        let raw = match root.get("text_config") {
            Some(text) if text.is_object() => text.clone(),
            _ => root,
        };
        let hidden_size = required(&raw, &["hidden_size", "n_embd", "d_model"])?;
        let num_heads = required(&raw, &["num_attention_heads", "n_head", "num_heads"])?;
        let num_kv_heads = number(&raw, &["num_key_value_heads"])?.unwrap_or(num_heads);
        if num_kv_heads == 0 || num_heads % num_kv_heads != 0 {
            return Err(Error::Config(format!(
                "num_attention_heads ({num_heads}) is not a multiple of num_key_value_heads \
                 ({num_kv_heads})"
            )));
        }
        let model_type = raw["model_type"].as_str().unwrap_or_default().to_owned();
        let (max_model_len, longest_model_len) = max_model_len(&raw, &model_type)?;
        Ok(Self {
            architectures,
            hidden_size,
            num_layers: required(&raw, &["num_hidden_layers", "n_layer", "num_layers"])?,
            num_heads,
            num_kv_heads,
            head_dim: head_dim(&raw, hidden_size, num_heads)?,
            vocab_size: required(&raw, &["vocab_size"])?,
            max_model_len,
            longest_model_len,
            dtype: root_dtype.or(dtype(&raw)?),
            bos_token_id: token_ids(&raw, "bos_token_id")?.first().copied(),
            eos_token_ids: token_ids(&raw, "eos_token_id")?,
            sliding_window: sliding_window(&raw)?,
            // The default of transformers' PretrainedConfig.
            tie_word_embeddings: raw["tie_word_embeddings"].as_bool().unwrap_or(true),
            model_type,
            quantization_config: match root_quantization {
                Value::Null => quantization_config(&raw),
                root => root,
            },
            raw,
        })
    }

    /// The dtype to run in, as vLLM chooses it: `requested`, or else by that of the checkpoint, which
    /// is the config's or, where it names none, `stored`, and by what `device` computes with.
    ///
    /// # Errors
    /// [`Error::UnstableDType`] if float16 is requested of a family that overflows in it.
    pub fn resolve_dtype(
        &self,
        requested: Option<DType>,
        stored: Option<DType>,
        device: &Device,
    ) -> Result<DType> {
        let overflows = OVERFLOW_IN_FLOAT16.contains(&self.model_type.as_str());
        if requested == Some(DType::F16) && overflows {
            return Err(Error::UnstableDType(self.model_type.clone()));
        }
        let mut checkpoint = self.dtype.or(stored);
        if overflows {
            checkpoint = checkpoint.filter(|dtype| *dtype != DType::F16);
        }
        match vllm_tensor::resolve_dtype(requested, checkpoint, device) {
            // What the device prefers, which has no bfloat16.
            DType::F16 if overflows => Ok(DType::F32),
            dtype => Ok(dtype),
        }
    }

    /// What a run in `dtype` stores of every token, known before any weight is read; callers may
    /// choose another dtype for it.
    pub fn kv_cache_spec(&self, dtype: DType) -> KvCacheSpec {
        KvCacheSpec {
            num_layers: self.num_layers,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            dtype: dtype.into(),
        }
    }

    /// What only one family knows.
    pub(crate) fn family<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.raw).map_err(|e| Error::Config(e.to_string()))
    }

    /// The window of layer `index`, if it has one by [`ModelConfig::is_sliding`].
    pub(crate) fn layer_window(&self, index: usize, default: bool) -> Result<Option<usize>> {
        let is_sliding = self.is_sliding(index, default)?;
        Ok(self.sliding_window.filter(|_| is_sliding))
    }

    /// Whether layer `index` is of the kind with a window: as `layer_types` says where the config
    /// lists them, otherwise as `default`.
    pub(crate) fn is_sliding(&self, index: usize, default: bool) -> Result<bool> {
        match self.layer_type(index)? {
            None => Ok(default),
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            Some(other) => Err(Error::Config(format!(
                "layer type '{other}' is not supported; supported: full_attention, \
                 sliding_attention"
            ))),
        }
    }

    fn layer_type(&self, index: usize) -> Result<Option<&str>> {
        match &self.raw["layer_types"] {
            Value::Null => Ok(None),
            types => types[index]
                .as_str()
                .map(Some)
                .ok_or_else(|| Error::Config(format!("'layer_types' lacks layer {index}"))),
        }
    }
}

fn head_dim(raw: &Value, hidden_size: usize, num_heads: usize) -> Result<usize> {
    match number(raw, &["head_dim"])? {
        Some(0) => Err(Error::Config("head_dim is zero".to_owned())),
        Some(head_dim) => Ok(head_dim),
        None if hidden_size.is_multiple_of(num_heads) => Ok(hidden_size / num_heads),
        None => Err(Error::Config(format!(
            "hidden_size ({hidden_size}) is not a multiple of num_attention_heads ({num_heads})"
        ))),
    }
}

/// [`ModelConfig::max_model_len`] and [`ModelConfig::longest_model_len`].
fn max_model_len(raw: &Value, model_type: &str) -> Result<(usize, usize)> {
    let mut smallest = None;
    for key in MAX_LEN_KEYS {
        let value = number(raw, &[key])?;
        smallest = [smallest, value].into_iter().flatten().min();
    }
    let stated = match smallest {
        None => DEFAULT_MAX_MODEL_LEN,
        Some(0) => {
            return Err(Error::Config(
                "the maximum sequence length is zero".to_owned(),
            ));
        }
        Some(stated) => stated,
    };
    let rope = rope::parameters(raw);
    let rope_type = rope["rope_type"]
        .as_str()
        .or(rope["type"].as_str())
        .unwrap_or("default");
    if let ("longrope" | "su", Some(original)) =
        (rope_type, rope["original_max_position_embeddings"].as_u64())
    {
        // Beyond it all sequences would be rotated as long ones, so that is for the user to ask.
        return Ok((stated.min(original as usize), stated));
    }
    if ROPE_TYPES_WITHIN_MAX_LEN.contains(&rope_type) || model_type.contains("gemma3") {
        return Ok((stated, stated));
    }
    let factor = rope["factor"]
        .as_f64()
        .filter(|factor| *factor >= 1.0)
        .unwrap_or(1.0);
    let scaled = (stated as f64 * factor) as usize;
    Ok((scaled, scaled))
}

fn sliding_window(raw: &Value) -> Result<Option<usize>> {
    if raw["use_sliding_window"] == Value::Bool(false) {
        return Ok(None);
    }
    Ok(number(raw, &["sliding_window"])?.filter(|window| *window > 0))
}

fn dtype(config: &Value) -> Result<Option<DType>> {
    let Some(name) = config["dtype"].as_str().or(config["torch_dtype"].as_str()) else {
        return Ok(None);
    };
    let name = name.strip_prefix("torch.").unwrap_or(name);
    // A float64 checkpoint is narrowed while it is read.
    let name = if name == "float64" { "float32" } else { name };
    vllm_tensor::parse_dtype(name).map_err(|e| Error::Config(e.to_string()))
}

fn quantization_config(config: &Value) -> Value {
    let keys = ["quantization_config", "compression_config"];
    let said = keys
        .into_iter()
        .map(|key| &config[key])
        .find(|value| value.is_object());
    said.cloned().unwrap_or(Value::Null)
}

fn required(config: &Value, keys: &[&str]) -> Result<usize> {
    match number(config, keys)? {
        None => Err(Error::Config(format!("'{}' is missing", keys[0]))),
        Some(0) => Err(Error::Config(format!("'{}' is zero", keys[0]))),
        Some(value) => Ok(value),
    }
}

/// The first of `keys` that is there and not null.
fn number(config: &Value, keys: &[&str]) -> Result<Option<usize>> {
    for key in keys {
        match &config[*key] {
            Value::Null => {}
            value => {
                // Sizes beyond 32 bits are nonsense and would overflow products of them.
                let size = value.as_u64().and_then(|n| u32::try_from(n).ok());
                let Some(size) = size else {
                    return Err(Error::Config(format!("'{key}' is not a size: {value}")));
                };
                return Ok(Some(size as usize));
            }
        }
    }
    Ok(None)
}

/// One id or a list of them.
fn token_ids(config: &Value, key: &str) -> Result<Vec<u32>> {
    let ids = match &config[key] {
        Value::Null => &[],
        Value::Array(ids) => ids.as_slice(),
        id => std::slice::from_ref(id),
    };
    ids.iter()
        .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| Error::Config(format!("'{key}' is not a token id: {}", config[key])))
}

fn strings(config: &Value, key: &str) -> Result<Vec<String>> {
    let list = config[key]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    list.iter()
        .map(|name| name.as_str().map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| Error::Config(format!("'{key}' is not a list of names: {}", config[key])))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A minimal config with `extra` keys.
    fn read(extra: Value) -> Result<ModelConfig> {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "vocab_size": 100,
        });
        config
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        ModelConfig::from_json(config.to_string().as_bytes())
    }

    #[test]
    fn defaults() {
        let config = read(json!({})).unwrap();
        assert_eq!(config.architectures, ["LlamaForCausalLM"]);
        assert_eq!((config.num_kv_heads, config.head_dim), (8, 8));
        assert_eq!((config.max_model_len, config.sliding_window), (2048, None));
        assert_eq!((config.dtype, config.bos_token_id), (None, None));
        assert!(config.eos_token_ids.is_empty() && config.tie_word_embeddings);
    }

    #[test]
    fn dtypes_by_old_and_new_key() {
        let check = |extra, expected| assert_eq!(read(extra).unwrap().dtype, expected);
        check(json!({"torch_dtype": "float16"}), Some(DType::F16));
        check(json!({"dtype": "bfloat16"}), Some(DType::BF16));
        check(json!({"dtype": "torch.float32"}), Some(DType::F32));
        check(
            json!({"dtype": null, "torch_dtype": "bfloat16"}),
            Some(DType::BF16),
        );
        check(json!({"torch_dtype": "auto"}), None);
    }

    #[test]
    fn float16_is_for_families_that_stay_within_it() {
        let (half, brain) = (DType::F16, DType::BF16);
        let check = |model_type: &str, requested, stored, expected| {
            let config = read(json!({"model_type": model_type})).unwrap();
            let dtype = config.resolve_dtype(requested, stored, &Device::Cpu);
            assert_eq!(
                dtype.ok(),
                expected,
                "{model_type} {requested:?} {stored:?}"
            );
        };
        check("llama", Some(half), None, Some(half));
        check("llama", None, Some(half), Some(half));
        check("llama", None, Some(DType::F32), Some(brain));
        check("gemma2", Some(half), Some(brain), None);
        check("gemma3_text", None, Some(half), Some(brain));
        check("gemma3", Some(DType::F32), Some(half), Some(DType::F32));
        let config = read(json!({"model_type": "gemma2"})).unwrap();
        let error = config.resolve_dtype(Some(half), None, &Device::Cpu);
        assert_eq!(
            error.unwrap_err().to_string(),
            "The model type 'gemma2' does not support float16. Reason: Numerical instability. \
             Please use bfloat16 or float32 instead."
        );
    }

    #[test]
    fn the_config_wins_over_the_files() {
        let config = read(json!({"dtype": "float16"})).unwrap();
        let dtype = config.resolve_dtype(None, Some(DType::BF16), &Device::Cpu);
        assert_eq!(dtype.unwrap(), DType::F16);
    }

    #[test]
    fn the_longest_sequence_is_derived() {
        let check = |extra: Value, expected: usize| {
            assert_eq!(
                read(extra.clone()).unwrap().max_model_len,
                expected,
                "{extra}"
            );
        };
        check(json!({"max_position_embeddings": 512}), 512);
        check(
            json!({"max_position_embeddings": 512, "seq_length": 256}),
            256,
        );
        let rope = |key: &str, rope: Value| json!({"n_positions": 1000, key: rope});
        check(
            rope("rope_scaling", json!({"type": "linear", "factor": 2.0})),
            2000,
        );
        check(
            rope(
                "rope_scaling",
                json!({"rope_type": "dynamic", "factor": 4.0}),
            ),
            4000,
        );
        check(
            rope(
                "rope_scaling",
                json!({"rope_type": "llama3", "factor": 8.0}),
            ),
            1000,
        );
        check(
            rope("rope_scaling", json!({"rope_type": "yarn", "factor": 8.0})),
            1000,
        );
        check(rope("rope_scaling", Value::Null), 1000);
        check(
            rope(
                "rope_parameters",
                json!({"rope_type": "default", "rope_theta": 1e6}),
            ),
            1000,
        );
        check(
            rope(
                "rope_parameters",
                json!({"rope_type": "linear", "factor": 3.0}),
            ),
            3000,
        );
    }

    #[test]
    fn long_rotations_are_for_the_user_to_ask() {
        let check = |extra: Value| {
            let config = read(extra).unwrap();
            assert_eq!(
                (config.max_model_len, config.longest_model_len),
                (512, 4096)
            );
        };
        check(json!({
            "max_position_embeddings": 4096, "original_max_position_embeddings": 512,
            "rope_scaling": {"type": "su"},
        }));
        check(json!({
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 512},
        }));
    }

    #[test]
    fn layers_with_a_window() {
        let listed = json!({
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "linear_attention"],
        });
        let config = read(listed).unwrap();
        assert_eq!(config.layer_window(0, false).unwrap(), Some(4));
        assert_eq!(config.layer_window(1, true).unwrap(), None);
        let message = config.layer_window(2, true).unwrap_err().to_string();
        assert!(
            message.contains("'linear_attention' is not supported"),
            "{message}"
        );
        assert!(config.layer_window(3, true).is_err());
        let config = read(json!({"sliding_window": 4})).unwrap();
        assert_eq!(config.layer_window(0, true).unwrap(), Some(4));
        assert_eq!(config.layer_window(0, false).unwrap(), None);
    }

    #[test]
    fn the_cache_is_known_before_the_weights() {
        let config = read(json!({"num_key_value_heads": 2, "head_dim": 32})).unwrap();
        let expected = KvCacheSpec {
            num_layers: 2,
            num_kv_heads: 2,
            head_dim: 32,
            dtype: vllm_tensor::KvCacheDType::BF16,
        };
        assert_eq!(config.kv_cache_spec(DType::BF16), expected);
    }

    #[test]
    fn one_or_several_end_tokens() {
        let check = |eos: Value, expected: &[u32]| {
            assert_eq!(
                read(json!({"eos_token_id": eos})).unwrap().eos_token_ids,
                expected
            );
        };
        check(json!(2), &[2]);
        check(json!([2, 5]), &[2, 5]);
        check(Value::Null, &[]);
        assert!(read(json!({"eos_token_id": "end"})).is_err());
        assert!(read(json!({"eos_token_id": -1})).is_err());
    }

    #[test]
    fn windows_and_heads() {
        let config = read(json!({"sliding_window": 16, "num_key_value_heads": 2, "head_dim": 32}));
        let config = config.unwrap();
        assert_eq!(config.sliding_window, Some(16));
        assert_eq!((config.num_kv_heads, config.head_dim), (2, 32));
        let off = read(json!({"sliding_window": 16, "use_sliding_window": false})).unwrap();
        assert_eq!(off.sliding_window, None);
        assert!(read(json!({"num_key_value_heads": 3})).is_err());
        assert!(read(json!({"num_key_value_heads": 0})).is_err());
    }

    #[test]
    fn the_language_model_of_several_modalities() {
        let nested = json!({
            "architectures": ["Gemma3ForConditionalGeneration"],
            "dtype": "bfloat16",
            "text_config": {
                "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9,
            },
        });
        let config = ModelConfig::from_json(nested.to_string().as_bytes()).unwrap();
        assert_eq!(config.architectures, ["Gemma3ForConditionalGeneration"]);
        assert_eq!((config.hidden_size, config.dtype), (8, Some(DType::BF16)));
    }
}
