use serde_json::json;

use super::*;

/// Frequencies and magnitude of heads of 16 elements.
fn scaled(rope: Value, max_positions: usize, max_model_len: usize) -> Result<(Vec<f64>, f64)> {
    let spec = Spec {
        rope: &rope,
        theta: rope["rope_theta"].as_f64().unwrap_or(DEFAULT_THETA),
        dim: 16,
        max_positions: Some(max_positions as f64),
        max_model_len,
    };
    spec.scaled_frequencies()
}

#[track_caller]
fn check(rope: Value, max_model_len: usize, expected: [f64; 8], magnitude: f64) {
    let (frequencies, actual_magnitude) = scaled(rope, 4096, max_model_len).unwrap();
    for (actual, expected) in frequencies.iter().zip(expected) {
        assert!(
            (actual / expected - 1.0).abs() < 1e-6,
            "{frequencies:?} has {actual}, expected {expected}"
        );
    }
    assert!((actual_magnitude - magnitude).abs() < 1e-9);
}

// The numbers are those of transformers' ROPE_INIT_FUNCTIONS.

#[test]
fn linear() {
    check(
        json!({"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
        4096,
        [
            0.25,
            0.079056941,
            0.025,
            0.00790569466,
            0.0025,
            0.000790569466,
            0.00025,
            7.90569466e-05,
        ],
        1.0,
    );
}

#[test]
fn dynamic() {
    let plain = [
        1.0,
        0.316227764,
        0.1,
        0.0316227786,
        0.01,
        0.00316227786,
        0.001,
        0.000316227786,
    ];
    check(json!({"type": "dynamic", "factor": 4.0}), 4096, plain, 1.0);
    let stretched = [
        1.0,
        0.219212472,
        0.0480541028,
        0.0105340583,
        0.00230919686,
        0.000506204728,
        0.000110966386,
        2.43252125e-05,
    ];
    let trained_for_less =
        json!({"type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 1024});
    check(trained_for_less, 4096, stretched, 1.0);
    // The factor on theta that the stretch above is the root of.
    let by_alpha = json!({"type": "dynamic", "alpha": 13.0});
    check(by_alpha, 4096, stretched, 1.0);
}

#[test]
fn llama3() {
    let rope = json!({
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 1024,
    });
    let expected = [
        1.0,
        0.193922758,
        0.0376060307,
        0.00131256948,
        0.000176776681,
        3.42810235e-05,
        6.64786967e-06,
        1.28917316e-06,
    ];
    check(rope, 4096, expected, 1.0);
}

#[test]
fn yarn() {
    let rope =
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024});
    let expected = [
        1.0,
        0.316227764,
        0.0812500045,
        0.0197642371,
        0.004375,
        0.000790569466,
        0.00025,
        7.90569466e-05,
    ];
    check(rope, 4096, expected, 1.138629436111989);
    let rope = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024,
        "mscale": 0.7, "mscale_all_dim": 1.5, "truncate": false, "beta_fast": 16, "beta_slow": 2,
    });
    let expected = [
        1.0,
        0.316227764,
        0.1,
        0.0187018048,
        0.0025,
        0.000790569466,
        0.00025,
        7.90569466e-05,
    ];
    check(rope, 4096, expected, 0.9081881819561598);
}

#[test]
fn longrope_goes_by_the_longest_sequence_of_the_run() {
    let rope = json!({
        "rope_type": "longrope", "original_max_position_embeddings": 1024,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
        "long_factor": [2.0, 2.5, 3.0, 4.0, 8.0, 10.0, 12.0, 16.0],
    });
    let magnitude = 1.0954451150103321;
    let short = [
        1.0,
        0.287479758,
        0.0833333358,
        0.0243252143,
        0.00714285718,
        0.00210818532,
        0.000625,
        0.000186016332,
    ];
    check(rope.clone(), 1024, short, magnitude);
    let long = [
        0.5,
        0.126491114,
        0.0333333351,
        0.00790569466,
        0.00125,
        0.000316227786,
        8.33333324e-05,
        1.97642366e-05,
    ];
    check(rope, 1025, long, magnitude);
}

#[test]
fn what_cannot_be_is_refused() {
    let check = |rope: Value, expected: &str| {
        let message = scaled(rope, 4096, 4096).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(json!({"rope_type": "spiral"}), "'spiral' is not supported");
    check(json!({"rope_type": "linear"}), "'factor'");
    check(json!({"rope_type": "linear", "factor": 0}), "above 0");
    check(
        json!({"rope_type": "longrope", "short_factor": [1.0]}),
        "'short_factor' must list 8 numbers",
    );
    check(
        json!({"type": "yarn", "factor": 2, "original_max_position_embeddings": 0}),
        "above 1",
    );
}

#[test]
fn old_and_new_configs_say_the_same() {
    let check = |raw: Value, expected: Value| assert_eq!(parameters(&raw), expected);
    check(
        json!({"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 5.0}}),
        json!({"rope_type": "linear", "factor": 2, "rope_theta": 5.0}),
    );
    check(
        json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_theta": 5.0}),
        json!({"type": "linear", "factor": 2, "rope_theta": 5.0}),
    );
    check(
        json!({"rope_scaling": null, "rotary_emb_base": 5, "rotary_pct": 0.25}),
        json!({"rope_theta": 5, "partial_rotary_factor": 0.25}),
    );
    check(json!({}), json!({}));
}
