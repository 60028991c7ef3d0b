//! Products of panels, a register tile at a time.

use std::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512, _MM_HINT_T0, _mm_prefetch};

use super::Into;
use super::panels::Panels;
use super::view::ViewMut;
use crate::vector::{Eight, Instructions, Vector};

/// Where results go: C's memory, which several threads write different elements of.
#[derive(Clone, Copy)]
pub(crate) struct Destination<'a> {
    first: *mut f32,
    stride: usize,
    memory: PhantomData<&'a mut [f32]>,
}

// SAFETY: a pointer to f32 numbers; `Kernel::add`, which alone writes through it, has its
// callers promise that no two of them write the same numbers.
unsafe impl Send for Destination<'_> {}
// SAFETY: as above.
unsafe impl Sync for Destination<'_> {}

impl<'a> Destination<'a> {
    pub(crate) fn new(c: &'a mut ViewMut<'_>) -> Self {
        let (numbers, stride) = c.parts();
        Self { first: numbers.as_mut_ptr(), stride, memory: PhantomData }
    }

    /// The part that begins with an element.
    pub(crate) fn at(self, row: usize, column: usize) -> Self {
        Self { first: self.first.wrapping_add(row * self.stride + column), ..self }
    }

    /// Has its first elements brought into the cache. Rows of a large matrix lie on pages
    /// of their own.
    #[inline(always)]
    fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has this; it reads nothing, wherever the pointer points to.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(self.first.cast());
        }
    }

    /// Overwrites its first element.
    ///
    /// # Safety
    /// The element is within C, and nobody else uses it meanwhile.
    pub(crate) unsafe fn set(self, value: f32) {
        // SAFETY: what the caller promised.
        unsafe { *self.first = value }
    }

    /// Overwrites its first elements.
    ///
    /// # Safety
    /// They are within one row of C, and nobody else uses them meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn set_all<const COUNT: usize>(self, values: [f32; COUNT]) {
        // SAFETY: what the caller promised; numbers need to be aligned as f32 only.
        unsafe { self.first.cast::<[f32; COUNT]>().write_unaligned(values) }
    }
}

/// One task: all products of some rows with some columns.
pub(crate) struct Tile<'a> {
    /// Rows of A, in panels of [`Kernel::ROWS`].
    pub(crate) rows: &'a Panels,
    /// Columns of B, in panels of [`Kernel::width`].
    pub(crate) columns: &'a Panels,
    /// The first column of these, with which a panel begins.
    pub(crate) first_column: usize,
    pub(crate) column_count: usize,
    pub(crate) into: Into,
    pub(crate) alpha: f32,
    /// Row and column of the task's first element, if what is below the diagonal may be
    /// left out.
    pub(crate) diagonal: Option<(usize, usize)>,
}

/// The register tile's code for an instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel(pub(crate) Instructions);

impl Kernel {
    /// Rows of a register tile.
    pub(crate) const ROWS: usize = ROWS;

    /// Columns of a register tile.
    pub(crate) fn width(self) -> usize {
        match self.0 {
            Instructions::Portable => VECTORS * Eight::LANES,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => VECTORS * __m256::LANES,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => VECTORS * __m512::LANES,
        }
    }

    /// Adds a tile's products to the destination, or puts them there.
    ///
    /// # Safety
    /// The destination has the tile's rows and columns, and nobody else uses these
    /// elements meanwhile.
    pub(crate) unsafe fn add(self, tile: &Tile<'_>, to: Destination<'_>) {
        // SAFETY: what the caller promised; the machine has the instructions, or there
        // were no such value.
        unsafe {
            match self.0 {
                Instructions::Portable => add::<Eight>(tile, to),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => add_avx2(tile, to),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => add_avx512(tile, to),
            }
        }
    }
}

/// Twelve sums of vectors, two vectors of B and one number of A fill sixteen registers,
/// and hide the time that a sum takes.
const ROWS: usize = 6;
const VECTORS: usize = 2;

/// The most numbers that a register tile has.
const LARGEST: usize = ROWS * VECTORS * 16;

type Sums<V> = [[V; VECTORS]; ROWS];

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_avx2(tile: &Tile<'_>, to: Destination<'_>) {
    // SAFETY: what the caller promised.
    unsafe { add::<__m256>(tile, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn add_avx512(tile: &Tile<'_>, to: Destination<'_>) {
    // SAFETY: what the caller promised.
    unsafe { add::<__m512>(tile, to) }
}

/// # Safety
/// As [`Kernel::add`].
#[inline(always)]
unsafe fn add<V: Vector>(tile: &Tile<'_>, to: Destination<'_>) {
    let width = VECTORS * V::LANES;
    for left in (0..tile.column_count).step_by(width) {
        let columns = tile.columns.starting_with(tile.first_column + left);
        let count = width.min(tile.column_count - left);
        for top in (0..tile.rows.count()).step_by(ROWS) {
            let is_below = |(row, column): (usize, usize)| column + left + count <= row + top;
            if tile.diagonal.is_some_and(is_below) {
                continue;
            }
            let rows = ROWS.min(tile.rows.count() - top);
            let to = to.at(top, left);
            (0..rows).for_each(|row| to.at(row, 0).prefetch());
            let sums = sums::<V>(tile.rows.starting_with(top), columns);
            // SAFETY: the destination has the tile's elements, `rows` by `count` from
            // here on among them.
            unsafe {
                if rows == ROWS && count == width {
                    store_all(&sums, tile, to);
                } else {
                    store_some(&sums, tile, to, rows, count);
                }
            }
        }
    }
}

#[inline(always)]
fn sums<V: Vector>(rows: &[f32], columns: &[f32]) -> Sums<V> {
    let mut sums = [[V::zero(); VECTORS]; ROWS];
    let columns = columns.chunks_exact(VECTORS * V::LANES);
    for (rows, columns) in rows.as_chunks::<ROWS>().0.iter().zip(columns) {
        let columns = [V::load(&columns[..V::LANES]), V::load(&columns[V::LANES..])];
        for (sums, row) in sums.iter_mut().zip(rows) {
            let row = V::splat(*row);
            sums[0] = sums[0].add_product(row, columns[0]);
            sums[1] = sums[1].add_product(row, columns[1]);
        }
    }
    sums
}

/// # Safety
/// The destination has a whole register tile's elements, and nobody else uses them.
#[inline(always)]
unsafe fn store_all<V: Vector>(sums: &Sums<V>, tile: &Tile<'_>, to: Destination<'_>) {
    let (alpha, one) = (V::splat(tile.alpha), V::splat(1.0));
    for (row, sums) in sums.iter().enumerate() {
        for (vector, sum) in sums.iter().enumerate() {
            let first = to.at(row, vector * V::LANES).first;
            // SAFETY: so many elements are the caller's.
            let elements = unsafe { std::slice::from_raw_parts_mut(first, V::LANES) };
            // Rounded before it is added, as `store_some` does.
            let scaled = V::zero().add_product(alpha, *sum);
            let result = match tile.into {
                Into::Set => scaled,
                Into::Add => V::load(elements).add_product(one, scaled),
            };
            result.store(elements);
        }
    }
}

/// # Safety
/// The destination has `rows` times `count` elements, and nobody else uses them.
#[inline(always)]
unsafe fn store_some<V: Vector>(
    sums: &Sums<V>,
    tile: &Tile<'_>,
    to: Destination<'_>,
    rows: usize,
    count: usize,
) {
    let mut numbers = [0.0; LARGEST];
    let width = VECTORS * V::LANES;
    for (sums, numbers) in sums.iter().zip(numbers.chunks_exact_mut(width)) {
        for (sum, numbers) in sums.iter().zip(numbers.chunks_exact_mut(V::LANES)) {
            sum.store(numbers);
        }
    }
    for (row, numbers) in numbers.chunks_exact(width).enumerate().take(rows) {
        // SAFETY: so many elements are the caller's.
        let elements = unsafe { std::slice::from_raw_parts_mut(to.at(row, 0).first, count) };
        for (element, sum) in elements.iter_mut().zip(numbers) {
            // The zero turns a product of -0 into 0, as the sum of a vector does.
            let scaled = 0.0 + tile.alpha * sum;
            *element = match tile.into {
                Into::Set => scaled,
                Into::Add => *element + scaled,
            };
        }
    }
}
