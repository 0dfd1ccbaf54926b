//! Sums of products of a few rows with vectors from the cache: the innermost loops.

use half::{bf16, f16};

use crate::cpu::simd::{Simd, Stored};

/// How rows, queries or weights of keys, meet the cache. A step takes [`Product::STEP`] elements of a
/// row, and as many of each lane from the cache.
pub(super) trait Product<S: Simd> {
    /// An element of a row.
    type Row: Copy;
    /// An element of the cache.
    type Cached: Copy;
    const STEP: usize;
    type Left: Copy;
    type Right: Copy;

    /// A step's elements of a row, in all lanes.
    ///
    /// # Safety
    /// The processor has the instructions of `S`, here and below, and the elements are readable.
    unsafe fn left(row: *const Self::Row) -> Self::Left;

    /// A step's elements of the cache.
    ///
    /// # Safety
    /// As above.
    unsafe fn right(cached: *const Self::Cached) -> Self::Right;

    /// `sum` and the products.
    ///
    /// # Safety
    /// As above.
    unsafe fn mul_add(left: Self::Left, right: Self::Right, sum: S::Vector) -> S::Vector;

    /// Stores a vector into a row.
    ///
    /// # Safety
    /// As above, with room for a vector.
    unsafe fn store(vector: S::Vector, row: *mut Self::Row);
}

/// float32 and float16, multiplied in float32.
pub(super) struct Single<E>(std::marker::PhantomData<E>);

/// The cache elements of [`Single`].
pub(super) trait SingleElement: Stored {}
impl SingleElement for f32 {}
impl SingleElement for f16 {}

impl<S: Simd, E: SingleElement> Product<S> for Single<E> {
    type Row = f32;
    type Cached = E;
    const STEP: usize = 1;
    type Left = S::Vector;
    type Right = S::Vector;

    #[inline(always)]
    unsafe fn left(row: *const f32) -> S::Vector {
        // SAFETY: the caller's promise, here and below.
        unsafe { S::splat(*row) }
    }

    #[inline(always)]
    unsafe fn right(cached: *const E) -> S::Vector {
        // SAFETY: as above.
        unsafe { E::load::<S>(cached) }
    }

    #[inline(always)]
    unsafe fn mul_add(left: S::Vector, right: S::Vector, sum: S::Vector) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::mul_add(left, right, sum) }
    }

    #[inline(always)]
    unsafe fn store(vector: S::Vector, row: *mut f32) {
        // SAFETY: as above.
        unsafe { S::store(vector, row) }
    }
}

/// Pairs of bfloat16, multiplied in float32 where the processor has nothing better.
pub(super) struct WidePairs;

impl<S: Simd> Product<S> for WidePairs {
    type Row = f32;
    type Cached = bf16;
    const STEP: usize = 2;
    type Left = [S::Vector; 2];
    type Right = [S::Vector; 2];

    #[inline(always)]
    unsafe fn left(row: *const f32) -> [S::Vector; 2] {
        // SAFETY: the caller's promise, here and below.
        unsafe { [S::splat(*row), S::splat(*row.add(1))] }
    }

    #[inline(always)]
    unsafe fn right(cached: *const bf16) -> [S::Vector; 2] {
        // SAFETY: as above.
        unsafe { S::load_bf16_pairs(cached).into() }
    }

    #[inline(always)]
    unsafe fn mul_add(left: [S::Vector; 2], right: [S::Vector; 2], sum: S::Vector) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::mul_add(left[1], right[1], S::mul_add(left[0], right[0], sum)) }
    }

    #[inline(always)]
    unsafe fn store(vector: S::Vector, row: *mut f32) {
        // SAFETY: as above.
        unsafe { S::store(vector, row) }
    }
}

/// Rows of one kind that lie `stride` elements apart.
pub(super) struct Rows<T> {
    pub(super) first: *mut T,
    pub(super) stride: usize,
}

impl<T> Clone for Rows<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rows<T> {}

impl<T> Rows<T> {
    /// # Safety
    /// There is such a row.
    #[inline(always)]
    pub(super) unsafe fn row(self, index: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.first.add(index * self.stride) }
    }
}

/// Adds `steps` steps of `R` rows and `N` vectors to `sums`, one after the other: each sum depends on
/// its own row and lane alone.
///
/// # Safety
/// The processor has the instructions of `S`; rows and vectors have so many steps, those of a vector
/// `stride` elements apart.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    sums: &mut [[S::Vector; N]; R],
    rows: [*const P::Row; R],
    vectors: [*const P::Cached; N],
    stride: usize,
    steps: usize,
) {
    for step in 0..steps {
        // SAFETY: the caller's promise.
        unsafe {
            let mut right = [P::right(vectors[0].add(step * stride)); N];
            for (right, vector) in right.iter_mut().zip(vectors).skip(1) {
                *right = P::right(vector.add(step * stride));
            }
            for (row, sums) in rows.iter().zip(&mut *sums) {
                let left = P::left(row.add(step * P::STEP));
                for (right, sum) in right.iter().zip(sums) {
                    *sum = P::mul_add(left, *right, *sum);
                }
            }
        }
    }
}
