//! Dot products and weighted sums of f32 rows, a few rows at a time, in the widest
//! vectors the machine has.
//!
//! Each sum is formed in as many parts as a vector has lanes, so results differ in their
//! last bits between instruction sets, but not with the number of rows that are taken
//! together.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use crate::vector::{Eight, Instructions, Vector};

/// Rows that are taken together on each side.
pub(super) const TOGETHER: usize = 4;

/// Products with an instruction set that the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Products(pub(super) Instructions);

impl Products {
    /// The products of each of `a` with each of `b`; rows of one length.
    pub(super) fn dots(
        self,
        a: [&[f32]; TOGETHER],
        b: [&[f32]; TOGETHER],
    ) -> [[f32; TOGETHER]; TOGETHER] {
        match self.0 {
            Instructions::Portable => dots::<Eight>(a, b),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` found AVX2 and FMA.
            Instructions::Avx2 => unsafe { dots_avx2(a, b) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` found AVX-512 F.
            Instructions::Avx512 => unsafe { dots_avx512(a, b) },
        }
    }

    /// Adds to `out` the rows of `rows`, which lie `stride` apart, each times its
    /// factor.
    pub(super) fn add_weighted(
        self,
        factors: &[f32],
        rows: &[f32],
        stride: usize,
        out: &mut [f32],
    ) {
        match self.0 {
            Instructions::Portable => add_weighted::<Eight>(factors, rows, stride, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` found AVX2 and FMA.
            Instructions::Avx2 => unsafe { add_weighted_avx2(factors, rows, stride, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` found AVX-512 F.
            Instructions::Avx512 => unsafe { add_weighted_avx512(factors, rows, stride, out) },
        }
    }
}

#[inline(always)]
fn dots<V: Vector>(a: [&[f32]; TOGETHER], b: [&[f32]; TOGETHER]) -> [[f32; TOGETHER]; TOGETHER] {
    let length = a[0].len();
    // Equal lengths, said once, spare the checks within.
    let (a, b) = (a.map(|row| &row[..length]), b.map(|row| &row[..length]));
    let mut sums = [[V::zero(); TOGETHER]; TOGETHER];
    let whole = length / V::LANES * V::LANES;
    let mut at = 0;
    while at < whole {
        let a = a.map(|row| V::load(&row[at..at + V::LANES]));
        for (column, b) in b.iter().enumerate() {
            let b = V::load(&b[at..at + V::LANES]);
            for row in 0..TOGETHER {
                sums[row][column] = sums[row][column].add_product(a[row], b);
            }
        }
        at += V::LANES;
    }
    let mut results = sums.map(|row| row.map(V::sum));
    for (row, a) in results.iter_mut().zip(a) {
        for (result, b) in row.iter_mut().zip(b) {
            for (a, b) in a[whole..].iter().zip(&b[whole..]) {
                *result += a * b;
            }
        }
    }
    results
}

#[inline(always)]
fn add_weighted<V: Vector>(factors: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    let width = out.len();
    let whole = width / V::LANES * V::LANES;
    let mut at = 0;
    while at < whole {
        let mut sum = V::load(&out[at..at + V::LANES]);
        for (row, factor) in factors.iter().enumerate() {
            let row = &rows[row * stride + at..][..V::LANES];
            sum = sum.add_product(V::splat(*factor), V::load(row));
        }
        sum.store(&mut out[at..at + V::LANES]);
        at += V::LANES;
    }
    for at in whole..width {
        for (row, factor) in factors.iter().enumerate() {
            out[at] += factor * rows[row * stride + at];
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dots_avx2(a: [&[f32]; TOGETHER], b: [&[f32]; TOGETHER]) -> [[f32; TOGETHER]; TOGETHER] {
    dots::<__m256>(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn dots_avx512(a: [&[f32]; TOGETHER], b: [&[f32]; TOGETHER]) -> [[f32; TOGETHER]; TOGETHER] {
    dots::<__m512>(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_weighted_avx2(factors: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    add_weighted::<__m256>(factors, rows, stride, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn add_weighted_avx512(factors: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    add_weighted::<__m512>(factors, rows, stride, out);
}
