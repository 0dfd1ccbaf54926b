//! One file for each family of models.

pub(crate) mod gemma;
pub(crate) mod gpt2;
pub(crate) mod gpt_neox;
pub(crate) mod granite;
pub(crate) mod llama;
pub(crate) mod mixtral;
pub(crate) mod olmo2;
pub(crate) mod opt;
pub(crate) mod phi3;
pub(crate) mod qwen;
pub(crate) mod qwen_moe;
pub(crate) mod smollm3;
pub(crate) mod stablelm;
