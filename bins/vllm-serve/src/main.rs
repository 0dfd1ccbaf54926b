//! An OpenAI-compatible HTTP server for language models.
fn main() {}
