use serde_json::{Map, Value as Json, json};

use super::family::{Family, architecture};
use super::tokenizer::token_text;
use crate::metadata::metadata_error;
use crate::{Checkpoint, Metadata, Result};

/// Reads the keys of one architecture, `llama.block_count` and the like.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        self.metadata.size(&self.key(key))
    }

    fn required(&self, key: &str) -> Result<u64> {
        self.size(key)?
            .ok_or_else(|| metadata_error(&self.key(key), "is missing"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.number(&self.key(key))
    }

    /// float32 numbers as people write them: 1e-5, not 9.999999747378752e-6.
    fn short_number(&self, key: &str) -> Result<Option<f64>> {
        let number = self.number(key)?;
        Ok(number.map(|number| (number as f32).to_string().parse().unwrap_or(number)))
    }
}

/// The `config.json` of a Hugging Face checkpoint of the same model.
///
/// # Errors
/// An unknown architecture, or metadata that is missing or makes no sense.
pub fn config_json(checkpoint: &Checkpoint) -> Result<Json> {
    let keys = Keys {
        metadata: checkpoint.metadata(),
        architecture: architecture(checkpoint)?,
    };
    let family = Family::of(checkpoint)?;
    let (model_type, class) = family.names();
    let hidden_size = keys.required("embedding_length")?;
    let heads = keys.required("attention.head_count")?.max(1);
    let head_dim = keys
        .size("attention.key_length")?
        .unwrap_or(hidden_size / heads);
    let context_length = keys.required("context_length")?;

    let mut config = Map::new();
    let mut set = |key: &str, value: Json| {
        if !value.is_null() {
            config.insert(key.to_owned(), value);
        }
    };
    set("architectures", json!([class]));
    set("model_type", json!(model_type));
    set("hidden_size", json!(hidden_size));
    set("num_hidden_layers", json!(keys.required("block_count")?));
    set("num_attention_heads", json!(heads));
    set(
        "num_key_value_heads",
        json!(keys.size("attention.head_count_kv")?.unwrap_or(heads)),
    );
    set("head_dim", json!(head_dim));
    set(
        "intermediate_size",
        json!(keys.size("feed_forward_length")?.unwrap_or(0)),
    );
    set("vocab_size", json!(vocab_size(checkpoint, &keys)?));
    set("max_position_embeddings", json!(context_length));
    set(
        "rms_norm_eps",
        json!(keys.short_number("attention.layer_norm_rms_epsilon")?),
    );
    set("rope_theta", json!(keys.short_number("rope.freq_base")?));
    set(
        "sliding_window",
        json!(keys.size("attention.sliding_window")?),
    );
    set(
        "tie_word_embeddings",
        json!(checkpoint.tensor("output.weight").is_none()),
    );
    set(
        "attention_bias",
        json!(checkpoint.tensor("blk.0.attn_q.bias").is_some()),
    );
    set(
        "mlp_bias",
        json!(checkpoint.tensor("blk.0.ffn_up.bias").is_some()),
    );
    set(
        "bos_token_id",
        json!(checkpoint.metadata().size("tokenizer.ggml.bos_token_id")?),
    );
    set(
        "eos_token_id",
        json!(checkpoint.metadata().size("tokenizer.ggml.eos_token_id")?),
    );
    if let Some(turning) = keys.size("rope.dimension_count")?
        && turning < head_dim
    {
        set(
            "partial_rotary_factor",
            json!(turning as f64 / head_dim as f64),
        );
    }
    set(
        "rope_scaling",
        rope_scaling(checkpoint, &keys, context_length)?,
    );
    for (key, value) in family_entries(checkpoint, &keys, family, (hidden_size, heads, head_dim))? {
        set(key, value);
    }
    Ok(Json::Object(config))
}

fn vocab_size(checkpoint: &Checkpoint, keys: &Keys<'_>) -> Result<u64> {
    let table = checkpoint.tensor("token_embd.weight");
    if let Some([rows, _]) = table.map(|tensor| &tensor.info.shape[..]) {
        return Ok(*rows as u64);
    }
    keys.required("vocab_size")
}

/// `null` for a rotation that is not scaled.
fn rope_scaling(checkpoint: &Checkpoint, keys: &Keys<'_>, context_length: u64) -> Result<Json> {
    let original = keys.size("rope.scaling.original_context_length")?;
    let long = checkpoint.factors("rope_factors_long.weight");
    let short = checkpoint.factors("rope_factors_short.weight");
    if let (Some(long), Some(short)) = (long, short) {
        return Ok(json!({
            "rope_type": "longrope",
            "long_factor": long,
            "short_factor": short,
            "original_max_position_embeddings": original.unwrap_or(context_length),
            "attention_factor": keys.short_number("rope.scaling.attn_factor")?,
        }));
    }
    // Llama 3.1 and after: a factor for every frequency, worked out when the file was made.
    if let Some(factors) = checkpoint.factors("rope_freqs.weight") {
        return Ok(json!({
            "rope_type": "longrope",
            "long_factor": factors,
            "short_factor": factors,
            "original_max_position_embeddings": context_length,
            "attention_factor": 1.0,
        }));
    }
    let factor = keys
        .short_number("rope.scaling.factor")?
        .filter(|factor| *factor > 0.0);
    let key = keys.key("rope.scaling.type");
    match (keys.metadata.text(&key)?.unwrap_or("none"), factor) {
        ("linear", Some(factor)) => Ok(json!({"rope_type": "linear", "factor": factor})),
        ("yarn", Some(factor)) => Ok(json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original.unwrap_or(context_length),
        })),
        ("linear" | "yarn" | "none" | "longrope", _) => Ok(Json::Null),
        (other, _) => Err(metadata_error(
            &key,
            &format!(
                "is '{other}', which is not supported; supported: none, linear, yarn, longrope"
            ),
        )),
    }
}

fn family_entries(
    checkpoint: &Checkpoint,
    keys: &Keys<'_>,
    family: Family,
    (hidden_size, heads, head_dim): (u64, u64, u64),
) -> Result<Vec<(&'static str, Json)>> {
    // Inner width of the experts, from the weights: not all files write it down.
    let expert_width = |part: &str| -> Option<u64> {
        let (_, shape) = layer_tensors(checkpoint, part).next()?;
        Some(*shape.get(shape.len().checked_sub(2)?)? as u64)
    };
    let experts = keys.size("expert_count")?;
    let experts_per_token = keys.size("expert_used_count")?;
    let width = expert_width("ffn_gate_exps.weight");
    Ok(match family {
        Family::Llama | Family::Phi3 | Family::Qwen3 => Vec::new(),
        Family::Mixtral => vec![
            ("num_local_experts", json!(experts)),
            ("num_experts_per_tok", json!(experts_per_token)),
        ],
        // The window in these files is not in use.
        Family::Qwen2 => vec![("use_sliding_window", json!(false))],
        Family::Qwen2Moe | Family::Qwen3Moe => vec![
            ("num_experts", json!(experts)),
            ("num_experts_per_tok", json!(experts_per_token)),
            (
                "moe_intermediate_size",
                json!(keys.size("expert_feed_forward_length")?.or(width)),
            ),
            (
                "shared_expert_intermediate_size",
                json!(expert_width("ffn_gate_shexp.weight")),
            ),
            ("norm_topk_prob", json!(family == Family::Qwen3Moe)),
            (
                "mlp_only_layers",
                layer_tensors(checkpoint, "ffn_gate.weight")
                    .map(|(layer, _)| layer)
                    .collect(),
            ),
            ("use_sliding_window", json!(false)),
        ],
        Family::Gemma2 | Family::Gemma3 => {
            let layers = keys.required("block_count")?;
            let scalar = attention_scalar(family, layers, (hidden_size, heads, head_dim));
            let mut entries = vec![
                ("query_pre_attn_scalar", json!(scalar)),
                (
                    "attn_logit_softcapping",
                    json!(keys.short_number("attn_logit_softcapping")?),
                ),
                (
                    "final_logit_softcapping",
                    json!(keys.short_number("final_logit_softcapping")?),
                ),
                ("hidden_activation", json!("gelu_pytorch_tanh")),
            ];
            if family == Family::Gemma3 {
                let local = keys.short_number("rope.freq_base_swa")?.unwrap_or(10_000.0);
                entries.push(("rope_local_base_freq", json!(local)));
                entries.push((
                    "sliding_window_pattern",
                    json!(family.full_attention_every()),
                ));
            }
            entries
        }
    })
}

/// Layers that have the tensor `part`, with its shape.
fn layer_tensors<'a>(
    checkpoint: &'a Checkpoint,
    part: &'a str,
) -> impl Iterator<Item = (u64, &'a [usize])> {
    checkpoint.tensors().iter().filter_map(move |tensor| {
        let (layer, rest) = tensor.info.name.strip_prefix("blk.")?.split_once('.')?;
        (rest == part).then_some((layer.parse().ok()?, &tensor.info.shape[..]))
    })
}

/// What Gemma's attention scores are scaled by the root of: the width of a head, but for the largest models
/// of both families.
pub(crate) fn attention_scalar(
    family: Family,
    layers: u64,
    (hidden_size, heads, head_dim): (u64, u64, u64),
) -> u64 {
    let is_27b = layers == if family == Family::Gemma2 { 46 } else { 62 };
    if is_27b {
        hidden_size / heads
    } else {
        head_dim
    }
}

/// Tokens that end a turn in the usual chat formats.
const END_OF_TURN: [&str; 7] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
];

/// The `generation_config.json`: the tokens that end a text.
///
/// # Errors
/// Metadata that makes no sense.
pub fn generation_config_json(checkpoint: &Checkpoint) -> Result<Json> {
    let metadata = checkpoint.metadata();
    let mut ends = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ends.extend(metadata.size(&format!("tokenizer.ggml.{key}"))?);
    }
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    for (id, token) in tokens.iter().enumerate() {
        if END_OF_TURN.contains(token) && !ends.contains(&(id as u64)) {
            ends.push(id as u64);
        }
    }
    ends.retain(|id| token_text(&tokens, *id).is_some());
    let mut seen = std::collections::BTreeSet::new();
    ends.retain(|id| seen.insert(*id));
    Ok(json!({ "eos_token_id": ends }))
}
