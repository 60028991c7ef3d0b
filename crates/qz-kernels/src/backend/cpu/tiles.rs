//! Sums of products of panels with rows, where lanes are the panel's width: activations of
//! sixteen tokens, keys of sixteen positions, sixteen elements of values.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use crate::vector::{Eight, Instructions, Vector};

/// Rows of a register tile, as in [`crate::gemm`].
pub(super) const ROWS: usize = 6;

/// Vectors of a panel's width.
const VECTORS: usize = 2;

/// Numbers of a panel's width.
pub(super) fn width(instructions: Instructions) -> usize {
    VECTORS * instructions.lanes()
}

/// Adds a panel's products with rows of `depth` numbers to `sums`, which has the panel's
/// width for each row. A row is alone, or there is a whole number of register tiles.
pub(super) fn add(
    instructions: Instructions,
    panel: &[f32],
    rows: &[f32],
    depth: usize,
    sums: &mut [f32],
) {
    match instructions {
        Instructions::Portable => add_any::<Eight>(panel, rows, depth, sums),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: there were no such value if the machine had no AVX2.
        Instructions::Avx2 => unsafe { add_avx2(panel, rows, depth, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: there were no such value if the machine had no AVX-512.
        Instructions::Avx512 => unsafe { add_avx512(panel, rows, depth, sums) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_avx2(panel: &[f32], rows: &[f32], depth: usize, sums: &mut [f32]) {
    add_any::<__m256>(panel, rows, depth, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
fn add_avx512(panel: &[f32], rows: &[f32], depth: usize, sums: &mut [f32]) {
    add_any::<__m512>(panel, rows, depth, sums);
}

#[inline(always)]
fn add_any<V: Vector>(panel: &[f32], rows: &[f32], depth: usize, sums: &mut [f32]) {
    let width = VECTORS * V::LANES;
    if rows.len() == depth {
        return add_tile::<V, 1>(panel, rows, depth, sums);
    }
    let tiles = rows.chunks_exact(ROWS * depth).zip(sums.chunks_exact_mut(ROWS * width));
    for (rows, sums) in tiles {
        add_tile::<V, ROWS>(panel, rows, depth, sums);
    }
}

#[inline(always)]
fn add_tile<V: Vector, const COUNT: usize>(
    panel: &[f32],
    rows: &[f32],
    depth: usize,
    sums: &mut [f32],
) {
    let width = VECTORS * V::LANES;
    let mut own = [&rows[..depth]; COUNT];
    for (row, own) in own.iter_mut().enumerate() {
        *own = &rows[row * depth..][..depth];
    }
    let mut products = [[V::zero(); VECTORS]; COUNT];
    for (at, numbers) in panel.chunks_exact(width).enumerate().take(depth) {
        let numbers = [V::load(&numbers[..V::LANES]), V::load(&numbers[V::LANES..])];
        for (products, row) in products.iter_mut().zip(own) {
            let factor = V::splat(row[at]);
            products[0] = products[0].add_product(factor, numbers[0]);
            products[1] = products[1].add_product(factor, numbers[1]);
        }
    }
    let one = V::splat(1.0);
    for (products, sums) in products.iter().zip(sums.chunks_exact_mut(width)) {
        for (product, sums) in products.iter().zip(sums.chunks_exact_mut(V::LANES)) {
            V::load(sums).add_product(one, *product).store(sums);
        }
    }
}
