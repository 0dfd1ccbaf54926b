//! [`DefaultSampling`]: sampling parameters that may be left open, as in `generation_config.json`.

use serde::Deserialize;

use crate::{Error, Result, SamplingParams};

/// The sampling parameters that a model's `generation_config.json`, an operator or a request may
/// each set or leave open.
///
/// ```
/// use vllm_sampling::{DefaultSampling, SamplingParams};
/// let model = DefaultSampling::from_json(br#"{"temperature": 0.6, "top_k": 20}"#)?;
/// let request = DefaultSampling { temperature: Some(0.0), ..Default::default() };
/// let mut params = SamplingParams::default();
/// request.or(&model).apply(&mut params);
/// assert_eq!((params.temperature, params.top_k), (0.0, 20));
/// # Ok::<(), vllm_sampling::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DefaultSampling {
    /// See [`SamplingParams::repetition_penalty`].
    pub repetition_penalty: Option<f64>,
    /// See [`SamplingParams::presence_penalty`].
    pub presence_penalty: Option<f64>,
    /// See [`SamplingParams::frequency_penalty`].
    pub frequency_penalty: Option<f64>,
    /// See [`SamplingParams::temperature`].
    pub temperature: Option<f64>,
    /// See [`SamplingParams::top_k`].
    pub top_k: Option<i64>,
    /// See [`SamplingParams::top_p`].
    pub top_p: Option<f64>,
    /// See [`SamplingParams::min_p`].
    pub min_p: Option<f64>,
    /// See [`SamplingParams::max_tokens`]; `max_new_tokens` in the file.
    #[serde(rename = "max_new_tokens")]
    pub max_tokens: Option<i64>,
    /// End-of-sequence ids of the model. They are no sampling parameter and count even where the
    /// rest of the file is ignored.
    #[serde(rename = "eos_token_id", deserialize_with = "one_or_many")]
    pub eos_token_ids: Vec<u32>,
}

impl DefaultSampling {
    /// Reads `generation_config.json`. Keys that are not fields of this type are ignored; `null`
    /// leaves a field open.
    ///
    /// # Errors
    /// [`Error::GenerationConfig`] if the file is not a JSON object or a field has a wrong type.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        // By way of a map, because a struct may also be read from a list.
        serde_json::from_slice::<serde_json::Map<_, _>>(json)
            .and_then(|map| serde_json::from_value(map.into()))
            .map_err(|error| Error::GenerationConfig(error.to_string()))
    }

    /// These values, and those of `fallback` where this leaves them open.
    pub fn or(&self, fallback: &Self) -> Self {
        let eos = if self.eos_token_ids.is_empty() {
            fallback
        } else {
            self
        };
        Self {
            repetition_penalty: self.repetition_penalty.or(fallback.repetition_penalty),
            presence_penalty: self.presence_penalty.or(fallback.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(fallback.frequency_penalty),
            temperature: self.temperature.or(fallback.temperature),
            top_k: self.top_k.or(fallback.top_k),
            top_p: self.top_p.or(fallback.top_p),
            min_p: self.min_p.or(fallback.min_p),
            max_tokens: self.max_tokens.or(fallback.max_tokens),
            eos_token_ids: eos.eos_token_ids.clone(),
        }
    }

    /// Writes the values that are set to `params`.
    pub fn apply(&self, params: &mut SamplingParams) {
        set(&mut params.repetition_penalty, self.repetition_penalty);
        set(&mut params.presence_penalty, self.presence_penalty);
        set(&mut params.frequency_penalty, self.frequency_penalty);
        set(&mut params.temperature, self.temperature);
        set(&mut params.top_k, self.top_k);
        set(&mut params.top_p, self.top_p);
        set(&mut params.min_p, self.min_p);
        if self.max_tokens.is_some() {
            params.max_tokens = self.max_tokens;
        }
    }

    /// Only the end-of-sequence ids, for operators who do not want the model's parameters.
    pub fn eos_only(&self) -> Self {
        Self {
            eos_token_ids: self.eos_token_ids.clone(),
            ..Self::default()
        }
    }

    /// The values that are set, as Python would print a dictionary of them; empty if there are
    /// none.
    pub fn describe(&self) -> Option<String> {
        use crate::python::float;
        let fields = [
            ("repetition_penalty", self.repetition_penalty.map(float)),
            ("presence_penalty", self.presence_penalty.map(float)),
            ("frequency_penalty", self.frequency_penalty.map(float)),
            ("temperature", self.temperature.map(float)),
            ("top_k", self.top_k.map(|value| value.to_string())),
            ("top_p", self.top_p.map(float)),
            ("min_p", self.min_p.map(float)),
            ("max_tokens", self.max_tokens.map(|value| value.to_string())),
        ];
        let set: Vec<String> = fields
            .into_iter()
            .filter_map(|(name, value)| Some(format!("'{name}': {}", value?)))
            .collect();
        (!set.is_empty()).then(|| format!("{{{}}}", set.join(", ")))
    }
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

/// The file holds one id, a list of ids or `null`.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "eos_token_id must be a token id, a list of token ids or null"
    )]
    enum OneOrMany {
        One(u32),
        Many(Vec<u32>),
    }
    Ok(match Option::<OneOrMany>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(OneOrMany::One(id)) => vec![id],
        Some(OneOrMany::Many(ids)) => ids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> DefaultSampling {
        DefaultSampling::from_json(json.as_bytes()).expect(json)
    }

    #[test]
    fn only_known_keys_are_taken() {
        let json = r#"{"bos_token_id": 1, "do_sample": false, "temperature": 0.6, "top_p": 0.95,
            "top_k": 20, "min_p": null, "repetition_penalty": 1.05, "max_new_tokens": 2048,
            "max_length": 20, "transformers_version": "4.40.0"}"#;
        let expected = DefaultSampling {
            temperature: Some(0.6),
            top_p: Some(0.95),
            top_k: Some(20),
            repetition_penalty: Some(1.05),
            max_tokens: Some(2048),
            ..DefaultSampling::default()
        };
        assert_eq!(parse(json), expected);
        let mut params = SamplingParams::default();
        parse(json).apply(&mut params);
        let expected = SamplingParams {
            temperature: 0.6,
            top_p: 0.95,
            top_k: 20,
            repetition_penalty: 1.05,
            max_tokens: Some(2048),
            ..SamplingParams::default()
        };
        assert_eq!(params, expected);
    }

    #[test]
    fn end_of_sequence_ids_are_one_many_or_none() {
        let cases: [(&str, &[u32]); 4] = [
            (r#"{"eos_token_id": 7}"#, &[7]),
            (r#"{"eos_token_id": [7, 9]}"#, &[7, 9]),
            (r#"{"eos_token_id": null}"#, &[]),
            ("{}", &[]),
        ];
        for (json, expected) in cases {
            assert_eq!(parse(json).eos_token_ids, expected, "{json}");
        }
        let both = parse(r#"{"eos_token_id": 7, "top_k": 5}"#);
        assert_eq!(both.eos_only(), parse(r#"{"eos_token_id": [7]}"#));
    }

    #[test]
    fn set_values_win_over_the_fallback() {
        let ours = parse(r#"{"top_k": 5, "eos_token_id": 1}"#);
        let fallback = parse(r#"{"top_k": 9, "top_p": 0.5, "eos_token_id": [2, 3]}"#);
        assert_eq!(
            ours.or(&fallback),
            parse(r#"{"top_k": 5, "top_p": 0.5, "eos_token_id": 1}"#)
        );
        assert_eq!(DefaultSampling::default().or(&fallback), fallback);
    }

    #[test]
    fn wrong_files_are_refused_with_the_reason() {
        for (json, reason) in [
            ("", "EOF"),
            ("[]", "invalid"),
            (r#"{"top_k": "many"}"#, "invalid type: string"),
            (
                r#"{"eos_token_id": "</s>"}"#,
                "eos_token_id must be a token id",
            ),
        ] {
            let error = DefaultSampling::from_json(json.as_bytes()).expect_err(json);
            assert!(error.to_string().contains(reason), "{json}: {error}");
        }
    }

    #[test]
    fn set_values_are_described() {
        assert_eq!(DefaultSampling::default().describe(), None);
        let described = parse(r#"{"top_k": 5, "temperature": 1.0}"#).describe();
        assert_eq!(
            described.as_deref(),
            Some("{'temperature': 1.0, 'top_k': 5}")
        );
    }
}
