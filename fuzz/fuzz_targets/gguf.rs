#![no_main]

#[path = "../../crates/vllm-models/tests/hostile/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drop(entry::gguf(bytes)));
