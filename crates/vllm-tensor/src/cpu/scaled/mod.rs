//! Weights kept as floating-point codes of 8 or 4 bits with scales.
//!
//! A task widens the panels that it multiplies into its core's cache, to bfloat16 where the processor
//! multiplies that and to float32 elsewhere, and hands them to the kernels for plain weights: memory is
//! read at the narrow width, and the sums are those of a plain weight of the same numbers.

mod panels;
mod widen;

pub use panels::ScaledForm;
pub(crate) use panels::ScaledPanels;

#[cfg(test)]
mod tests;
