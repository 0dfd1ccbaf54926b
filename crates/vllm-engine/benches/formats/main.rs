//! What each form of weights costs the demo model: perplexity of sentences that it knows, and how many of
//! forty capitals it names. `cargo xtask bench formats` runs it and keeps the table.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people who measure"
)]

#[path = "../../tests/engine/forms/mod.rs"]
mod forms;

use forms::{FORMS, capitals};
use futures::StreamExt;
use futures::executor::block_on;
use vllm_engine::{
    AsyncLlm, EngineClient, GenerationRequest, OutputKind, RequestOutput, SamplingParams, encode,
};

fn main() {
    println!("| form | perplexity | capitals |\n|---|---|---|");
    for form in FORMS {
        let folder = tempfile::tempdir().unwrap();
        let engine = form.engine(folder.path());
        let (perplexity, right) = (perplexity(&engine), right_answers(&engine));
        println!("| {} | {perplexity:.4} | {right} of 40 |", form.name);
    }
}

fn generate(engine: &AsyncLlm, prompts: &[String], params: &SamplingParams) -> Vec<RequestOutput> {
    let params = SamplingParams {
        temperature: 0.0,
        output_kind: OutputKind::FinalOnly,
        ..params.clone()
    };
    let streams = prompts.iter().map(|prompt| {
        let ids = encode(engine, prompt, true).unwrap();
        let request = GenerationRequest::new(prompt, ids, params.clone());
        engine.generate(request).unwrap()
    });
    let streams: Vec<_> = streams.collect();
    let last = |stream: vllm_engine::RequestStream| {
        block_on(stream.fold(None, |_, output| async move { Some(output.unwrap()) })).unwrap()
    };
    streams.into_iter().map(last).collect()
}

/// Over all tokens of the sentences but the first of each.
fn perplexity(engine: &AsyncLlm) -> f64 {
    let sentences: Vec<String> = capitals()
        .iter()
        .map(|(country, capital)| {
            format!(
                "The capital of {country} is {capital}. Many people visit {capital} every year."
            )
        })
        .collect();
    let params = SamplingParams {
        prompt_logprobs: Some(0),
        max_tokens: Some(1),
        ..SamplingParams::default()
    };
    let (mut sum, mut count) = (0.0, 0);
    for output in generate(engine, &sentences, &params) {
        let positions = output.prompt_logprobs.iter().flatten().flatten();
        for (position, id) in positions.zip(output.prompt_token_ids.iter().skip(1)) {
            if let Some(entry) = position.iter().find(|entry| entry.token_id == *id) {
                sum -= f64::from(entry.logprob);
                count += 1;
            }
        }
    }
    (sum / f64::from(count.max(1))).exp()
}

fn right_answers(engine: &AsyncLlm) -> usize {
    let questions: Vec<String> = capitals()
        .iter()
        .map(|(country, _)| format!("The capital of {country} is"))
        .collect();
    let params = SamplingParams {
        max_tokens: Some(8),
        ..SamplingParams::default()
    };
    let answers = generate(engine, &questions, &params);
    let pairs = answers.iter().zip(capitals());
    let right = pairs.filter(|(answer, (_, capital))| {
        let output = answer.outputs.first();
        output.is_some_and(|output| output.text.trim_start().starts_with(capital))
    });
    right.count()
}
