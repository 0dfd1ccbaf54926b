//! Rotations as configs describe them: `rope_parameters` of transformers 5, `rope_theta` and
//! `rope_scaling` of transformers 4.

use std::f64::consts::PI;

use serde_json::Value;
use vllm_tensor::Rotary;

use crate::{Error, ModelConfig, Result};

/// Far beyond any real head; keeps a damaged config from taking all memory.
const MAX_DIM: usize = 1 << 16;

const DEFAULT_THETA: f64 = 10_000.0;

/// The rotation of all layers.
pub(crate) fn rotary(config: &ModelConfig) -> Result<Rotary> {
    from_parameters(&parameters(&config.raw), config)
}

/// The rotation of the layers of `layer_type`, where each type has its own in `rope_parameters`;
/// otherwise what `fallback` says of it, in the same form.
pub(crate) fn rotary_of_layer_type(
    config: &ModelConfig,
    layer_type: &str,
    fallback: impl FnOnce() -> Value,
) -> Result<Rotary> {
    let own = &config.raw["rope_parameters"][layer_type];
    if own.is_object() {
        from_parameters(own, config)
    } else {
        from_parameters(&fallback(), config)
    }
}

/// What a config says of its rotation, in the form of `rope_parameters`.
pub(crate) fn parameters(raw: &Value) -> Value {
    let written = ["rope_parameters", "rope_scaling"].map(|key| &raw[key]);
    let mut parameters = match written.into_iter().find(|rope| rope.is_object()) {
        Some(written) => written.clone(),
        None => Value::Object(serde_json::Map::new()),
    };
    // Some families have their own names for what others call `rope_theta` and the like.
    let elsewhere = [
        ("rope_theta", &["rope_theta", "rotary_emb_base"][..]),
        (
            "partial_rotary_factor",
            &["partial_rotary_factor", "rotary_pct", "rope_pct"],
        ),
        (
            "original_max_position_embeddings",
            &["original_max_position_embeddings"],
        ),
    ];
    for (key, names) in elsewhere {
        let outside = names.iter().map(|name| &raw[*name]).find(|v| v.is_number());
        if let (Value::Null, Some(outside)) = (&parameters[key], outside) {
            parameters[key] = outside.clone();
        }
    }
    parameters
}

fn from_parameters(rope: &Value, config: &ModelConfig) -> Result<Rotary> {
    let theta = rope["rope_theta"].as_f64().unwrap_or(DEFAULT_THETA);
    let share = rope["partial_rotary_factor"].as_f64().unwrap_or(1.0);
    if !(theta > 0.0 && share > 0.0 && share <= 1.0) {
        return Err(Error::Config(format!(
            "rope_theta ({theta}) must be above 0 and partial_rotary_factor ({share}) within 0 and 1"
        )));
    }
    let spec = Spec {
        rope,
        theta,
        dim: (config.head_dim as f64 * share) as usize,
        max_positions: config.raw["max_position_embeddings"].as_f64(),
        max_model_len: config.max_model_len,
    };
    if 2 * spec.dim.div_ceil(2) > config.head_dim || spec.dim > MAX_DIM {
        return Err(Error::Config(format!(
            "heads of {} elements cannot be rotated in halves",
            config.head_dim
        )));
    }
    let (frequencies, magnitude) = spec.scaled_frequencies()?;
    let frequencies = frequencies.into_iter().map(|f| f as f32).collect();
    Ok(Rotary::new(frequencies, magnitude as f32))
}

struct Spec<'a> {
    rope: &'a Value,
    theta: f64,
    /// Elements of a head that turn.
    dim: usize,
    max_positions: Option<f64>,
    max_model_len: usize,
}

impl Spec<'_> {
    /// Frequencies and the magnitude of cosines and sines.
    fn scaled_frequencies(&self) -> Result<(Vec<f64>, f64)> {
        let rope_type = self.rope["rope_type"].as_str();
        match rope_type
            .or(self.rope["type"].as_str())
            .unwrap_or("default")
        {
            "default" => Ok((self.frequencies(self.theta), 1.0)),
            "linear" => {
                let factor = self.factor()?;
                Ok((self.map_frequencies(|f| f / factor), 1.0))
            }
            "dynamic" => self.dynamic(),
            "llama3" => self.llama3(),
            "yarn" => self.yarn(),
            "longrope" | "su" => self.longrope(),
            other => Err(Error::Config(format!(
                "rope_type '{other}' is not supported; supported: default, linear, dynamic, llama3, \
                 yarn, longrope"
            ))),
        }
    }

    fn frequencies(&self, theta: f64) -> Vec<f64> {
        (0..self.dim.div_ceil(2))
            .map(|i| theta.powf(-2.0 * i as f64 / self.dim as f64))
            .collect()
    }

    fn map_frequencies(&self, map: impl Fn(f64) -> f64) -> Vec<f64> {
        self.frequencies(self.theta).into_iter().map(map).collect()
    }

    /// NTK-aware scaling for a fixed length: keys stay in the cache, so their rotation cannot follow
    /// the length of a sequence.
    fn dynamic(&self) -> Result<(Vec<f64>, f64)> {
        let dim = self.dim as f64;
        let exponent = dim / (dim - 2.0);
        let stretch = if let Some(alpha) = self.number("alpha") {
            alpha
        } else {
            let factor = self.factor()?;
            let max_positions = self.max_positions()?;
            let trained = self.number("original_max_position_embeddings");
            factor * max_positions / trained.unwrap_or(max_positions) - (factor - 1.0)
        };
        Ok((self.frequencies(self.theta * stretch.powf(exponent)), 1.0))
    }

    /// Llama 3.1: long waves are stretched, short ones stay, those between are blended.
    fn llama3(&self) -> Result<(Vec<f64>, f64)> {
        let factor = self.factor()?;
        let low = self.required("low_freq_factor")?;
        let high = self.required("high_freq_factor")?;
        let original = self.original_max_positions()?;
        let frequencies = self.map_frequencies(|frequency| {
            let waves = original * frequency / (2.0 * PI);
            if waves > high {
                frequency
            } else if waves < low {
                frequency / factor
            } else {
                let blend = (waves - low) / (high - low);
                (1.0 - blend) * frequency / factor + blend * frequency
            }
        });
        Ok((frequencies, 1.0))
    }

    /// YaRN (Peng et al. 2023).
    fn yarn(&self) -> Result<(Vec<f64>, f64)> {
        let factor = self.factor()?;
        let original = self.original_max_positions()?;
        // The dimension that turns so often within the original length.
        let dim_of = |rotations: f64| {
            self.dim as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
        };
        let mut low = dim_of(self.number("beta_fast").unwrap_or(32.0));
        let mut high = dim_of(self.number("beta_slow").unwrap_or(1.0));
        if self.rope["truncate"].as_bool().unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(self.dim as f64 - 1.0));
        let width = if low == high { 0.001 } else { high - low };
        let frequencies = self.frequencies(self.theta).into_iter().enumerate();
        let frequencies = frequencies.map(|(i, frequency)| {
            let stretched = ((i as f64 - low) / width).clamp(0.0, 1.0);
            frequency / factor * stretched + frequency * (1.0 - stretched)
        });

        let magnitude_of = |scale: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * scale * factor.ln() + 1.0
            }
        };
        let given = |key| self.number(key).filter(|scale| *scale != 0.0);
        let magnitude = match (self.number("attention_factor"), given("mscale")) {
            (Some(magnitude), _) => magnitude,
            (None, Some(scale)) => match given("mscale_all_dim") {
                Some(all) => magnitude_of(scale) / magnitude_of(all),
                None => magnitude_of(1.0),
            },
            (None, None) => magnitude_of(1.0),
        };
        Ok((frequencies.collect(), magnitude))
    }

    /// LongRoPE (Ding et al. 2024): one list of factors up to the original length, another beyond. A
    /// run uses one of them throughout, by the longest sequence it allows.
    fn longrope(&self) -> Result<(Vec<f64>, f64)> {
        let original = self.original_max_positions()?;
        let (key, own_magnitude) = if self.max_model_len as f64 > original {
            ("long_factor", "long_mscale")
        } else {
            ("short_factor", "short_mscale")
        };
        let factors: Option<Vec<f64>> = self.rope[key]
            .as_array()
            .map(|list| list.iter().filter_map(Value::as_f64).collect());
        let frequencies = self.frequencies(self.theta);
        let factors = factors
            .filter(|factors| factors.len() == frequencies.len())
            .filter(|factors| factors.iter().all(|factor| *factor > 0.0))
            .ok_or_else(|| {
                Error::Config(format!(
                    "rope '{key}' must list {} numbers above 0",
                    frequencies.len()
                ))
            })?;
        let stretched = frequencies
            .iter()
            .zip(factors)
            .map(|(f, factor)| f / factor);
        let magnitude = match self
            .number(own_magnitude)
            .or(self.number("attention_factor"))
        {
            Some(magnitude) => magnitude,
            None => {
                let factor = match self.number("factor") {
                    Some(factor) => factor,
                    None => self.max_positions()? / original,
                };
                if factor <= 1.0 {
                    1.0
                } else {
                    (1.0 + factor.ln() / original.ln()).sqrt()
                }
            }
        };
        Ok((stretched.collect(), magnitude))
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.rope[key].as_f64()
    }

    fn required(&self, key: &str) -> Result<f64> {
        self.number(key)
            .ok_or_else(|| Error::Config(format!("rope scaling lacks the number '{key}'")))
    }

    fn factor(&self) -> Result<f64> {
        let factor = self.required("factor")?;
        if factor > 0.0 {
            return Ok(factor);
        }
        Err(Error::Config(format!(
            "rope scaling 'factor' must be above 0, got {factor}"
        )))
    }

    fn max_positions(&self) -> Result<f64> {
        self.max_positions
            .ok_or_else(|| Error::Config("'max_position_embeddings' is missing".to_owned()))
    }

    /// The length the model was first trained for.
    fn original_max_positions(&self) -> Result<f64> {
        match self.number("original_max_position_embeddings") {
            Some(original) if original > 1.0 => Ok(original),
            Some(original) => Err(Error::Config(format!(
                "'original_max_position_embeddings' must be above 1, got {original}"
            ))),
            None => self.max_positions(),
        }
    }
}

#[cfg(test)]
mod tests;
