//! Offline batched inference over a data set of prompts.
fn main() {}
