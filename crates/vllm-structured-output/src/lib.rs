//! Constraints on generated text, as a mask over the vocabulary at each step.
//!
//! Knows JSON schemas, regular expressions, choices and grammars, and which tokens may follow. It
//! must never know the engine, requests or HTTP.
#![forbid(unsafe_code)]

mod compiler;
mod ebnf;
mod error;
mod grammar;
mod json_schema;
mod source;
mod structural_tag;
mod vocabulary;

pub use compiler::GrammarCompiler;
pub use error::{Error, Result};
pub use grammar::Grammar;

const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    const fn sent_to_a_thread<T: Send>() {}
    shared_between_threads::<GrammarCompiler>();
    sent_to_a_thread::<Grammar>();
};
