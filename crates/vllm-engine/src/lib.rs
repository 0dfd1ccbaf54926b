//! The engine: scheduler, model, sampler and detokenizer composed.
