//! Developer chores: CI, fixtures, benchmarks, CUDA toolchain.
fn main() {}
