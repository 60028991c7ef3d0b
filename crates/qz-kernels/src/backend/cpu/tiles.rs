//! Sums of products of panels with rows, where lanes are the panel's width: activations of
//! sixteen tokens, keys of sixteen positions, sixteen elements of values.

use crate::vector::{Instructions, Simd, Vector, for_instructions};

/// Rows of a register tile, as in [`crate::gemm`].
pub(super) const ROWS: usize = 6;

/// Vectors of a panel's width.
const VECTORS: usize = 2;

/// Numbers of a panel's width.
pub(super) fn width(instructions: Instructions) -> usize {
    VECTORS * instructions.lanes()
}

for_instructions! {
    /// Adds a panel's products with rows of `depth` numbers to `sums`, which has the panel's
    /// width for each row. A row is alone, or there is a whole number of register tiles.
    pub(super) fn add(panel: &[f32], rows: &[f32], depth: usize, sums: &mut [f32]) = add_any;
}

#[inline(always)]
fn add_any<S: Simd>(simd: S, panel: &[f32], rows: &[f32], depth: usize, sums: &mut [f32]) {
    let width = VECTORS * S::LANES;
    if rows.len() == depth {
        return add_tile::<S, 1>(simd, panel, rows, depth, sums);
    }
    let tiles = rows.chunks_exact(ROWS * depth).zip(sums.chunks_exact_mut(ROWS * width));
    for (rows, sums) in tiles {
        add_tile::<S, ROWS>(simd, panel, rows, depth, sums);
    }
}

#[inline(always)]
fn add_tile<S: Simd, const COUNT: usize>(
    simd: S,
    panel: &[f32],
    rows: &[f32],
    depth: usize,
    sums: &mut [f32],
) {
    let width = VECTORS * S::LANES;
    let mut own = [&rows[..depth]; COUNT];
    for (row, own) in own.iter_mut().enumerate() {
        *own = &rows[row * depth..][..depth];
    }
    let mut products = [[simd.zero(); VECTORS]; COUNT];
    for (at, numbers) in panel.chunks_exact(width).enumerate().take(depth) {
        let numbers = [simd.load(&numbers[..S::LANES]), simd.load(&numbers[S::LANES..])];
        for (products, row) in products.iter_mut().zip(own) {
            let factor = simd.splat(row[at]);
            products[0] = products[0].add_product(factor, numbers[0]);
            products[1] = products[1].add_product(factor, numbers[1]);
        }
    }
    let one = simd.splat(1.0);
    for (products, sums) in products.iter().zip(sums.chunks_exact_mut(width)) {
        for (product, sums) in products.iter().zip(sums.chunks_exact_mut(S::LANES)) {
            simd.load(sums).add_product(one, *product).store(sums);
        }
    }
}
