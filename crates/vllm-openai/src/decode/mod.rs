//! Reading request bodies the way Python's `json` and Pydantic do.
//!
//! A body goes through three steps: [`json::parse`] turns bytes into a [`Value`], [`Fields`] reads
//! named members of the top object with lax coercion, and every disagreement is collected as a
//! [`SchemaError`] so that one answer can name all of them.

mod errors;
mod fields;
pub mod json;
mod python;
mod scalar;
mod value;

pub use errors::{SchemaError, schema_message};
pub use fields::{DeclaredField, Fields, Scope, declared_fields};
pub use python::{float_repr, json_ascii, string_repr};
pub use scalar::{
    any, boolean, dataclass, dict, dict_of, float, integer, integer_between, list_of, literal,
    model, string,
};
pub use value::{Dict, Value};
