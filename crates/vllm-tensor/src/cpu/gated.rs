use candle_core::Tensor;

use super::attention::softmax::exp2;
use super::isa::{Isa, Kernel};
use super::pool;
use super::rows::{RowForm, RowTarget};
use super::simd::{MAX_LANES, Simd};
use super::storage::f32_slice;
use crate::{LinearInput, Result};

/// Gates that have a vector body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// `x · σ(x)`.
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
}

/// Outputs that one task computes.
const TASK_OUTPUTS: usize = 1024;

/// What a gate costs, in multiplications.
const WORK_PER_OUTPUT: usize = 16;

/// `f(gate) · up` for a contiguous `gate_up`, `[rows, 2 · size]`, whose rows hold the gate first, in the
/// form asked for.
pub(crate) fn gated(gate_up: &Tensor, gate: Gate, form: RowForm) -> Result<LinearInput> {
    let (rows, width) = gate_up.dims2()?;
    let size = width / 2;
    let (storage, layout) = gate_up.storage_and_layout();
    let input = f32_slice(&storage, layout)?;
    let isa = Isa::current()?;
    LinearInput::filled((rows, size), form, |output| {
        let tasks_of_row = size.div_ceil(TASK_OUTPUTS);
        let work = input.len() / 2 * WORK_PER_OUTPUT;
        pool::for_each(rows * tasks_of_row, work, |task| {
            let (row, first) = (task / tasks_of_row, task % tasks_of_row * TASK_OUTPUTS);
            let len = (size - first).min(TASK_OUTPUTS);
            let (gates, ups) = input[row * width..][..width].split_at(size);
            let gate_row = GateRow {
                gate,
                gates: &gates[first..][..len],
                ups: &ups[first..][..len],
                to: output.row(row),
                first,
            };
            // SAFETY: tasks write different outputs, each as many as there are.
            unsafe { isa.run(gate_row) }
        })
    })
}

/// `f(gate) · up` of numbers that lie side by side.
pub(super) struct GateRow<'a> {
    pub(super) gate: Gate,
    pub(super) gates: &'a [f32],
    pub(super) ups: &'a [f32],
    pub(super) to: RowTarget,
    /// Where in the row the result begins, a multiple of 32.
    pub(super) first: usize,
}

impl Kernel for GateRow<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let len = self.gates.len().min(self.ups.len());
        let whole = len - len % S::LANES;
        // SAFETY: all reads and writes are within `len`, or within arrays of the most lanes.
        unsafe {
            for first in (0..whole).step_by(S::LANES) {
                let gates = S::load_f32(self.gates.as_ptr().add(first));
                let ups = S::load_f32(self.ups.as_ptr().add(first));
                let result = self.gate.apply::<S>(gates, ups);
                self.to.store::<S>(result, self.first + first);
            }
            if whole < len {
                let mut gates = [0f32; MAX_LANES];
                let mut ups = [0f32; MAX_LANES];
                gates[..len - whole].copy_from_slice(&self.gates[whole..len]);
                ups[..len - whole].copy_from_slice(&self.ups[whole..len]);
                let result = self
                    .gate
                    .apply::<S>(S::load_f32(gates.as_ptr()), S::load_f32(ups.as_ptr()));
                S::store(result, gates.as_mut_ptr());
                for (index, result) in gates[..len - whole].iter().enumerate() {
                    self.to.write(*result, self.first + whole + index);
                }
            }
        }
    }
}

impl Gate {
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, gates: S::Vector, ups: S::Vector) -> S::Vector {
        const MINUS_LOG2_E: f32 = -std::f32::consts::LOG2_E;
        const SQRT_2_OVER_PI: f32 =
            std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
        // SAFETY: the caller's promise.
        unsafe {
            // Both are x · σ(y): `1 + tanh(z)` is `2 σ(2z)`.
            let exponent = match self {
                Self::Silu => S::mul(gates, S::splat(MINUS_LOG2_E)),
                Self::GeluTanh => {
                    let square = S::mul(gates, gates);
                    let factor = 2.0 * SQRT_2_OVER_PI * MINUS_LOG2_E;
                    let cubic = S::mul_add(square, S::splat(0.044_715 * factor), S::splat(factor));
                    S::mul(gates, cubic)
                }
            };
            // Beyond this the gate is shut anyhow. Not a number stays so: the first operand is what
            // a comparison with it leaves.
            let power = exp2::<S>(S::min(S::splat(126.0), exponent));
            let gate = S::div(gates, S::add(S::splat(1.0), power));
            S::mul(gate, ups)
        }
    }
}
