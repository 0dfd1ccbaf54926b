//! Sampling parameters, logits processing, token drawing and logprobs.
