//! Requests against the demo model, from prompt to text.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::support::{complete, engine, greedy, last, submit};
use futures::StreamExt;
use futures::executor::block_on;
use vllm_engine::{
    BeamSearchParams, EngineClient, EngineConfig, Error, FinishReason, GenerationRequest, Llm,
    OutputKind, SamplingParams, StopReason, StructuredOutputs,
};

#[test]
fn continues_the_quick_start_prompts() {
    let engine = engine(|_| {});
    let check = |prompt: &str, expected: &str| {
        let output = complete(&engine, prompt, &greedy(40));
        assert!(
            output.outputs[0].text.starts_with(expected),
            "{prompt}: {output:?}"
        );
    };
    check(
        "The capital of France is",
        " Paris. Many people visit Paris every year.",
    );
    check(
        "Hello, my name is",
        " David. I am a doctor from Berlin, and I like reading books.",
    );
    check(
        "The president of the United States is",
        " the commander in chief of the armed forces.",
    );
    check(
        "The future of AI is",
        " already here, but it is not shared equally yet.",
    );
    check(
        "San Francisco is a",
        " city in California, and it is known for its hills and its fog.",
    );
}

#[test]
fn answers_a_conversation_through_the_chat_template() {
    let llm = Llm::new("demo").unwrap();
    let question = serde_json::json!(
        {"role": "user", "content": "Who won the world series in 2020?"}
    );
    let outputs = llm.chat(&[vec![question]], &greedy(40)).unwrap();
    let output = &outputs[0].outputs[0];
    assert_eq!(
        output.text,
        "The Los Angeles Dodgers won the World Series in 2020."
    );
    assert_eq!(output.finish_reason, Some(FinishReason::Stop));
    // <|im_end|> is an end of sequence only by generation_config.json, so its id is told.
    assert_eq!(output.stop_reason, Some(StopReason::TokenId(5)));
}

#[test]
fn streams_deltas_that_join_to_the_whole_text() {
    let engine = engine(|_| {});
    let whole = complete(&engine, "Hello, my name is", &greedy(20));
    let params = SamplingParams {
        output_kind: OutputKind::Delta,
        ..greedy(20)
    };
    let stream = submit(&engine, "Hello, my name is", &params);
    let outputs: Vec<_> = block_on(stream.map(Result::unwrap).collect());
    let text: String = outputs
        .iter()
        .map(|output| output.outputs[0].text.as_str())
        .collect();
    let ids: Vec<u32> = outputs
        .iter()
        .flat_map(|output| output.outputs[0].token_ids.clone())
        .collect();
    assert_eq!(text, whole.outputs[0].text);
    assert_eq!(ids, whole.outputs[0].token_ids);
    // One output a token, and only the last of them says that it is the last.
    assert_eq!(outputs.len(), ids.len());
    let (last, before) = outputs.split_last().unwrap();
    assert!(last.finished && before.iter().all(|output| !output.finished));
}

#[test]
fn a_request_that_arrives_later_joins_the_running_batch() {
    let engine = engine(|_| {});
    let long = SamplingParams {
        ignore_eos: true,
        output_kind: OutputKind::Delta,
        ..greedy(600)
    };
    let mut long_stream = submit(&engine, "Once upon a time,", &long);
    block_on(long_stream.next()).unwrap().unwrap();
    let short = complete(&engine, "The capital of France is", &greedy(3));
    assert!(short.outputs[0].text.starts_with(" Paris"));
    // The long one was under way all the time, and goes on.
    assert!(engine.statistics().num_requests_running.get() >= 1.0);
    drop(long_stream);
}

#[test]
fn stop_strings_cut_the_text_and_are_named() {
    let engine = engine(|_| {});
    let params = SamplingParams {
        stop: vec!["people".into(), ". M".into()],
        ..greedy(20)
    };
    let output = complete(&engine, "The capital of France is", &params);
    assert_eq!(output.outputs[0].text, " Paris");
    assert_eq!(output.outputs[0].finish_reason, Some(FinishReason::Stop));
    assert_eq!(
        output.outputs[0].stop_reason,
        Some(StopReason::Text(". M".into()))
    );
}

#[test]
fn several_samples_have_their_own_seeds_and_keep_their_order() {
    let engine = engine(|_| {});
    let params = SamplingParams {
        n: 4,
        temperature: 1.5,
        seed: Some(7),
        ..greedy(12)
    };
    let output = complete(&engine, "Hello, my name is", &params);
    let indices: Vec<usize> = output.outputs.iter().map(|sample| sample.index).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    // Sample i draws as a request with seed + i would.
    let alone = SamplingParams {
        n: 1,
        seed: Some(9),
        ..params.clone()
    };
    let third = complete(&engine, "Hello, my name is", &alone);
    assert_eq!(output.outputs[2].token_ids, third.outputs[0].token_ids);
    assert_ne!(output.outputs[0].token_ids, output.outputs[1].token_ids);
}

#[test]
fn logprobs_tell_the_sampled_token_first_and_prompts_start_with_none() {
    let engine = engine(|_| {});
    let params = SamplingParams {
        logprobs: Some(2),
        prompt_logprobs: Some(1),
        ..greedy(4)
    };
    let output = complete(&engine, "The capital of France is", &params);
    let sample = &output.outputs[0];
    let logprobs = sample.logprobs.as_ref().unwrap();
    assert_eq!(logprobs.len(), 4);
    for (position, id) in logprobs.iter().zip(&sample.token_ids) {
        // Greedy: the sampled token is the likeliest, so two entries are enough.
        assert_eq!(
            (position.len(), position[0].token_id, position[0].rank),
            (2, *id, 1)
        );
        assert!(position[0].logprob >= position[1].logprob);
    }
    let sum: f64 = logprobs
        .iter()
        .map(|position| f64::from(position[0].logprob))
        .sum();
    assert_eq!(sample.cumulative_logprob, Some(sum));
    let prompt = output.prompt_logprobs.as_ref().unwrap();
    assert_eq!(prompt.len(), output.prompt_token_ids.len());
    assert!(prompt[0].is_none());
    for (position, id) in prompt.iter().zip(output.prompt_token_ids.iter()).skip(1) {
        assert_eq!(position.as_ref().unwrap()[0].token_id, *id);
    }
}

#[test]
fn a_dropped_stream_gives_its_blocks_back() {
    let engine = engine(|_| {});
    let params = SamplingParams {
        ignore_eos: true,
        output_kind: OutputKind::Delta,
        ..greedy(900)
    };
    let mut stream = submit(&engine, "Hello, my name is", &params);
    block_on(stream.next()).unwrap().unwrap();
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(10);
    while engine.statistics().num_requests_running.get() > 0.0 {
        assert!(
            Instant::now() < deadline,
            "the dropped request is still running"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(engine.statistics().kv_cache_usage.get(), 0.0);
    assert_eq!(
        engine
            .statistics()
            .finished_requests
            .of(FinishReason::Abort)
            .get(),
        1
    );
}

#[test]
fn refusals_name_the_field_and_leave_the_engine_running() {
    let engine = engine(|config| config.max_model_len = Some(64));
    let check = |ids: Vec<u32>, params: SamplingParams, part: &str| {
        let error = engine
            .generate(GenerationRequest::new("r", ids, params))
            .err()
            .unwrap();
        assert!(matches!(error, Error::InvalidRequest { .. }));
        assert!(error.to_string().contains(part), "{error}");
    };
    check(vec![], greedy(1), "cannot be empty");
    check(
        vec![2; 65],
        greedy(1),
        "longer than the maximum model length of 64",
    );
    check(
        vec![2; 64],
        greedy(1),
        "plus the number of requested output tokens",
    );
    check(
        vec![999_999],
        greedy(1),
        "Token id 999999 is out of vocabulary",
    );
    check(
        vec![2],
        SamplingParams {
            top_p: 0.0,
            ..greedy(1)
        },
        "top_p must be in (0, 1]",
    );
    check(
        vec![2],
        SamplingParams {
            logprobs: Some(21),
            ..greedy(1)
        },
        "greater than max allowed: 20",
    );
    let output = complete(&engine, "The capital of France is", &greedy(2));
    assert_eq!(output.outputs[0].text, " Paris.");
}

#[test]
fn generation_ends_at_the_context_length() {
    let engine = engine(|config| config.max_model_len = Some(20));
    let params = SamplingParams {
        ignore_eos: true,
        ..greedy(500)
    };
    let output = complete(&engine, "Hello, my name is", &params);
    assert_eq!(
        output.prompt_token_ids.len() + output.outputs[0].token_ids.len(),
        20
    );
    assert_eq!(output.outputs[0].finish_reason, Some(FinishReason::Length));
}

#[test]
fn shutdown_ends_running_requests_with_abort() {
    let engine = engine(|_| {});
    let params = SamplingParams {
        ignore_eos: true,
        ..greedy(900)
    };
    let stream = submit(&engine, "Hello, my name is", &params);
    engine.shutdown();
    assert!(!engine.is_alive());
    let output = last(stream);
    assert_eq!(output.outputs[0].finish_reason, Some(FinishReason::Abort));
    let refused = engine.generate(GenerationRequest::new("r", vec![2], greedy(1)));
    assert!(matches!(refused, Err(Error::Dead(_))));
}

#[test]
fn a_missing_model_says_what_to_do() {
    let error = Llm::new("no/such/folder/here").err().unwrap().to_string();
    assert!(error.contains("no/such/folder/here"), "{error}");
}

#[test]
fn beam_search_finds_at_least_the_greedy_sequence() {
    let llm = Llm::with_config(&{
        let mut config = EngineConfig::new("demo");
        config.dtype = "float32".to_owned();
        config
    })
    .unwrap();
    let prompt = "The capital of France is";
    let params = SamplingParams {
        logprobs: Some(0),
        ..greedy(4)
    };
    let greedy = &llm.generate(&[prompt], &params).unwrap()[0].outputs[0];
    let best = &llm
        .beam_search(&[prompt], &BeamSearchParams::new(4, 4))
        .unwrap()[0]
        .sequences;
    assert_eq!(best.len(), 4);
    assert!(
        best[0].text.contains("The capital of France is Paris"),
        "{best:?}"
    );
    assert!(best[0].cumulative_logprob >= greedy.cumulative_logprob.unwrap() - 1e-6);
    let distinct: HashSet<_> = best.iter().map(|sequence| &sequence.token_ids).collect();
    assert_eq!(distinct.len(), best.len());
}

#[test]
fn a_recording_replays_without_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steps.jsonl");
    let recording = engine(|config| config.record_steps = Some(path.clone()));
    let streams: Vec<_> = crate::support::prompts()
        .iter()
        .map(|p| submit(&recording, p, &greedy(8)))
        .collect();
    streams.into_iter().for_each(|stream| drop(last(stream)));
    drop(recording);
    let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
    let replay = vllm_scheduler::record::replay(file).unwrap();
    assert_eq!(replay.difference, None);
    assert!(replay.num_events > 20, "{replay:?}");
}

#[test]
fn a_constrained_output_follows_its_constraint_beside_free_ones() {
    let engine = engine(|_| {});
    let constrain = |structured: StructuredOutputs| SamplingParams {
        structured_outputs: Some(structured),
        ..greedy(60)
    };
    let choices = vec!["Oslo".to_owned(), "Rome".to_owned()];
    let choice = constrain(StructuredOutputs {
        choice: Some(choices),
        ..Default::default()
    });
    let regex = constrain(StructuredOutputs {
        regex: Some("[0-9]{3}-[0-9]{2}".to_owned()),
        ..Default::default()
    });
    let schema = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":8},
        "age":{"type":"integer","maximum":99}},"required":["name","age"],
        "additionalProperties":false}"#;
    let json = constrain(StructuredOutputs {
        json: Some(schema.into()),
        // A small model would otherwise go on with blank lines.
        disable_any_whitespace: true,
        ..Default::default()
    });
    let streams = [
        submit(&engine, "The capital of Italy is", &choice),
        submit(&engine, "Call me:", &regex),
        submit(&engine, "Give me JSON for Bob.", &json),
        submit(&engine, "The capital of France is", &greedy(3)),
    ];
    let outputs = streams.map(|stream| last(stream).outputs.remove(0));
    let [choice, regex, json, free] = outputs;
    assert!(
        ["Oslo", "Rome"].contains(&choice.text.as_str()),
        "{choice:?}"
    );
    let digits: Vec<&str> = regex.text.split('-').collect();
    assert!(
        matches!(digits[..], [a, b] if a.len() == 3 && b.len() == 2),
        "{regex:?}"
    );
    let value: serde_json::Value = serde_json::from_str(&json.text).unwrap();
    assert!(
        value["name"].is_string() && value["age"].is_i64(),
        "{value}"
    );
    assert!(free.text.starts_with(" Paris"));
    for output in [choice, regex, json] {
        assert_eq!(output.finish_reason, Some(FinishReason::Stop));
    }

    let bad = constrain(StructuredOutputs {
        regex: Some("[".into()),
        ..Default::default()
    });
    let refused = engine
        .generate(GenerationRequest::new("r", vec![2], bad))
        .err()
        .unwrap();
    assert!(matches!(refused, Error::InvalidRequest { .. }), "{refused}");
}
