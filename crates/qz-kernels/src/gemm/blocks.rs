//! Products of panels, a register tile at a time.

use std::marker::PhantomData;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::Into;
use super::panels::Panels;
use super::view::ViewMut;
use crate::vector::{Instructions, Simd, Vector, for_instructions};

/// Where results go: a matrix C, of which each task takes its own block.
#[derive(Clone, Copy)]
pub(crate) struct Destination<'a> {
    first: *mut f32,
    rows: usize,
    columns: usize,
    /// How far rows are apart.
    stride: usize,
    memory: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is to numbers that are borrowed for `'a`. Nothing is read or written
// through it but by the blocks that `block` gives, whose callers promise that no two of them
// overlap.
unsafe impl Send for Destination<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for Destination<'_> {}

impl<'a> Destination<'a> {
    pub(crate) fn new(c: &'a mut ViewMut<'_>) -> Self {
        let (rows, columns) = (c.rows(), c.columns());
        let (numbers, stride) = c.parts();
        let size = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * stride + columns };
        assert!(size <= numbers.len(), "C's memory ends before C does");
        Self { first: numbers.as_mut_ptr(), rows, columns, stride, memory: PhantomData }
    }

    /// Some rows of some columns.
    ///
    /// # Safety
    /// As long as the block lives, no other block has one of its elements.
    ///
    /// # Panics
    /// If they are not within C.
    pub(crate) unsafe fn block(self, rows: Range<usize>, columns: Range<usize>) -> OwnBlock<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows of a block");
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns of a block");
        OwnBlock {
            // An empty block may begin behind C's memory: nothing is ever there.
            first: self.first.wrapping_add(rows.start * self.stride + columns.start),
            rows: rows.len(),
            columns: columns.len(),
            stride: self.stride,
            memory: PhantomData,
        }
    }
}

/// A block of C that one task has for itself.
pub(crate) struct OwnBlock<'a> {
    first: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    memory: PhantomData<&'a mut [f32]>,
}

impl OwnBlock<'_> {
    /// So many elements of a row, from `column` on.
    ///
    /// # Panics
    /// If they are not within the block.
    #[inline(always)]
    pub(crate) fn elements(&mut self, row: usize, column: usize, count: usize) -> &mut [f32] {
        let is_within = column <= self.columns && count <= self.columns - column;
        assert!(row < self.rows && is_within, "elements outside of a block");
        // SAFETY: the elements are within the block by the check above, the block is within C
        // by those of `Destination::block`, and C is within its slice by that of
        // `Destination::new`. No other block has them, as `block` was promised, and this one
        // is borrowed as long as the result.
        unsafe {
            let first = self.first.add(row * self.stride + column);
            std::slice::from_raw_parts_mut(first, count)
        }
    }

    /// Overwrites an element.
    ///
    /// # Panics
    /// If it is not within the block.
    #[inline(always)]
    pub(crate) fn set(&mut self, row: usize, column: usize, value: f32) {
        self.elements(row, column, 1)[0] = value;
    }

    /// Has elements from this one on brought into the cache. Rows of a large matrix lie on
    /// pages of their own.
    #[inline(always)]
    fn prefetch(&self, row: usize, column: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            let address = self.first.wrapping_add(row * self.stride + column);
            // SAFETY: every x86-64 has this instruction. It neither reads nor writes, so that
            // the address need not be valid.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (row, column);
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
        VECTORS * self.0.lanes()
    }

    /// Adds a tile's products to the task's block, or puts them there.
    ///
    /// # Panics
    /// If the block has fewer rows or columns than the tile.
    pub(crate) fn add(self, tile: &Tile<'_>, to: &mut OwnBlock<'_>) {
        add(self.0, tile, to);
    }
}

/// Twelve sums of vectors, two vectors of B and one number of A fill sixteen registers,
/// and hide the time that a sum takes.
const ROWS: usize = 6;
const VECTORS: usize = 2;

/// The most numbers that a register tile has.
const LARGEST: usize = ROWS * VECTORS * 16;

type Sums<S> = [[<S as Simd>::Floats; VECTORS]; ROWS];

for_instructions! {
    fn add(tile: &Tile<'_>, to: &mut OwnBlock<'_>) = add_tile;
}

#[inline(always)]
fn add_tile<S: Simd>(simd: S, tile: &Tile<'_>, to: &mut OwnBlock<'_>) {
    let width = VECTORS * S::LANES;
    for left in (0..tile.column_count).step_by(width) {
        let columns = tile.columns.starting_with(tile.first_column + left);
        let count = width.min(tile.column_count - left);
        for top in (0..tile.rows.count()).step_by(ROWS) {
            let is_below = |(row, column): (usize, usize)| column + left + count <= row + top;
            if tile.diagonal.is_some_and(is_below) {
                continue;
            }
            let rows = ROWS.min(tile.rows.count() - top);
            (0..rows).for_each(|row| to.prefetch(top + row, left));
            let sums = sums(simd, tile.rows.starting_with(top), columns);
            if rows == ROWS && count == width {
                store_all(simd, &sums, tile, to, (top, left));
            } else {
                store_some::<S>(&sums, tile, to, (top, left), (rows, count));
            }
        }
    }
}

#[inline(always)]
fn sums<S: Simd>(simd: S, rows: &[f32], columns: &[f32]) -> Sums<S> {
    let mut sums = [[simd.zero(); VECTORS]; ROWS];
    let columns = columns.chunks_exact(VECTORS * S::LANES);
    for (rows, columns) in rows.as_chunks::<ROWS>().0.iter().zip(columns) {
        let columns = [simd.load(&columns[..S::LANES]), simd.load(&columns[S::LANES..])];
        for (sums, row) in sums.iter_mut().zip(rows) {
            let row = simd.splat(*row);
            sums[0] = sums[0].add_product(row, columns[0]);
            sums[1] = sums[1].add_product(row, columns[1]);
        }
    }
    sums
}

/// Stores a whole register tile, which begins at `top` and `left` of the block.
#[inline(always)]
fn store_all<S: Simd>(
    simd: S,
    sums: &Sums<S>,
    tile: &Tile<'_>,
    to: &mut OwnBlock<'_>,
    (top, left): (usize, usize),
) {
    let (alpha, one) = (simd.splat(tile.alpha), simd.splat(1.0));
    for (row, sums) in sums.iter().enumerate() {
        let elements = to.elements(top + row, left, VECTORS * S::LANES);
        for (elements, sum) in elements.chunks_exact_mut(S::LANES).zip(sums) {
            // Rounded before it is added, as `store_some` does.
            let scaled = simd.zero().add_product(alpha, *sum);
            let result = match tile.into {
                Into::Set => scaled,
                Into::Add => simd.load(elements).add_product(one, scaled),
            };
            result.store(elements);
        }
    }
}

/// Stores a register tile's first `rows` by `count` numbers.
#[inline(always)]
fn store_some<S: Simd>(
    sums: &Sums<S>,
    tile: &Tile<'_>,
    to: &mut OwnBlock<'_>,
    (top, left): (usize, usize),
    (rows, count): (usize, usize),
) {
    let mut numbers = [0.0; LARGEST];
    let width = VECTORS * S::LANES;
    for (sums, numbers) in sums.iter().zip(numbers.chunks_exact_mut(width)) {
        for (sum, numbers) in sums.iter().zip(numbers.chunks_exact_mut(S::LANES)) {
            sum.store(numbers);
        }
    }
    for (row, numbers) in numbers.chunks_exact(width).enumerate().take(rows) {
        for (element, sum) in to.elements(top + row, left, count).iter_mut().zip(numbers) {
            // The zero turns a product of -0 into 0, as the sum of a vector does.
            let scaled = 0.0 + tile.alpha * sum;
            *element = match tile.into {
                Into::Set => scaled,
                Into::Add => *element + scaled,
            };
        }
    }
}
