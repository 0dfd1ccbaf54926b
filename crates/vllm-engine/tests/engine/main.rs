//! The engine on the demo model: one program, since each links the whole engine.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod convert;
mod forms;
mod generation;
mod invariance;
mod published_opt;
mod quantization;
mod support;
mod torch_file;
