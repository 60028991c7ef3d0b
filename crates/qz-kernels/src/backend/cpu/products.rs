//! Dot products and weighted sums of f32 rows, a few rows at a time, in the widest
//! vectors the machine has.
//!
//! Each sum is formed in as many parts as a vector has lanes, so results differ in their
//! last bits between instruction sets, but not with the number of rows that are taken
//! together.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_reduce_add_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_storeu_ps,
};

use crate::isa::Isa;

/// Rows that are taken together on each side.
pub(super) const TOGETHER: usize = 4;

/// An instruction set that the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Products(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Products {
    /// Every set the machine has, the widest last.
    pub(super) fn available() -> Vec<Self> {
        let mut sets = vec![Set::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                sets.push(Set::Avx2);
            }
            if is_x86_feature_detected!("avx512f") {
                sets.push(Set::Avx512);
            }
        }
        sets.into_iter().map(Self).collect()
    }

    /// The widest that the instruction set in use allows.
    pub(super) fn best() -> Self {
        let chosen = Isa::chosen();
        let allowed = |products: &Self| match products.0 {
            Set::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => chosen >= Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => chosen >= Isa::Avx512,
        };
        let available = Self::available();
        available.into_iter().rfind(allowed).unwrap_or(Self(Set::Portable))
    }

    /// The products of each of `a` with each of `b`; rows of one length.
    pub(super) fn dots(
        self,
        a: [&[f32]; TOGETHER],
        b: [&[f32]; TOGETHER],
    ) -> [[f32; TOGETHER]; TOGETHER] {
        match self.0 {
            Set::Portable => dots::<Eight>(a, b),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` found AVX2 and FMA.
            Set::Avx2 => unsafe { dots_avx2(a, b) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` found AVX-512 F.
            Set::Avx512 => unsafe { dots_avx512(a, b) },
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
            Set::Portable => add_weighted::<Eight>(factors, rows, stride, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` found AVX2 and FMA.
            Set::Avx2 => unsafe { add_weighted_avx2(factors, rows, stride, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` found AVX-512 F.
            Set::Avx512 => unsafe { add_weighted_avx512(factors, rows, stride, out) },
        }
    }
}

/// A vector of f32 numbers.
trait Vector: Copy {
    const LANES: usize;
    fn splat(value: f32) -> Self;
    fn zero() -> Self;
    /// The first lanes of `from`, which has that many.
    fn load(from: &[f32]) -> Self;
    fn store(self, to: &mut [f32]);
    /// `self + a · b`.
    fn add_product(self, a: Self, b: Self) -> Self;
    fn sum(self) -> f32;
}

/// Eight lanes that any machine has.
#[derive(Clone, Copy)]
struct Eight([f32; 8]);

impl Vector for Eight {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    fn zero() -> Self {
        Self([0.0; 8])
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(std::array::from_fn(|lane| from[lane]))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..8].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] + a.0[lane] * b.0[lane]))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m256 {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: inlined into functions that have AVX2 only.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: as above.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from = &from[..8];
        // SAFETY: as above; eight numbers are there.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..8];
        // SAFETY: as above; there is room for eight numbers.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self) }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above, and they have FMA.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(&mut lanes);
        Eight(lanes).sum()
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m512 {
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: inlined into functions that have AVX-512 F only.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: as above.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from = &from[..16];
        // SAFETY: as above; sixteen numbers are there.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..16];
        // SAFETY: as above; there is room for sixteen numbers.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self) }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_add_ps(self) }
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
