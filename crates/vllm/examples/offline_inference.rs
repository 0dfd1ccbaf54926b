//! Completes the quick-start prompts: `cargo run --release --example offline_inference [MODEL]`.

#![allow(clippy::print_stdout)] // An example shows its results.

use vllm::{Llm, SamplingParams};

fn main() -> vllm::Result<()> {
    let prompts = [
        "Hello, my name is",
        "The president of the United States is",
        "The capital of France is",
        "The future of AI is",
    ];
    let params = SamplingParams {
        temperature: 0.8,
        top_p: 0.95,
        ..SamplingParams::default()
    };
    let llm = Llm::new(std::env::args().nth(1).unwrap_or_else(|| "demo".to_owned()))?;
    for (prompt, output) in prompts.iter().zip(llm.generate(&prompts, &params)?) {
        println!("Prompt: {prompt:?}, Text: {:?}", output.outputs[0].text);
    }
    Ok(())
}
