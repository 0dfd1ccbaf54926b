//! What the engine's tests share.

use futures::StreamExt;
use futures::executor::block_on;
use vllm_engine::{
    AsyncLlm, EngineClient, EngineConfig, GenerationRequest, OutputKind, RequestOutput,
    RequestStream, SamplingParams, encode,
};

/// The demo model in float32, changed by `adjust`.
pub(crate) fn engine(adjust: impl FnOnce(&mut EngineConfig)) -> AsyncLlm {
    let mut config = EngineConfig::new("demo");
    config.dtype = "float32".to_owned();
    adjust(&mut config);
    AsyncLlm::new(&config).unwrap()
}

/// Greedy, up to `max_tokens`, whole output at the end.
pub(crate) fn greedy(max_tokens: i64) -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        max_tokens: Some(max_tokens),
        output_kind: OutputKind::FinalOnly,
        ..SamplingParams::default()
    }
}

/// Queues a prompt.
pub(crate) fn submit(engine: &AsyncLlm, prompt: &str, params: &SamplingParams) -> RequestStream {
    let ids = encode(engine, prompt, true).unwrap();
    engine
        .generate(GenerationRequest::new(prompt, ids, params.clone()))
        .unwrap()
}

/// Waits for the last output of a stream.
pub(crate) fn last(stream: RequestStream) -> RequestOutput {
    block_on(stream.fold(None, |_, output| async move { Some(output.unwrap()) })).unwrap()
}

/// Runs one prompt on its own.
pub(crate) fn complete(engine: &AsyncLlm, prompt: &str, params: &SamplingParams) -> RequestOutput {
    last(submit(engine, prompt, params))
}

/// Prompts of many lengths that the demo model knows how to continue.
pub(crate) fn prompts() -> Vec<String> {
    let countries = [
        "France", "Italy", "Japan", "Peru", "Kenya", "Norway", "Cuba", "Nepal",
    ];
    let mut prompts: Vec<String> = countries
        .iter()
        .map(|country| format!("The capital of {country} is"))
        .collect();
    prompts.push("Hello, my name is".to_owned());
    prompts.push("The future of AI is".to_owned());
    prompts
        .push("Once upon a time, there was a baker named Leo who lived in Oslo. One day,".into());
    prompts.push(format!(
        "{} The capital of Spain is",
        "The dog says woof.".repeat(12)
    ));
    prompts
}
