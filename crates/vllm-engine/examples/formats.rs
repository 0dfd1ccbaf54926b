//! What each form of weights costs the demo model: perplexity of sentences that it knows, and how many of
//! forty capitals it names.
//!
//!     cargo run --release -p vllm-engine --example formats [MODEL]

use vllm_engine::{EngineConfig, Llm, Result, SamplingParams};

/// Name, `--dtype` and `--quantization`.
const FORMS: [(&str, &str, Option<&str>); 6] = [
    ("float32", "float32", None),
    ("float16", "float16", None),
    ("bfloat16", "bfloat16", None),
    ("q8_0", "float32", Some("q8_0")),
    ("q6_k", "float32", Some("q6_k")),
    ("q4_k", "float32", Some("q4_k")),
];

#[allow(clippy::print_stdout, reason = "its purpose")]
fn main() -> Result<()> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "demo".to_owned());
    println!("| form | perplexity | capitals |\n|---|---|---|");
    for (name, dtype, quantization) in FORMS {
        let mut config = EngineConfig::new(&model);
        config.dtype = dtype.to_owned();
        config.quantization = quantization.map(str::to_owned);
        let llm = Llm::with_config(&config)?;
        println!(
            "| {name} | {:.4} | {} of 40 |",
            perplexity(&llm)?,
            right_answers(&llm)?
        );
    }
    Ok(())
}

fn capitals() -> Vec<(String, String)> {
    serde_json::from_str(include_str!("../tests/data/capitals.json")).unwrap_or_default()
}

/// Over all tokens of the sentences but the first of each.
fn perplexity(llm: &Llm) -> Result<f64> {
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
    for output in llm.generate(&sentences, &params)? {
        let positions = output.prompt_logprobs.iter().flatten().flatten();
        for (position, id) in positions.zip(output.prompt_token_ids.iter().skip(1)) {
            if let Some(entry) = position.iter().find(|entry| entry.token_id == *id) {
                sum -= f64::from(entry.logprob);
                count += 1;
            }
        }
    }
    Ok((sum / f64::from(count.max(1))).exp())
}

fn right_answers(llm: &Llm) -> Result<usize> {
    let questions: Vec<String> = capitals()
        .iter()
        .map(|(country, _)| format!("The capital of {country} is"))
        .collect();
    let params = SamplingParams {
        temperature: 0.0,
        max_tokens: Some(8),
        ..SamplingParams::default()
    };
    let answers = llm.generate(&questions, &params)?;
    let pairs = answers.iter().zip(capitals());
    let right = pairs.filter(|(answer, (_, capital))| {
        answer
            .outputs
            .first()
            .is_some_and(|output| output.text.trim_start().starts_with(capital))
    });
    Ok(right.count())
}
