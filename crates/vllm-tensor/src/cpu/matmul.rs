//! Products of float32 rows with panels of any dtype, in float32 arithmetic.
//!
//! Each sum has one lane of a vector of its own and runs through its inputs from the front, so its
//! value depends on neither the rows nor the panels that are computed with it.

use half::{bf16, f16};

use super::isa::Kernel;
use super::panels::{PANEL, PanelElement};
use super::simd::Simd;

/// An element that can be multiplied without being converted as a whole.
pub(super) trait Factor: PanelElement {
    /// Adds the products of the group of inputs from `k` on to the sums of `R` rows and of the
    /// outputs in `V` vectors. The group has `inputs` inputs, at least one.
    ///
    /// # Safety
    /// The processor has the instructions of `S`; the rows have the inputs, and each of `weights`
    /// leads to the group's weights for the outputs of one vector.
    unsafe fn add_products<S: Simd, const R: usize, const V: usize>(
        sums: &mut [[S::Vector; V]; R],
        x: &[*const f32; R],
        k: usize,
        inputs: usize,
        weights: &[*const Self; V],
    );
}

/// For the elements whose groups are of one input.
macro_rules! factor_of_single_inputs {
    ($element:ty) => {
        impl Factor for $element {
            #[inline(always)]
            unsafe fn add_products<S: Simd, const R: usize, const V: usize>(
                sums: &mut [[S::Vector; V]; R],
                x: &[*const f32; R],
                k: usize,
                _inputs: usize,
                weights: &[*const Self; V],
            ) {
                use super::simd::Stored;
                for v in 0..V {
                    // SAFETY: forwarded to the caller.
                    unsafe {
                        let weights = Self::load::<S>(weights[v]);
                        for r in 0..R {
                            sums[r][v] = S::mul_add(S::splat(*x[r].add(k)), weights, sums[r][v]);
                        }
                    }
                }
            }
        }
    };
}

factor_of_single_inputs!(f32);
factor_of_single_inputs!(f16);

impl Factor for bf16 {
    #[inline(always)]
    unsafe fn add_products<S: Simd, const R: usize, const V: usize>(
        sums: &mut [[S::Vector; V]; R],
        x: &[*const f32; R],
        k: usize,
        inputs: usize,
        weights: &[*const Self; V],
    ) {
        for v in 0..V {
            // SAFETY: forwarded to the caller.
            unsafe {
                let (first, second) = S::load_bf16_pairs(weights[v]);
                for r in 0..R {
                    sums[r][v] = S::mul_add(S::splat(*x[r].add(k)), first, sums[r][v]);
                    if inputs == 2 {
                        sums[r][v] = S::mul_add(S::splat(*x[r].add(k + 1)), second, sums[r][v]);
                    }
                }
            }
        }
    }
}

/// Some panels of a product, for all rows.
#[derive(Clone, Copy)]
pub(super) struct PanelProduct<'a, E> {
    /// Rows of `in_features`.
    pub(super) x: &'a [f32],
    pub(super) in_features: usize,
    /// The first of the panels.
    pub(super) weights: *const E,
    /// Elements from one panel to the next.
    pub(super) panel_len: usize,
    pub(super) num_panels: usize,
    /// The first panel's sums of the first row.
    pub(super) y: *mut f32,
    /// Elements from one row of the result to the next.
    pub(super) y_stride: usize,
    /// Outputs that the panels really have; those behind them are not written.
    pub(super) outputs: usize,
}

impl<E: Factor> Kernel for PanelProduct<'_, E> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // As many sums as leave registers for the weights: there are 32 of 16 lanes or of Arm's 4,
        // and 16 of 8.
        // SAFETY: forwarded to the caller.
        unsafe {
            match S::LANES {
                16 => self.all_rows::<S, 6, 4, 1>(),
                8 => self.all_rows::<S, 4, 2, 2>(),
                _ => self.all_rows::<S, 4, 4, 4>(),
            }
        }
    }
}

impl<E: Factor> PanelProduct<'_, E> {
    /// Rows by `R` with `V` vectors at a time, or with `PV`, the vectors of one panel.
    ///
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn all_rows<S: Simd, const R: usize, const V: usize, const PV: usize>(&self) {
        let rows = self.x.len() / self.in_features;
        let mut row = 0;
        // SAFETY: the rows are within `x`.
        unsafe {
            while row + R <= rows {
                self.all_panels::<S, R, V, PV>(row);
                row += R;
            }
            while row < rows {
                self.all_panels::<S, 1, V, PV>(row);
                row += 1;
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`], with `row + R` rows in `x`.
    #[inline(always)]
    unsafe fn all_panels<S: Simd, const R: usize, const V: usize, const PV: usize>(
        &self,
        row: usize,
    ) {
        let panels = V / PV;
        let mut panel = 0;
        // SAFETY: the panels are those of this product.
        unsafe {
            while panel + panels <= self.num_panels {
                self.tile::<S, R, V>(row, panel);
                panel += panels;
            }
            while panel < self.num_panels {
                self.tile::<S, R, PV>(row, panel);
                panel += 1;
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`], with `row + R` rows in `x` and the panels of `V` vectors from `panel` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(&self, row: usize, panel: usize) {
        // SAFETY: all reads are within the rows and panels by the caller's promise; all writes within
        // the outputs of these rows.
        unsafe {
            let mut x = [self.x.as_ptr(); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = x.add((row + r) * self.in_features);
            }
            let mut weights = [self.weights; V];
            for (v, weights) in weights.iter_mut().enumerate() {
                let output = v * S::LANES;
                *weights = weights
                    .add((panel + output / PANEL) * self.panel_len + output % PANEL * E::GROUP);
            }
            let mut sums = [[S::zero(); V]; R];
            let whole = self.in_features - self.in_features % E::GROUP;
            let mut k = 0;
            while k < whole {
                E::add_products::<S, R, V>(&mut sums, &x, k, E::GROUP, &weights);
                k += E::GROUP;
                for weights in &mut weights {
                    *weights = weights.add(PANEL * E::GROUP);
                }
            }
            if k < self.in_features {
                E::add_products::<S, R, V>(&mut sums, &x, k, self.in_features - k, &weights);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sums) in sums.iter().enumerate() {
                    let output = panel * PANEL + v * S::LANES;
                    let y = self.y.add((row + r) * self.y_stride + output);
                    if output + S::LANES <= self.outputs {
                        S::store(*sums, y);
                    } else {
                        let mut lanes = [0f32; PANEL];
                        S::store(*sums, lanes.as_mut_ptr());
                        let outputs = self.outputs.saturating_sub(output);
                        y.copy_from_nonoverlapping(lanes.as_ptr(), outputs);
                    }
                }
            }
        }
    }
}
