use std::f64::consts::PI;

use serde_json::Value as Json;

use super::{ExportTensor, Source, TensorKind, not_written};
use crate::hugging_face::{Family, attention_scalar};
use crate::{Result, Value};

/// Keys and their values, in the order of the file.
type Metadata = Vec<(String, Value)>;

/// Keys and values that say what the configuration says, and tensors of rotation factors.
pub(super) fn metadata(config: &Json, family: Family) -> Result<(Metadata, Vec<ExportTensor>)> {
    let mut entries = Entries {
        architecture: family.architecture(),
        entries: Vec::new(),
    };
    entries.put("general.architecture", text(family.architecture()));
    entries.put("general.quantization_version", Value::Unsigned(2));
    let required = |key: &str| {
        config[key]
            .as_u64()
            .ok_or_else(|| not_written(format!("config.json does not say its {key}")))
    };
    let heads = required("num_attention_heads")?.max(1);
    let hidden_size = required("hidden_size")?;
    let kv_heads = config["num_key_value_heads"].as_u64().unwrap_or(heads);
    let head_dim = config["head_dim"].as_u64().unwrap_or(hidden_size / heads);
    for (key, size) in [
        ("block_count", required("num_hidden_layers")?),
        ("context_length", required("max_position_embeddings")?),
        ("embedding_length", hidden_size),
        (
            "feed_forward_length",
            config["intermediate_size"].as_u64().unwrap_or(0),
        ),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv_heads),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
        ("vocab_size", required("vocab_size")?),
    ] {
        entries.size(key, size);
    }
    let epsilon = config["rms_norm_eps"].as_f64().unwrap_or(1e-6);
    entries.number("attention.layer_norm_rms_epsilon", epsilon);
    check_untold(config, family, (hidden_size, heads, head_dim))?;
    if !matches!(
        family,
        Family::Qwen2 | Family::Qwen2Moe | Family::Qwen3 | Family::Qwen3Moe
    ) && let Some(window) = config["sliding_window"].as_u64()
    {
        entries.size("attention.sliding_window", window);
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = config[key].as_f64() {
            entries.number(key, cap);
        }
    }
    let experts = config["num_experts"]
        .as_u64()
        .or(config["num_local_experts"].as_u64());
    if let Some(experts) = experts.filter(|experts| *experts > 0) {
        entries.size("expert_count", experts);
        entries.size("expert_used_count", required("num_experts_per_tok")?);
        for (key, name) in [
            ("expert_feed_forward_length", "moe_intermediate_size"),
            (
                "expert_shared_feed_forward_length",
                "shared_expert_intermediate_size",
            ),
        ] {
            if let Some(size) = config[name].as_u64() {
                entries.size(key, size);
            }
        }
    }
    let factors = entries.rotation(config, family, head_dim)?;
    Ok((entries.entries, factors))
}

/// Refuses settings that a reader of the file could not know of.
fn check_untold(
    config: &Json,
    family: Family,
    (hidden_size, heads, head_dim): (u64, u64, u64),
) -> Result<()> {
    let untold = |key: &str| {
        Err(not_written(format!(
            "config.json sets {key} to {}, which a GGUF file cannot say",
            config[key]
        )))
    };
    if config["use_sliding_window"] == true && !config["sliding_window"].is_null() {
        return untold("use_sliding_window");
    }
    let normalizes = match family {
        Family::Qwen3Moe => Some(true),
        Family::Qwen2Moe => Some(false),
        _ => None,
    };
    if let (Some(expected), Some(said)) = (normalizes, config["norm_topk_prob"].as_bool())
        && expected != said
    {
        return untold("norm_topk_prob");
    }
    if family.is_gemma()
        && let Some(layers) = config["num_hidden_layers"].as_u64()
        && let Some(said) = config["query_pre_attn_scalar"].as_f64()
    {
        let expected = attention_scalar(family, layers, (hidden_size, heads, head_dim));
        if said != expected as f64 {
            return untold("query_pre_attn_scalar");
        }
    }
    let Some(pattern) = family.full_attention_every() else {
        return Ok(());
    };
    if family == Family::Gemma3
        && let Some(said) = config["sliding_window_pattern"].as_u64()
        && said != pattern
    {
        return untold("sliding_window_pattern");
    }
    let layers = config["layer_types"].as_array();
    for (layer, said) in (1u64..).zip(layers.into_iter().flatten()) {
        if (said == "full_attention") != layer.is_multiple_of(pattern) {
            return untold("layer_types");
        }
    }
    Ok(())
}

struct Entries {
    architecture: &'static str,
    entries: Vec<(String, Value)>,
}

impl Entries {
    fn put(&mut self, key: &str, value: Value) {
        self.entries.push((key.to_owned(), value));
    }

    fn size(&mut self, key: &str, size: u64) {
        let key = format!("{}.{key}", self.architecture);
        self.put(&key, Value::Unsigned(size));
    }

    fn number(&mut self, key: &str, number: f64) {
        let key = format!("{}.{key}", self.architecture);
        self.put(&key, Value::Float(number));
    }

    /// How queries and keys turn; gives the tensors that belong to it.
    fn rotation(
        &mut self,
        config: &Json,
        family: Family,
        head_dim: u64,
    ) -> Result<Vec<ExportTensor>> {
        let written = ["rope_parameters", "rope_scaling"].map(|key| &config[key]);
        let written = written.into_iter().find(|rope| rope.is_object());
        let rope = written.unwrap_or(&Json::Null);
        let of_all_layers = &rope["full_attention"];
        let rope = if of_all_layers.is_object() {
            of_all_layers
        } else {
            rope
        };
        let number = |key: &str| rope[key].as_f64().or(config[key].as_f64());
        let theta = number("rope_theta").unwrap_or(10_000.0);
        self.number("rope.freq_base", theta);
        let share = number("partial_rotary_factor").unwrap_or(1.0);
        let turning = (head_dim as f64 * share) as u64;
        self.size("rope.dimension_count", turning);
        if family == Family::Gemma3 {
            let own = config["rope_parameters"]["sliding_attention"]["rope_theta"].as_f64();
            let local = own.or(config["rope_local_base_freq"].as_f64());
            self.number("rope.freq_base_swa", local.unwrap_or(10_000.0));
        }
        let required = |key: &str| {
            number(key).ok_or_else(|| {
                not_written(format!("config.json does not say the rotation's {key}"))
            })
        };
        let original = number("original_max_position_embeddings");
        let kind = rope["rope_type"].as_str().or(rope["type"].as_str());
        match kind.unwrap_or("default") {
            "default" => Ok(Vec::new()),
            kind @ ("linear" | "yarn") => {
                let key = format!("{}.rope.scaling.type", self.architecture);
                self.put(&key, text(kind));
                self.number("rope.scaling.factor", required("factor")?);
                if let Some(original) = original {
                    self.size("rope.scaling.original_context_length", original as u64);
                }
                Ok(Vec::new())
            }
            "llama3" => {
                let factors = llama3_factors(
                    theta,
                    turning,
                    required("factor")?,
                    (required("low_freq_factor")?, required("high_freq_factor")?),
                    required("original_max_position_embeddings")?,
                );
                Ok(vec![vector("rope_freqs.weight", factors)])
            }
            "longrope" | "su" => {
                let original = required("original_max_position_embeddings")?;
                self.size("rope.scaling.original_context_length", original as u64);
                if let Some(factor) = number("attention_factor") {
                    self.number("rope.scaling.attn_factor", factor);
                }
                let tensors = ["long", "short"].map(|kind| {
                    let factors = rope[format!("{kind}_factor")].as_array();
                    let factors = factors.map(|list| {
                        let numbers = list.iter().filter_map(Json::as_f64);
                        numbers.map(|factor| factor as f32).collect::<Vec<_>>()
                    });
                    let factors = factors.filter(|list| list.len() as u64 == turning / 2);
                    let factors = factors.ok_or_else(|| {
                        not_written(format!("config.json does not list its {kind}_factor"))
                    })?;
                    Ok(vector(&format!("rope_factors_{kind}.weight"), factors))
                });
                tensors.into_iter().collect()
            }
            other => Err(not_written(format!(
                "rope_type '{other}' is not known in GGUF files; supported: default, linear, yarn, \
                 llama3, longrope"
            ))),
        }
    }
}

/// By how much each frequency is divided: long waves are stretched, short ones stay, those between are
/// blended.
fn llama3_factors(
    theta: f64,
    dim: u64,
    factor: f64,
    (low, high): (f64, f64),
    original: f64,
) -> Vec<f32> {
    let factors = (0..dim / 2).map(|i| {
        let frequency = theta.powf(-2.0 * i as f64 / dim as f64);
        let waves = original * frequency / (2.0 * PI);
        if waves > high {
            1.0
        } else if waves < low {
            factor
        } else {
            let blend = (waves - low) / (high - low);
            1.0 / ((1.0 - blend) / factor + blend)
        }
    });
    factors.map(|factor| factor as f32).collect()
}

fn vector(name: &str, numbers: Vec<f32>) -> ExportTensor {
    ExportTensor {
        name: name.to_owned(),
        shape: vec![numbers.len()],
        source: Source::Numbers(numbers),
        kind: TensorKind::Vector,
    }
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}
