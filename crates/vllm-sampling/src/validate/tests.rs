use super::*;

type Change = fn(&mut SamplingParams);

fn refusal(result: Result<()>) -> (String, Option<(&'static str, String)>) {
    match result {
        Err(Error::InvalidParameter {
            message,
            parameter,
            value,
        }) => (message, parameter.zip(value)),
        other => panic!("expected an invalid parameter, got {other:?}"),
    }
}

/// Refused with this message, which names neither field nor value.
fn check(change: Change, expected: &str) {
    let mut params = SamplingParams::default();
    change(&mut params);
    assert_eq!(
        refusal(params.normalize_and_validate()),
        (expected.to_owned(), None)
    );
}

/// Refused with this message, field and value.
fn check_value(change: Change, expected: &str, parameter: &'static str, value: &str) {
    let mut params = SamplingParams::default();
    change(&mut params);
    let expected = (expected.to_owned(), Some((parameter, value.to_owned())));
    assert_eq!(refusal(params.normalize_and_validate()), expected);
}

fn check_accepted(change: Change) {
    let mut params = SamplingParams::default();
    change(&mut params);
    assert_eq!(params.normalize_and_validate(), Ok(()));
}

#[test]
fn counts_are_bounded() {
    check(|p| p.n = 0, "n must be at least 1, got 0.");
    check(|p| p.n = -1, "n must be at least 1, got -1.");
    check(
        |p| p.n = 16385,
        "n must be at most 16384, got 16385. To increase this limit, set the \
         VLLM_MAX_N_SEQUENCES environment variable.",
    );
    check_accepted(|p| p.n = 16384);
    let mut many = SamplingParams {
        n: 20_000,
        ..SamplingParams::default()
    };
    assert_eq!(many.normalize_and_validate_within(20_000), Ok(()));
    check_value(
        |p| p.max_tokens = Some(0),
        "max_tokens must be at least 1, got 0.",
        "max_tokens",
        "0",
    );
    check(
        |p| p.min_tokens = -1,
        "min_tokens must be greater than or equal to 0, got -1.",
    );
    check(
        |p| p.min_tokens = 17,
        "min_tokens must be less than or equal to max_tokens=16, got 17.",
    );
    check_accepted(|p| (p.min_tokens, p.max_tokens) = (17, None));
    check(
        |p| p.stream_interval = Some(0),
        "stream_interval must be at least 1, got 0.",
    );
    check_value(
        |p| p.logprobs = Some(-2),
        "logprobs must be non-negative or -1, got -2.",
        "logprobs",
        "-2",
    );
    check_value(
        |p| p.prompt_logprobs = Some(-3),
        "prompt_logprobs must be non-negative or -1, got -3.",
        "prompt_logprobs",
        "-3",
    );
    check_accepted(|p| (p.logprobs, p.prompt_logprobs) = (Some(-1), Some(0)));
}

#[test]
fn penalties_are_bounded() {
    check(
        |p| p.presence_penalty = 2.1,
        "presence_penalty must be in [-2, 2], got 2.1.",
    );
    check(
        |p| p.frequency_penalty = -3.0,
        "frequency_penalty must be in [-2, 2], got -3.0.",
    );
    check(
        |p| p.frequency_penalty = f64::NAN,
        "frequency_penalty must be in [-2, 2], got nan.",
    );
    check_accepted(|p| (p.presence_penalty, p.frequency_penalty) = (2.0, -2.0));
    check(
        |p| p.repetition_penalty = f64::INFINITY,
        "repetition_penalty must be a finite number, got inf.",
    );
    check(
        |p| p.repetition_penalty = 0.0,
        "repetition_penalty must be greater than zero, got 0.0.",
    );
}

#[test]
fn the_draw_is_bounded() {
    for (change, message, value) in [
        (
            (|p| p.temperature = f64::NAN) as Change,
            "temperature must be a finite number, got nan.",
            "nan",
        ),
        (
            |p| p.temperature = -0.1,
            "temperature must be non-negative, got -0.1.",
            "-0.1",
        ),
        (
            |p| p.temperature = 2.5,
            "temperature must be in [0, 2], got 2.5.",
            "2.5",
        ),
    ] {
        check_value(change, message, "temperature", value);
    }
    check_value(
        |p| p.top_p = 0.0,
        "top_p must be in (0, 1], got 0.0.",
        "top_p",
        "0.0",
    );
    check_value(
        |p| p.top_p = 1.1,
        "top_p must be in (0, 1], got 1.1.",
        "top_p",
        "1.1",
    );
    check_value(
        |p| p.top_p = f64::NAN,
        "top_p must be in (0, 1], got nan.",
        "top_p",
        "nan",
    );
    check(
        |p| p.top_k = -2,
        "top_k must be 0 (disable), or at least 1, got -2.",
    );
    check(|p| p.min_p = -0.1, "min_p must be in [0, 1], got -0.1.");
    check(|p| p.min_p = 1.5, "min_p must be in [0, 1], got 1.5.");
    check_accepted(|p| (p.temperature, p.top_k, p.min_p) = (2.0, -1, 1.0));
    check(
        |p| (p.temperature, p.n) = (0.0, 2),
        "n must be 1 when using greedy sampling, got 2.",
    );
    check(
        |p| p.thinking_token_budget = Some(-2),
        "`thinking_token_budget` must be a non-negative integer or -1 for unlimited.",
    );
}

#[test]
fn texts_are_checked() {
    check(
        |p| p.stop = vec!["a".into(), "".into()],
        "stop cannot contain an empty string.",
    );
    check(
        |p| (p.stop, p.detokenize) = (vec!["a".into()], false),
        "stop strings are only supported when detokenize is True. Set detokenize=True to use \
         stop.",
    );
    check(
        |p| p.bad_words = vec!["it's".into(), "".into()],
        "bad_words cannot contain an empty string. Got bad_words=[\"it's\", '']",
    );
}

#[test]
fn repetition_detection_is_checked() {
    let sizes = "max_pattern_size, min_pattern_size must be >=0, with min_pattern_size <= \
                 max_pattern_size. Set both to 0 to disable repetitive pattern detection.";
    let count = "min_count must be >= 2 to detect repetitive patterns in engine output. If \
                 you do not wish to detect repetitive patterns, set max_pattern_size to 0.";
    let check_sizes = |max_pattern_size, min_pattern_size, min_count, expected: Option<&str>| {
        let detection = RepetitionDetection {
            max_pattern_size,
            min_pattern_size,
            min_count,
        };
        let result = validate_repetition_detection(&detection);
        match expected {
            None => assert_eq!(result, Ok(())),
            Some(message) => assert_eq!(refusal(result).0, message),
        }
    };
    check_sizes(0, 0, 0, None);
    check_sizes(5, 1, 2, None);
    check_sizes(-1, 0, 2, Some(sizes));
    check_sizes(3, -1, 2, Some(sizes));
    check_sizes(3, 4, 2, Some(sizes));
    check_sizes(3, 1, 1, Some(count));
}

const LIMITS: ModelLimits = ModelLimits {
    vocab_size: 100,
    max_logprobs: 20,
};

fn check_model(change: Change, limits: ModelLimits, expected: Option<&str>) {
    let mut params = SamplingParams::default();
    change(&mut params);
    match (params.validate_for_model(&limits), expected) {
        (result, None) => assert_eq!(result, Ok(())),
        (result, Some(message)) => assert_eq!(refusal(result).0, message),
    }
}

#[test]
fn logprobs_are_bounded_by_the_operator() {
    let message = "Requested sample logprobs of 21, which is greater than max allowed: 20";
    check_model(|p| p.logprobs = Some(21), LIMITS, Some(message));
    let message = "Requested prompt logprobs of 100, which is greater than max allowed: 20";
    check_model(|p| p.prompt_logprobs = Some(-1), LIMITS, Some(message));
    check_model(|p| p.logprobs = Some(20), LIMITS, None);
    let unbounded = ModelLimits {
        max_logprobs: -1,
        ..LIMITS
    };
    check_model(|p| p.logprobs = Some(-1), unbounded, None);
    let message = "Requested sample logprobs of 101, which is greater than max allowed: 100";
    check_model(|p| p.logprobs = Some(101), unbounded, Some(message));
}

#[test]
fn token_ids_are_in_the_vocabulary() {
    let cases: [(Change, &str); 8] = [
        (
            |p| p.logprob_token_ids = Some(vec![0; 129]),
            "Requested logprob_token_ids of length 129, which is greater than max allowed: 128",
        ),
        (
            |p| p.logprob_token_ids = Some(vec![100, 1, 200]),
            "token_id(s) [100, 200] in logprob_token_ids contain out-of-vocab token ids. \
             Vocabulary size: 100",
        ),
        (
            |p| (p.logprobs, p.logprob_token_ids) = (Some(1), Some(vec![1, 2])),
            "When both logprobs and logprob_token_ids are set, logprobs must equal \
             len(logprob_token_ids). Got logprobs=1, len(logprob_token_ids)=2.",
        ),
        (
            |p| p.prompt_logprob_token_ids = Some(vec![100]),
            "token_id(s) [100] in prompt_logprob_token_ids contain out-of-vocab token ids. \
             Vocabulary size: 100",
        ),
        (
            |p| p.stop_token_ids = vec![99, 100],
            "token_id(s) [100] in stop_token_ids contain out-of-vocab token ids. \
             Vocabulary size: 100",
        ),
        (
            |p| p.logit_bias = vec![(100, 1.0)],
            "token_id(s) [100] in logit_bias contain out-of-vocab token ids. \
             Vocabulary size: 100",
        ),
        (
            |p| p.allowed_token_ids = Some(vec![]),
            "allowed_token_ids is not None and empty!",
        ),
        (
            |p| p.allowed_token_ids = Some(vec![1, 100]),
            "allowed_token_ids contains out-of-vocab token id!",
        ),
    ];
    for (change, message) in cases {
        check_model(change, LIMITS, Some(message));
    }
    check_model(
        |p| {
            (p.logprobs, p.logprob_token_ids) = (Some(2), Some(vec![1, 2]));
            (p.stop_token_ids, p.allowed_token_ids) = (vec![99], Some(vec![99]));
        },
        LIMITS,
        None,
    );
}

#[test]
fn bad_words_are_checked_as_tokens() {
    let check_words = |words: Vec<Vec<u32>>, expected: &str| {
        assert_eq!(refusal(validate_bad_words(&words, 100)).0, expected);
    };
    check_words(
        vec![vec![]],
        "bad_words entries must tokenize to at least one token.",
    );
    check_words(
        vec![vec![1]; 129],
        "Too many bad words after tokenization: 129. The max number is 128.",
    );
    check_words(
        vec![vec![1, 100], vec![101]],
        "The model vocabulary size is 100, but the following tokens were specified as bad: \
         [100, 101]. All token id values should be integers satisfying: 0 <= token_id < 100.",
    );
    assert_eq!(validate_bad_words(&vec![vec![99]; 128], 100), Ok(()));
}
