//! Fast LLM inference for Rust applications: the vLLM engine as a library.
