//! Files that lie about themselves are refused with a sentence, and nothing else happens.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use vllm_gguf::{Checkpoint, Error, Header, split_names};

/// Puts files together by hand, lies included.
#[derive(Clone, Default)]
struct Forger {
    num_tensors: Option<u64>,
    num_entries: Option<u64>,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [string(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

fn tensor(name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((dimensions.len() as u32).to_le_bytes());
    bytes.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

impl Forger {
    fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries.push(entry(key, kind, value));
        self
    }

    fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.push(tensor(name, dimensions, kind, offset));
        self
    }

    fn file(&self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(
            self.num_tensors
                .unwrap_or(self.tensors.len() as u64)
                .to_le_bytes(),
        );
        file.extend(
            self.num_entries
                .unwrap_or(self.entries.len() as u64)
                .to_le_bytes(),
        );
        file.extend(self.entries.concat());
        file.extend(self.tensors.concat());
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

#[track_caller]
fn refused(file: &[u8], expected: &str) {
    let message = Header::parse(file).unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

fn with_data() -> Forger {
    Forger {
        data: vec![0; 128],
        ..Forger::default()
    }
}

#[test]
fn a_small_honest_file_is_read() {
    let file = with_data()
        .entry("a", 4, &7u32.to_le_bytes())
        .tensor("t", &[4, 8], 0, 0)
        .file();
    let header = Header::parse(&file).unwrap();
    assert_eq!(header.metadata.size("a"), Ok(Some(7)));
    assert_eq!(header.tensors[0].shape, [8, 4]);
    assert_eq!(header.tensors[0].bytes.len(), 128);
}

#[test]
fn other_files_and_versions() {
    refused(b"", "not a GGUF file");
    refused(b"GGU", "not a GGUF file");
    refused(b"PK\x03\x04 and so on", "not a GGUF file");
    refused(b"GGUF\x01\0\0\0", "version 1 is not supported");
    refused(b"GGUF\0\0\0\x03", "is not supported");
}

#[test]
fn counts_beyond_the_file() {
    let lie = |forger: Forger| forger.file();
    refused(
        &lie(Forger {
            num_tensors: Some(u64::MAX),
            ..Forger::default()
        }),
        "number of tensors",
    );
    refused(
        &lie(Forger {
            num_entries: Some(1 << 40),
            ..Forger::default()
        }),
        "number of metadata",
    );
    refused(
        &Forger::default()
            .entry(
                "a",
                9,
                &[&8u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat(),
            )
            .file(),
        "length of a metadata list",
    );
    refused(
        &Forger::default()
            .entry("a", 8, &u64::MAX.to_le_bytes())
            .file(),
        "metadata value is",
    );
}

#[test]
fn values_of_no_known_type() {
    refused(
        &Forger::default().entry("a", 13, &[0; 8]).file(),
        "unknown type 13",
    );
    let list = [&99u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    refused(
        &Forger::default().entry("a", 9, &list).file(),
        "unknown type 99",
    );
}

#[test]
fn lists_within_lists_end_somewhere() {
    let mut value = vec![0; 64];
    for _ in 0..1000 {
        value = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &value].concat();
    }
    refused(
        &Forger::default().entry("a", 9, &value).file(),
        "nested too deeply",
    );
}

#[test]
fn keys_and_names_that_come_twice() {
    let twice = Forger::default()
        .entry("a", 7, &[1])
        .entry("a", 7, &[0])
        .file();
    refused(&twice, "'a' is there twice");
    refused(
        &with_data()
            .tensor("t", &[4], 0, 0)
            .tensor("t", &[4], 0, 32)
            .file(),
        "'t' is there twice",
    );
}

#[test]
fn tensors_that_do_not_fit() {
    let check = |dimensions: &[u64], kind, offset, expected: &str| {
        refused(
            &with_data().tensor("t", dimensions, kind, offset).file(),
            expected,
        );
    };
    check(&[], 0, 0, "has 0 dimensions");
    check(&[1; 5], 0, 0, "has 5 dimensions");
    check(&[0, 4], 0, 0, "has a dimension of 0");
    check(&[u64::MAX, 4], 0, 0, "beyond all measure");
    check(&[1 << 62, 1 << 62], 0, 0, "beyond all measure");
    check(&[33], 0, 0, "goes beyond the file's end");
    check(&[4], 0, 128, "goes beyond the file's end");
    check(&[4], 0, u64::MAX - 31, "goes beyond the file's end");
    check(&[4], 0, 1, "is not aligned");
    check(&[33], 8, 0, "no multiple of the 32 of a Q8_0 block");
    check(&[128], 12, 0, "no multiple of the 256 of a Q4_K block");
}

#[test]
fn strange_alignments() {
    for alignment in [0u32, 3, 1 << 30] {
        let file = Forger::default()
            .entry("general.alignment", 4, &alignment.to_le_bytes())
            .file();
        refused(&file, "its alignment is");
    }
}

#[test]
fn types_that_are_not_read_are_named_where_they_are_needed() {
    let file = with_data()
        .entry("general.architecture", 8, &string("qwen3"))
        .tensor("blk.0.attn_q.weight", &[32, 2], 23, 0)
        .file();
    let checkpoint = Checkpoint::new(&[("a.gguf", &file)]).unwrap();
    let message = vllm_gguf::weights(&checkpoint).unwrap_err().to_string();
    assert!(
        message.contains("'blk.0.attn_q.weight' has GGML type IQ4_XS"),
        "{message}"
    );
    assert!(message.contains("supported: F32, F16"), "{message}");
}

#[test]
fn families_that_are_not_read_are_named() {
    let file = Forger::default()
        .entry("general.architecture", 8, &string("bert"))
        .file();
    let checkpoint = Checkpoint::new(&[("a.gguf", &file)]).unwrap();
    let message = vllm_gguf::config_json(&checkpoint).unwrap_err().to_string();
    assert!(
        message.contains("'bert' is not supported; supported: llama, qwen2,"),
        "{message}"
    );
}

fn part(number: u16, count: u16, name: &str) -> Vec<u8> {
    with_data()
        .entry("split.no", 2, &number.to_le_bytes())
        .entry("split.count", 2, &count.to_le_bytes())
        .tensor(name, &[4], 0, 0)
        .file()
}

#[test]
fn splits_that_do_not_belong_together() {
    let check = |files: &[Vec<u8>], expected: &str| {
        let files: Vec<(&str, &[u8])> = files.iter().map(|file| ("x", &file[..])).collect();
        let error = Checkpoint::new(&files).unwrap_err();
        assert!(matches!(error, Error::Split(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&[part(0, 2, "a")], "one of 2 files, but there are 1");
    check(
        &[part(0, 2, "a"), part(0, 2, "b")],
        "both say that they are part 0",
    );
    check(&[part(0, 2, "a"), part(2, 2, "b")], "part 2 of 2");
    check(&[part(0, 2, "a"), part(1, 2, "a")], "'a' is in both");
    check(&[part(0, 0, "a"), part(0, 0, "b")], "is one of 1 files");
    check(&[], "no files");

    let files = [part(1, 2, "b"), part(0, 2, "a")];
    let files: Vec<(&str, &[u8])> = files.iter().map(|file| ("x", &file[..])).collect();
    let joined = Checkpoint::new(&files).unwrap();
    assert_eq!(joined.tensor("b").unwrap().file, 0);
}

#[test]
fn names_of_splits() {
    let names = split_names("Qwen2.5-7B-00002-of-00003.gguf").unwrap();
    assert_eq!(names[0], "Qwen2.5-7B-00001-of-00003.gguf");
    assert_eq!(names.len(), 3);
    for whole in [
        "a.gguf",
        "a-1-of-2.gguf",
        "a-00003-of-00002.gguf",
        "a-00000-of-00002.gguf",
        "a-00001-of-99999.bin",
        "a-00001-of-99999.gguf",
    ] {
        assert_eq!(split_names(whole), None, "{whole}");
    }
}

fn everything_about(file: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::new(&[("a.gguf", file)]) {
        let _ = vllm_gguf::config_json(&checkpoint);
        let _ = vllm_gguf::generation_config_json(&checkpoint);
        let _ = vllm_gguf::tokenizer_json(&checkpoint);
        let _ = vllm_gguf::tokenizer_config_json(&checkpoint);
        for weight in vllm_gguf::weights(&checkpoint).unwrap_or_default() {
            assert!(weight.bytes.end <= file.len());
        }
    }
}

/// A file with something of everything, to be damaged.
fn honest() -> Vec<u8> {
    let list = |kind: u32, values: &[Vec<u8>]| {
        [
            &kind.to_le_bytes()[..],
            &(values.len() as u64).to_le_bytes(),
            &values.concat(),
        ]
        .concat()
    };
    let size = |size: u32| size.to_le_bytes();
    let tokens = ["<unk>", "<s>", "a", "b", "ab"].map(string);
    let scores = [0f32, 0.0, -1.0, -2.0, -3.0].map(|score| score.to_le_bytes().to_vec());
    with_data()
        .entry("general.architecture", 8, &string("llama"))
        .entry("llama.embedding_length", 4, &size(4))
        .entry("llama.block_count", 4, &size(1))
        .entry("llama.context_length", 4, &size(64))
        .entry("llama.attention.head_count", 4, &size(2))
        .entry(
            "llama.attention.layer_norm_rms_epsilon",
            6,
            &1e-5f32.to_le_bytes(),
        )
        .entry("tokenizer.ggml.model", 8, &string("llama"))
        .entry("tokenizer.ggml.tokens", 9, &list(8, &tokens))
        .entry("tokenizer.ggml.scores", 9, &list(6, &scores))
        .entry("tokenizer.ggml.bos_token_id", 4, &size(1))
        .tensor("token_embd.weight", &[4, 5], 0, 0)
        .tensor("blk.0.attn_q.weight", &[4, 4], 0, 32)
        .tensor("rope_freqs.weight", &[2], 0, 0)
        .file()
}

#[test]
fn the_file_that_is_damaged_below_is_sound() {
    let file = honest();
    let checkpoint = Checkpoint::new(&[("a.gguf", &file)]).unwrap();
    assert_eq!(vllm_gguf::weights(&checkpoint).unwrap().len(), 2);
    let tokenizer = vllm_gguf::tokenizer_json(&checkpoint).unwrap();
    assert_eq!(
        tokenizer["model"]["merges"],
        serde_json::json!([["a", "b"]])
    );
    assert_eq!(vllm_gguf::config_json(&checkpoint).unwrap()["head_dim"], 2);
}

proptest! {
    #[test]
    fn no_bytes_are_followed_beyond_the_file(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(bytes);
        everything_about(&file);
    }

    #[test]
    fn a_damaged_file_is_refused_or_read(
        damage in prop::collection::vec((0usize..1000, any::<u8>()), 1..6),
        length in 0usize..1000,
    ) {
        let mut file = honest();
        for (at, byte) in damage {
            let at = at % file.len();
            file[at] = byte;
        }
        everything_about(&file);
        file.truncate(length);
        everything_about(&file);
    }

    #[test]
    fn numbers_in_the_metadata_are_not_believed(
        key in prop::sample::select(vec![
            "embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length",
            "expert_count", "rope.dimension_count", "context_length", "block_count",
        ]),
        value in prop::sample::select(vec![0u64, 1, 3, u64::from(u32::MAX), 1 << 62, u64::MAX]),
    ) {
        let file = honest();
        let mut forger = with_data().entry("general.architecture", 8, &string("llama"));
        forger = forger.entry(&format!("llama.{key}"), 10, &value.to_le_bytes());
        let forged = forger.tensor("blk.0.attn_q.weight", &[4, 4], 0, 0).file();
        everything_about(&forged);
        everything_about(&file);
    }
}
