//! [`GrammarCompiler`]: from a constraint to a [`Grammar`].

use std::sync::Arc;
use std::thread;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use vllm_sampling::StructuredOutputs;
use vllm_tokenizer::Tokenizer;

use crate::error::{Error, Result, message};
use crate::grammar::Grammar;
use crate::source;
use crate::vocabulary::token_bytes;

/// Compiling recurses over the nesting of a constraint; the memory is only touched if it does.
const COMPILER_STACK_BYTES: usize = 64 << 20;

/// Parser states that one mask may need. Only grammars that are spelled out character by character
/// come near; for them it is some tens of milliseconds.
const MAX_ITEMS_PER_MASK: usize = 500_000;

/// The vocabulary of a model as bytes, with the grammar engine on top.
///
/// Costs a pass over the vocabulary, so build it once per model, when the first constraint comes.
pub struct GrammarCompiler {
    factory: ParserFactory,
    stop_ids: Arc<[u32]>,
}

impl GrammarCompiler {
    /// `vocab_size` is the width of the model's logits, which may exceed the tokenizer's
    /// vocabulary; `eos_token_ids` are the tokens that end a text, whichever of them comes.
    ///
    /// # Errors
    /// [`Error::NoStopToken`] if none of `eos_token_ids` lies within the vocabulary.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize, eos_token_ids: &[u32]) -> Result<Self> {
        let width = u32::try_from(vocab_size).unwrap_or(u32::MAX);
        let stop_ids: Arc<[u32]> = eos_token_ids
            .iter()
            .copied()
            .filter(|&id| id < width)
            .collect();
        let Some(&first_stop_id) = stop_ids.first() else {
            return Err(Error::NoStopToken { vocab_size });
        };
        let words = token_bytes(tokenizer, vocab_size, &stop_ids);
        let trie =
            TokTrie::from(&TokRxInfo::new(width, first_stop_id), &words).with_eos_tokens(&stop_ids);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new(
            &environment,
            InferenceCapabilities::default(),
            &llguidance::earley::SlicedBiasComputer::general_slices(),
        )
        .map_err(|error| Error::Grammar(message(error)))?;
        let limits = factory.quiet().limits_mut();
        limits.verbose_errors = false;
        limits.step_max_items = MAX_ITEMS_PER_MASK;
        Ok(Self { factory, stop_ids })
    }

    /// Compiles the constraint of a request. Takes milliseconds, for a large schema some tens of
    /// them: call it off the decode path.
    ///
    /// # Errors
    /// [`Error::Parameters`], [`Error::InvalidJson`], [`Error::StructuralTag`], [`Error::Regex`],
    /// [`Error::JsonSchema`] or [`Error::Grammar`] with a message for the client. No constraint makes this panic, and size
    /// limits bound what it takes.
    pub fn compile(&self, params: &StructuredOutputs) -> Result<Grammar> {
        params.validate()?;
        let matcher = thread::scope(|scope| {
            thread::Builder::new()
                .name("grammar-compiler".to_owned())
                .stack_size(COMPILER_STACK_BYTES)
                .spawn_scoped(scope, || self.build(source::grammar(params)?))
                .map_err(|error| Error::Grammar(format!("cannot start a thread: {error}")))?
                .join()
                .unwrap_or_else(|_| Err(Error::Grammar("the grammar is not supported".to_owned())))
        })
        .map_err(|error| match error {
            Error::Grammar(problem) if params.regex.is_some() => Error::Regex(problem),
            Error::Grammar(problem) if params.json.is_some() => Error::JsonSchema(problem),
            error => error,
        })?;
        let vocab_size = self.factory.tok_env().tok_trie().vocab_size();
        Ok(Grammar::new(matcher, self.stop_ids.clone(), vocab_size))
    }

    fn build(&self, grammar: TopLevelGrammar) -> Result<Matcher> {
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // A constraint that no text fulfils shows at the first mask at the earliest.
        matcher
            .compute_mask_or_eos()
            .map_err(|error| Error::Grammar(message(error)))?;
        Ok(matcher)
    }
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("GrammarCompiler")
            .field("stop_ids", &self.stop_ids)
            .finish_non_exhaustive()
    }
}
