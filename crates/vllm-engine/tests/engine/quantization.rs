//! The demo model with its linear layers quantized while they are loaded.

use crate::support::{complete, engine, greedy, last, submit};
use vllm_engine::{AsyncLlm, EngineConfig};

fn quantized(name: &str) -> AsyncLlm {
    engine(|config| config.quantization = Some(name.to_owned()))
}

fn capitals() -> Vec<(String, String)> {
    serde_json::from_str(include_str!("../data/capitals.json")).unwrap()
}

#[test]
fn forty_capitals_are_still_known() {
    for name in ["int8", "q8_0", "q6_k", "q4_k"] {
        let engine = quantized(name);
        let asked: Vec<_> = capitals()
            .into_iter()
            .map(|(country, capital)| {
                let prompt = format!("The capital of {country} is");
                (submit(&engine, &prompt, &greedy(8)), capital)
            })
            .collect();
        let right = asked
            .into_iter()
            .filter(|(_, capital)| !capital.is_empty())
            .map(|(stream, capital)| {
                last(stream).outputs[0]
                    .text
                    .trim_start()
                    .starts_with(&capital)
            })
            .filter(|right| *right)
            .count();
        assert!(right >= 39, "{name}: {right} of 40");
    }
}

#[test]
fn answers_do_not_depend_on_the_batch() {
    for name in ["q8_0", "q4_k"] {
        let engine = quantized(name);
        let prompts: Vec<String> = capitals()
            .iter()
            .map(|(country, _)| format!("The capital of {country} is"))
            .collect();
        let params = vllm_engine::SamplingParams {
            logprobs: Some(2),
            ..greedy(12)
        };
        let print = |output: &vllm_engine::RequestOutput| {
            let logprobs = output.outputs[0].logprobs.iter().flatten().flatten();
            let bits: Vec<u32> = logprobs.map(|entry| entry.logprob.to_bits()).collect();
            (output.outputs[0].token_ids.clone(), bits)
        };
        let streams: Vec<_> = prompts
            .iter()
            .map(|prompt| submit(&engine, prompt, &params))
            .collect();
        let together: Vec<_> = streams
            .into_iter()
            .map(|stream| print(&last(stream)))
            .collect();
        let alone: Vec<_> = prompts
            .iter()
            .map(|prompt| print(&complete(&engine, prompt, &params)))
            .collect();
        assert_eq!(together, alone, "{name}");
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let mut config = EngineConfig::new("demo");
    config.quantization = Some("fp4".to_owned());
    let message = AsyncLlm::new(&config).err().unwrap().to_string();
    assert!(
        message.contains("'fp4' is not supported while loading"),
        "{message}"
    );
    assert!(message.contains("int8, q8_0, q6_k, q4_k"), "{message}");
}
