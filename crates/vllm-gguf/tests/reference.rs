//! Blocks and headers against what the `gguf` package writes and reads: `fixtures/make_fixtures.py`
//! records it.
#![allow(clippy::unwrap_used)]

use vllm_gguf::{BlockType, Checkpoint, Header, TensorInfo};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!(
        "{}/tests/fixtures/{name}",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

fn numbers(info: &TensorInfo, file: &[u8]) -> Vec<f32> {
    let mut numbers = vec![0.0; info.shape.iter().product()];
    let block_type = info.block_type.clone().unwrap();
    block_type.dequantize(&file[info.bytes.clone()], &mut numbers);
    numbers
}

#[test]
fn every_block_type_holds_the_numbers_that_the_reference_reads() {
    let file = fixture("blocks.gguf");
    let header = Header::parse(&file).unwrap();
    let tensor = |name: String| {
        header
            .tensors
            .iter()
            .find(|info| info.name == name)
            .unwrap()
    };
    for block_type in BlockType::ALL {
        let packed = tensor(format!("blk.{}.ffn_up.weight", block_type.number()));
        assert_eq!(packed.block_type, Ok(block_type));
        assert_eq!(packed.shape, [2, 512]);
        let expected = numbers(
            tensor(format!("blk.{}.ffn_gate.weight", block_type.number())),
            &file,
        );
        assert_eq!(numbers(packed, &file), expected, "{}", block_type.name());
    }
}

#[test]
fn sentence_pieces_keep_their_template_and_special_tokens() {
    let file = fixture("pieces.gguf");
    let checkpoint = Checkpoint::new(&[("pieces.gguf", &file)]).unwrap();
    let config = vllm_gguf::tokenizer_config_json(&checkpoint).unwrap();
    assert_eq!(config["bos_token"], "<s>");
    assert_eq!(config["eos_token"], "</s>");
    assert_eq!(config["unk_token"], "<unk>");
    assert_eq!(config["chat_template"], "{{ messages[0].content }}");
    let generation = vllm_gguf::generation_config_json(&checkpoint).unwrap();
    assert_eq!(generation["eos_token_id"], serde_json::json!([2]));
}
