use super::simd::{MAX_LANES, Simd, Stored};

/// Dot products of `R` float32 rows with `O` stored rows, all of `len` elements.
///
/// Each product has one vector accumulator of its own and runs through its row from the front, so
/// its value depends on neither `R` nor `O`.
///
/// # Safety
/// The processor has the instructions of `S`, and every pointer leads to `len` readable elements.
#[inline(always)]
pub(super) unsafe fn dot_tile<S: Simd, E: Stored, const R: usize, const O: usize>(
    x: [*const f32; R],
    w: [*const E; O],
    len: usize,
) -> [[f32; O]; R] {
    // SAFETY: all reads are of `LANES` elements within `len`, or of padded copies of the rest.
    unsafe {
        let mut sums = [[S::zero(); O]; R];
        let whole = len - len % S::LANES;
        let mut k = 0;
        while k < whole {
            step::<S, E, R, O>(&mut sums, x, w, k);
            k += S::LANES;
        }
        if whole < len {
            let rest = len - whole;
            let mut x_rest = [[0f32; MAX_LANES]; R];
            let mut w_rest = [[E::ZERO; MAX_LANES]; O];
            let mut x_padded = x;
            let mut w_padded = w;
            for r in 0..R {
                x[r].add(whole)
                    .copy_to_nonoverlapping(x_rest[r].as_mut_ptr(), rest);
                x_padded[r] = x_rest[r].as_ptr();
            }
            for o in 0..O {
                w[o].add(whole)
                    .copy_to_nonoverlapping(w_rest[o].as_mut_ptr(), rest);
                w_padded[o] = w_rest[o].as_ptr();
            }
            step::<S, E, R, O>(&mut sums, x_padded, w_padded, 0);
        }
        let mut dots = [[0f32; O]; R];
        for r in 0..R {
            for o in 0..O {
                dots[r][o] = S::sum(sums[r][o]);
            }
        }
        dots
    }
}

/// Adds the products of one vector of each row, from element `k` on.
///
/// # Safety
/// As [`dot_tile`], with `LANES` readable elements from `k` on.
#[inline(always)]
unsafe fn step<S: Simd, E: Stored, const R: usize, const O: usize>(
    sums: &mut [[S::Vector; O]; R],
    x: [*const f32; R],
    w: [*const E; O],
    k: usize,
) {
    // SAFETY: forwarded to the caller.
    unsafe {
        let mut weights = [S::zero(); O];
        for o in 0..O {
            weights[o] = E::load::<S>(w[o].add(k));
        }
        for r in 0..R {
            let row = S::load_f32(x[r].add(k));
            for o in 0..O {
                sums[r][o] = S::mul_add(row, weights[o], sums[r][o]);
            }
        }
    }
}
