//! Constraints on generated text, as a mask over the vocabulary at each step.
//!
//! # What this room knows
//!
//! - what the tokens of a vocabulary are as bytes, and which of them end a text
//!   ([`GrammarCompiler`]);
//! - how a JSON schema, a regular expression, a list of choices, a grammar (EBNF or Lark) or a
//!   structural tag becomes an automaton, with the defaults of vLLM;
//! - how far a sequence has come and which tokens may continue it ([`Grammar`]). Any way of
//!   cutting the text into tokens is allowed.
//!
//! # What it must never know
//!
//! The engine, its steps and threads; requests; HTTP; logits.
//!
//! # Example
//!
//! ```
//! use vllm_sampling::StructuredOutputs;
//! use vllm_structured_output::GrammarCompiler;
//! use vllm_tokenizer::{Tokenizer, TokenizerFiles};
//!
//! # fn file(name: &str) -> Option<&'static [u8]> {
//! #     vllm_demo_model::FILES.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes)
//! # }
//! let tokenizer = Tokenizer::from_files(&TokenizerFiles {
//!     tokenizer_json: file("tokenizer.json"),
//!     ..TokenizerFiles::default()
//! })?;
//! let end = tokenizer.token_to_id("</s>").expect("a stop token");
//! let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size(), &[end])?;
//!
//! let mut grammar = compiler.compile(&StructuredOutputs {
//!     choice: Some(vec!["Rome".to_owned(), "Oslo".to_owned()]),
//!     ..StructuredOutputs::default()
//! })?;
//! let mut mask = Vec::new();
//! for id in tokenizer.encode("Rome", false)? {
//!     grammar.fill_mask(&mut mask)?;
//!     assert_eq!(mask[id as usize / 32] >> (id % 32) & 1, 1);
//!     grammar.accept(id)?;
//! }
//! grammar.accept(end)?;
//! assert!(grammar.is_finished());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
    const fn is_shared<T: Send + Sync>() {}
    const fn is_sent<T: Send>() {}
    is_shared::<GrammarCompiler>();
    is_sent::<Grammar>();
};
