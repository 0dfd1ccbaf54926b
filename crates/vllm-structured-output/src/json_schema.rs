//! JSON schemas as vLLM reads them.

use llguidance::JsonCompileOptions;
use serde_json::{Value, json};
use vllm_sampling::StructuredOutputs;

use crate::error::{Error, Result};

/// The schema with the options of `params` written into it.
pub(crate) fn prepare(schema: Value, params: &StructuredOutputs) -> Result<Value> {
    let mut schema = match schema {
        Value::Object(_) => schema,
        Value::Bool(true) => json!({}),
        Value::Bool(false) => json!({"not": {}}),
        _ => {
            let reason = "a JSON schema must be an object or a boolean";
            return Err(Error::Grammar(reason.to_owned()));
        }
    };
    options(params).apply_to(&mut schema);
    Ok(schema)
}

fn options(params: &StructuredOutputs) -> JsonCompileOptions {
    JsonCompileOptions {
        coerce_one_of: true,
        ..JsonCompileOptions::default()
    }
}
