//! What a CPU can do and what the engine makes of it, one part per call.
//!
//! `cargo xtask bench cpu` runs this program beside other engines and prints the ratios; it must
//! never know them, or what a good figure would be. Results are lines on stdout:
//!
//! | call | lines |
//! |---|---|
//! | `machine` | `threads N`, `read_bytes_per_second X`, `f32_flops X`, `bf16_vector_flops X`, `bf16_tile_flops X`; what the processor lacks is left out |
//! | `checkpoint SHAPE FORM FOLDER` | none: writes a checkpoint with random weights in `bf16`, `gptq` or `awq` |
//! | `shape SHAPE` | what a step of the model reads and computes, see [`shapes`] |
//! | `run MODEL WORKLOAD...` | `ready SECONDS`, `workload NAME SECONDS`, `peak BYTES` |
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people who measure"
)]

mod checkpoint;
mod machine;
mod peak;
mod random;
mod run;
mod shapes;

use std::path::Path;

fn main() {
    // As our programs begin.
    vllm_tensor::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` adds a word of its own.
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let arguments: Vec<&str> = arguments.into_iter().filter(|a| *a != "--bench").collect();
    match arguments.as_slice() {
        ["machine"] => machine::measure(),
        ["checkpoint", shape, form, folder] => {
            let form = checkpoint::Form::named(form);
            checkpoint::write(shapes::named(shape), form, Path::new(folder));
        }
        ["shape", shape] => shapes::named(shape).describe(),
        ["run", model, workloads @ ..] => run::run(model, workloads),
        _ => println!("run this through `cargo xtask bench cpu`"),
    }
}
