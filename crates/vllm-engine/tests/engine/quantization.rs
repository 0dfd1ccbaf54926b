//! The demo model in every form of weights.

use crate::forms::{FORMS, capitals};
use crate::support::{complete, greedy, last, submit};
use vllm_engine::{AsyncLlm, EngineConfig, RequestOutput, SamplingParams};

#[test]
fn every_form_knows_the_capitals_whatever_else_runs() {
    let params = SamplingParams {
        logprobs: Some(2),
        ..greedy(8)
    };
    let print = |output: &RequestOutput| {
        let logprobs = output.outputs[0].logprobs.iter().flatten().flatten();
        let bits: Vec<u32> = logprobs.map(|entry| entry.logprob.to_bits()).collect();
        (output.outputs[0].token_ids.clone(), bits)
    };
    let capitals = capitals();
    let prompts: Vec<String> = capitals
        .iter()
        .map(|(country, _)| format!("The capital of {country} is"))
        .collect();
    let mut failures = Vec::new();
    for form in FORMS {
        let folder = tempfile::tempdir().unwrap();
        let engine = form.engine(folder.path());
        let streams = prompts
            .iter()
            .map(|prompt| submit(&engine, prompt, &params));
        let streams: Vec<_> = streams.collect();
        let together: Vec<_> = streams.into_iter().map(last).collect();
        let right = together
            .iter()
            .zip(&capitals)
            .filter(|(output, (_, capital))| {
                output.outputs[0].text.trim_start().starts_with(capital)
            })
            .count();
        if right < form.least {
            failures.push(format!("{}: {right} of 40", form.name));
        }
        for (prompt, output) in prompts.iter().zip(&together).step_by(5) {
            let alone = complete(&engine, prompt, &params);
            assert_eq!(print(&alone), print(output), "{}: {prompt}", form.name);
        }
    }
    assert_eq!(failures, Vec::<String>::new());
}

#[test]
fn the_table_in_the_documentation_has_every_form() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/weights.md");
    let page = std::fs::read_to_string(path).unwrap();
    for form in FORMS {
        let row = format!("\n| {} |", form.name);
        assert!(
            page.contains(&row),
            "{}: run `cargo xtask bench formats`",
            form.name
        );
    }
}

#[test]
fn embeddings_are_quantized_if_that_is_wanted() {
    for method in ["int8", "fp8"] {
        let mut config = EngineConfig::new("demo");
        config.dtype = "float32".to_owned();
        config.quantization = Some(method.to_owned());
        let memory = |config: &EngineConfig| vllm_engine::plan_memory(config).unwrap().weight_bytes;
        let with_plain_embeddings = memory(&config);
        config.embedding_quantization = Some(method.to_owned());
        // A table of 2,048 rows of 192 in a quarter of their bytes.
        assert!(
            memory(&config) < with_plain_embeddings - 2048 * 192 * 2,
            "{method}"
        );
        let engine = AsyncLlm::new(&config).unwrap();
        let answer = complete(&engine, "The capital of France is", &greedy(4));
        let text = &answer.outputs[0].text;
        assert!(text.contains("Paris"), "{method}: {text}");
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    for change in [
        (|config: &mut EngineConfig| config.quantization = Some("fp4".to_owned()))
            as fn(&mut EngineConfig),
        |config| config.embedding_quantization = Some("fp4".to_owned()),
    ] {
        let mut config = EngineConfig::new("demo");
        change(&mut config);
        let message = AsyncLlm::new(&config).err().unwrap().to_string();
        assert!(
            message.contains("'fp4' is not supported while loading"),
            "{message}"
        );
        assert!(message.contains("int8, fp8, q4_0"), "{message}");
    }
}
