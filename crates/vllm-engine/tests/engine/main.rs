//! The engine on the demo model: one program, since each links the whole engine.

mod generation;
mod invariance;
mod published_opt;
mod support;
mod torch_file;
