//! Recorded answers of the Python server: built from the same output, ours must have the same
//! members in the same order, nulls included.

use serde_json::Value;
use vllm_openai::tools::tool_parser;
use vllm_openai::{
    ChatCompletionRequest, ChatCompletionResponse, ChatResult, CompletionRequest,
    CompletionResponse, OutputParsers, PromptResult, ResponseContext, decode, parse_body,
};
use vllm_sampling::{CompletionOutput, DecodedLogprob, FinishReason, PositionLogprobs, StopReason};

fn context_of(answer: &Value) -> ResponseContext {
    let text = |name: &str| answer[name].as_str().expect("heads are text").to_owned();
    ResponseContext {
        id: text("id"),
        created: answer["created"].as_u64().expect("answers have a time"),
        model: text("model"),
        system_fingerprint: Some(text("system_fingerprint")),
        ..ResponseContext::default()
    }
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    let ids = value.as_array()?.iter();
    Some(
        ids.map(|id| id.as_u64().expect("ids are numbers") as u32)
            .collect(),
    )
}

fn entry(token: &str, logprob: &Value) -> DecodedLogprob {
    DecodedLogprob {
        token_id: token
            .strip_prefix("token_id:")
            .map_or(0, |id| id.parse().expect("an id")),
        logprob: logprob.as_f64().expect("logprobs are numbers") as f32,
        rank: 1,
        decoded_token: token.to_owned(),
    }
}

fn logprobs(recorded: &Value) -> Option<Vec<PositionLogprobs>> {
    if let Some(content) = recorded["content"].as_array() {
        let token = |token: &Value| entry(token["token"].as_str().unwrap_or(""), &token["logprob"]);
        let position = |chosen: &Value| {
            let tops = chosen["top_logprobs"].as_array().expect("tops are a list");
            let others = tops.iter().skip(1).map(token);
            std::iter::once(token(chosen)).chain(others).collect()
        };
        return Some(content.iter().map(position).collect());
    }
    let tops = recorded["top_logprobs"].as_array()?;
    let position = |top: &Value| {
        let members = top.as_object().expect("tables are objects");
        members
            .iter()
            .map(|(token, logprob)| entry(token, logprob))
            .collect()
    };
    Some(tops.iter().map(position).collect())
}

fn prompt_logprobs(recorded: &Value) -> Option<Vec<Option<PositionLogprobs>>> {
    let position = |position: &Value| {
        let members = position.as_object()?.iter();
        let entries = members.map(|(id, details)| DecodedLogprob {
            token_id: id.parse().expect("keys are ids"),
            rank: details["rank"].as_u64().expect("ranks are numbers") as u32,
            ..entry(
                details["decoded_token"].as_str().unwrap_or(""),
                &details["logprob"],
            )
        });
        Some(entries.collect())
    };
    Some(recorded.as_array()?.iter().map(position).collect())
}

/// The engine's output behind a recorded choice, with `tokens` tokens.
fn output_of(choice: &Value, text: String, tokens: usize) -> CompletionOutput {
    CompletionOutput {
        text,
        token_ids: ids(&choice["token_ids"]).unwrap_or_else(|| vec![7; tokens]),
        logprobs: logprobs(&choice["logprobs"]),
        finish_reason: match choice["finish_reason"].as_str() {
            Some("length") => Some(FinishReason::Length),
            _ => Some(FinishReason::Stop),
        },
        stop_reason: match &choice["stop_reason"] {
            Value::Number(id) => id.as_u64().map(|id| StopReason::TokenId(id as u32)),
            Value::String(text) => Some(StopReason::Text(text.clone())),
            _ => None,
        },
        ..CompletionOutput::default()
    }
}

fn split(total: &Value, parts: usize, part: usize) -> usize {
    let total = total.as_u64().expect("counts are numbers") as usize;
    total / parts + usize::from(part < total % parts)
}

fn completion_answer(body: &[u8], answer: &Value) -> String {
    let members = parse_body(Some("application/json"), body).expect("recorded bodies");
    let request = CompletionRequest::from_body(&members).expect("recorded requests");
    let choices = answer["choices"].as_array().expect("choices are a list");
    let usage = &answer["usage"];
    let prompt = answer["choices"][0]["text"].as_str().unwrap_or_default();
    let prompt = if request.echo {
        "San Francisco is a"
    } else {
        &prompt[..0]
    };
    let outputs: Vec<Vec<CompletionOutput>> = (0..choices.len())
        .map(|index| {
            let text = choices[index]["text"].as_str().expect("choices have text");
            let text = text.strip_prefix(prompt).unwrap_or(text).to_owned();
            let tokens = split(&usage["completion_tokens"], choices.len(), index);
            vec![output_of(&choices[index], text, tokens)]
        })
        .collect();
    let prompt_ids: Vec<Vec<u32>> = (0..choices.len())
        .map(|index| {
            ids(&choices[index]["prompt_token_ids"])
                .unwrap_or_else(|| vec![3; split(&usage["prompt_tokens"], choices.len(), index)])
        })
        .collect();
    let known: Vec<_> = choices
        .iter()
        .map(|choice| prompt_logprobs(&choice["prompt_logprobs"]))
        .collect();
    let results: Vec<PromptResult<'_>> = (0..choices.len())
        .map(|index| PromptResult {
            prompt_text: Some(prompt),
            prompt_token_ids: &prompt_ids[index],
            first_prompt_token: "</s>",
            prompt_logprobs: known[index].as_deref(),
            outputs: &outputs[index],
            num_cached_tokens: 0,
        })
        .collect();
    let built = CompletionResponse::new(&request, &context_of(answer), &results);
    serde_json::to_string(&built.expect("no output failed")).expect("answers serialize")
}

fn chat_answer(body: &[u8], answer: &Value) -> String {
    let members = parse_body(Some("application/json"), body).expect("recorded bodies");
    let request = ChatCompletionRequest::from_body(&members).expect("recorded requests");
    let parser = tool_parser("hermes").expect("hermes is known");
    let usage = &answer["usage"];
    let choice = &answer["choices"][0];
    let message = &choice["message"];
    let text = match message["tool_calls"][0]["function"].as_object() {
        None => message["content"]
            .as_str()
            .expect("messages have text")
            .to_owned(),
        Some(function) => {
            let arguments = function["arguments"].as_str().expect("arguments are text");
            let name = &function["name"];
            format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>")
        }
    };
    let outputs = [output_of(
        choice,
        text,
        split(&usage["completion_tokens"], 1, 0),
    )];
    let prompt_token_ids = ids(&answer["prompt_token_ids"])
        .unwrap_or_else(|| vec![3; split(&usage["prompt_tokens"], 1, 0)]);
    let result = ChatResult {
        prompt_text: None,
        prompt_token_ids: &prompt_token_ids,
        prompt_logprobs: None,
        echo_text: None,
        outputs: &outputs,
        num_cached_tokens: 0,
    };
    let context = context_of(answer);
    let built = ChatCompletionResponse::new(
        &request,
        &context,
        &result,
        &OutputParsers::of_tools(parser),
    );
    serde_json::to_string(&built.expect("no output failed")).expect("answers serialize")
}

/// Ids of tool calls are new each time.
fn without_tool_ids(answer: &str) -> String {
    const MARK: &str = "chatcmpl-tool-";
    match answer.find(MARK) {
        Some(start) => format!(
            "{}ID{}",
            &answer[..start],
            &answer[start + MARK.len() + 16..]
        ),
        None => answer.to_owned(),
    }
}

#[test]
fn recorded_answers_are_repeated() {
    let mut count = 0;
    for line in include_str!("data/answers.jsonl").lines() {
        // Unlike serde_json's default, this parser reads every float exactly.
        let case = decode::json::parse(line.as_bytes())
            .expect("fixtures are JSON")
            .to_json();
        let body = case["body"].as_str().expect("bodies are text").as_bytes();
        let answer = &case["answer"];
        let built = match case["path"].as_str() {
            Some("/v1/completions") => completion_answer(body, answer),
            _ => chat_answer(body, answer),
        };
        let (built, recorded) = (
            without_tool_ids(&built),
            without_tool_ids(&answer.to_string()),
        );
        assert_eq!(built, recorded, "{}", case["name"]);
        count += 1;
    }
    assert!(count > 10);
}
