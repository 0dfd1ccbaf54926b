//! `/generative_scoring`.

use serde::Serialize;

use crate::context::ResponseContext;
use crate::decode::{
    Dict, Fields, Scope, Value, boolean, integer, integer_between, list_of, string,
};
use crate::error::{ErrorResponse, Result};
use crate::ids::random_id;
use crate::options::check_cache_salt;
use crate::usage::Usage;

/// The order in which the schema lists its fields; errors are reported in it.
pub(crate) const FIELD_ORDER: &[&str] = &[
    "model",
    "query",
    "items",
    "label_token_ids",
    "apply_softmax",
    "item_first",
    "add_special_tokens",
    "cache_salt",
    "priority",
    "request_id",
];

/// `POST /generative_scoring`: how likely it is that the token after a query and an item is the
/// first of some labels.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoringRequest {
    /// Model name; `None` and empty text mean the served model.
    pub model: Option<String>,
    /// What all prompts share.
    pub query: ScoringText,
    /// What they do not; one prompt each, at least one.
    pub items: Vec<ScoringText>,
    /// The tokens to compare, all in the vocabulary, at least one.
    pub label_token_ids: Vec<u32>,
    /// Scores are shares among the labels instead of among all tokens.
    pub apply_softmax: bool,
    /// Items stand in front of the query.
    pub item_first: bool,
    /// Add the tokenizer's special tokens to the query.
    pub add_special_tokens: bool,
    /// Separates cached prefixes.
    pub cache_salt: Option<String>,
    /// Smaller runs earlier.
    pub priority: i64,
    /// The caller's name for the request, or a random one.
    pub request_id: String,
}

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScoringText {
    /// Text to be tokenized.
    Text(String),
    /// Token ids, used as they are.
    TokenIds(Vec<u32>),
}

impl ScoringRequest {
    /// Checks and decodes the members of a body.
    ///
    /// # Errors
    /// 400 with all schema errors.
    pub fn from_body(body: &Dict) -> Result<Self> {
        check_cache_salt(body)?;
        let mut scope = Scope::new();
        let request = Self::decode(body, &mut scope);
        scope.sort_by_field(FIELD_ORDER);
        scope
            .finish(request)
            .map_err(|errors| ErrorResponse::schema(&errors))
    }

    pub(crate) fn decode(body: &Dict, scope: &mut Scope) -> Option<Self> {
        let mut fields = Fields::new(body, scope);
        let model = fields.nullable("model", string);
        let query = fields.required("query", decode_text);
        let items = fields.required("items", list_of(decode_text));
        let label_token_ids = fields.required("label_token_ids", list_of(token_id));
        Some(Self {
            model,
            apply_softmax: fields.with_default("apply_softmax", true, boolean),
            item_first: fields.with_default("item_first", false, boolean),
            add_special_tokens: fields.with_default("add_special_tokens", true, boolean),
            cache_salt: fields.nullable("cache_salt", string),
            priority: fields.with_default("priority", 0, integer),
            request_id: fields
                .nullable("request_id", string)
                .filter(|id| !id.is_empty())
                .unwrap_or_else(random_id),
            query: query?,
            items: items?,
            label_token_ids: label_token_ids?,
        })
    }

    /// Refuses labels outside of the vocabulary and empty lists. Runs after the model name was
    /// checked.
    ///
    /// # Errors
    /// 400 with vLLM's wording.
    pub fn check_supported(&self, vocab_size: usize) -> Result<()> {
        let is_outside = |id: &&u32| usize::try_from(**id).is_ok_and(|id| id >= vocab_size);
        let message = if let Some(id) = self.label_token_ids.iter().find(is_outside) {
            format!(
                "label_token_id {id} is out of vocabulary range [0, {vocab_size}). Please provide \
                 valid token IDs."
            )
        } else if self.label_token_ids.is_empty() {
            "label_token_ids must contain at least one token ID.".to_owned()
        } else if self.items.is_empty() {
            "items must contain at least one item.".to_owned()
        } else {
            return Ok(());
        };
        Err(ErrorResponse::bad_request(&message))
    }

    /// The score of an item whose labels have these log-probabilities, in the labels' order.
    pub fn score(&self, logprobs: &[f64]) -> f64 {
        let Some(first) = logprobs.first() else {
            return 0.0;
        };
        if !self.apply_softmax {
            return first.exp();
        }
        let highest = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // A label that is named twice counts once.
        let mut seen = Vec::with_capacity(logprobs.len());
        let mut sum = 0.0;
        for (id, logprob) in self.label_token_ids.iter().zip(logprobs) {
            if !seen.contains(id) {
                seen.push(*id);
                sum += (logprob - highest).exp();
            }
        }
        (first - highest).exp() / sum
    }
}

/// Text or a list of token ids.
fn decode_text(value: &Value, scope: &mut Scope) -> Option<ScoringText> {
    if let Value::String(text) = value {
        return Some(ScoringText::Text(text.clone()));
    }
    match scope.attempt(|scope| list_of(token_id)(value, scope)) {
        Ok(ids) => Some(ScoringText::TokenIds(ids)),
        Err(errors) => {
            scope.fail::<()>("string_type", "Input should be a valid string", value);
            scope.fail_all(errors)
        }
    }
}

fn token_id(value: &Value, scope: &mut Scope) -> Option<u32> {
    let id = integer_between(0, i64::from(u32::MAX))(value, scope)?;
    u32::try_from(id).ok()
}

/// The answer of `/generative_scoring`; serialize it for the body.
#[derive(Debug, Clone, Serialize)]
pub struct ScoringResponse {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    data: Vec<Score>,
    usage: Usage,
}

#[derive(Debug, Clone, Serialize)]
struct Score {
    index: usize,
    object: &'static str,
    score: f64,
}

impl ScoringResponse {
    /// The answer with one score per item, in their order.
    pub fn new(context: ResponseContext, scores: Vec<f64>, usage: Usage) -> Self {
        let data = scores.into_iter().enumerate();
        Self {
            id: context.id,
            object: "list",
            created: context.created,
            model: context.model,
            data: data
                .map(|(index, score)| Score {
                    index,
                    object: "score",
                    score,
                })
                .collect(),
            usage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> Result<ScoringRequest> {
        let body = crate::decode::json::parse(json.as_bytes()).expect("JSON");
        ScoringRequest::from_body(body.as_dict().expect("test bodies are objects"))
    }

    #[test]
    fn scores_are_shares_among_the_labels_or_among_all_tokens() {
        let check = |json: &str, logprobs: &[f64], expected: f64| {
            let score = request(json).expect("valid").score(logprobs);
            assert!((score - expected).abs() < 1e-12, "{json}: {score}");
        };
        let (quarter, half) = (0.25_f64.ln(), 0.5_f64.ln());
        check(
            r#"{"query": "a", "items": [[1]], "label_token_ids": [3, 4]}"#,
            &[quarter, half],
            1.0 / 3.0,
        );
        check(
            r#"{"query": "a", "items": ["b"], "label_token_ids": [3, 4], "apply_softmax": false}"#,
            &[quarter, half],
            0.25,
        );
        check(
            r#"{"query": [1], "items": ["b"], "label_token_ids": [3, 3]}"#,
            &[half, half],
            1.0,
        );
    }

    #[test]
    fn what_cannot_be_scored_is_refused() {
        let check = |json: &str, expected: &str| {
            let refused = request(json).and_then(|request| request.check_supported(10));
            let message = refused.expect_err("refused").message;
            assert!(message.contains(expected), "{json}: {message}");
        };
        check(
            r#"{"query": "a", "items": [], "label_token_ids": [1]}"#,
            "items must contain at least one item.",
        );
        check(
            r#"{"query": "a", "items": ["b"], "label_token_ids": []}"#,
            "label_token_ids must contain at least one token ID.",
        );
        check(
            r#"{"query": "a", "items": ["b"], "label_token_ids": [10]}"#,
            "label_token_id 10 is out of vocabulary range [0, 10).",
        );
        check(
            r#"{"query": 1, "items": ["b"], "label_token_ids": [1]}"#,
            "'loc': 'body.query'",
        );
        check(
            r#"{"query": "a", "label_token_ids": [1]}"#,
            "'loc': 'body.items', 'msg': 'Field required'",
        );
    }
}
