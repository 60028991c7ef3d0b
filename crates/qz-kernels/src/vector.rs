//! Vectors of f32 numbers, and which of them the machine has.
//!
//! A body is written once over [`Vector`] and compiled for each set of instructions by
//! an entry point with `#[target_feature]`, into which everything is inlined. No closure
//! takes vectors: it would be compiled for the baseline.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use qz_codec::number::{f32_from_bf16, f32_from_f16};

use crate::isa::Isa;

/// Instructions for arithmetic on vectors that the machine has. A value is made by
/// [`Instructions::available`] and [`Instructions::of`] alone, which look; so whoever
/// holds one may use what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instructions {
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F and BW, and what is named above.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Instructions {
    /// Every set the machine has, the widest last.
    pub(crate) fn available() -> Vec<Self> {
        let mut sets = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                sets.push(Self::Avx2);
            }
            if avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                sets.push(Self::Avx512);
            }
        }
        sets
    }

    /// The widest that the instruction set in use allows.
    pub(crate) fn best() -> Self {
        Self::of(Isa::chosen())
    }

    /// The widest that this instruction set allows, and the machine has.
    pub(crate) fn of(chosen: Isa) -> Self {
        let allowed = |set: &Self| match set {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => chosen >= Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => chosen >= Isa::Avx512,
        };
        Self::available().into_iter().rfind(allowed).unwrap_or(Self::Portable)
    }

    /// Numbers of 32 bits in a register.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Self::Portable => Eight::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => __m256::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => __m512::LANES,
        }
    }
}

/// Has what lies a little behind these bytes brought into the cache: rows of weights are
/// read faster than the machine finds out by itself that they are.
#[inline(always)]
pub(crate) fn prefetch_behind(bytes: &[u8]) {
    /// Bytes of a cache line.
    const LINE: usize = 64;
    /// Time enough for a read from memory.
    const DISTANCE: usize = 2048;
    #[cfg(target_arch = "x86_64")]
    for line in 0..bytes.len().div_ceil(LINE) {
        let address = bytes.as_ptr().wrapping_add(DISTANCE + line * LINE);
        // SAFETY: every x86-64 has this; it reads nothing, wherever the pointer points to.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, LINE, DISTANCE);
}

/// A vector of f32 numbers.
pub(crate) trait Vector: Copy {
    const LANES: usize;
    fn splat(value: f32) -> Self;
    fn zero() -> Self;
    /// The first lanes of `from`, which has that many.
    fn load(from: &[f32]) -> Self;
    /// Numbers that are stored as binary32, the lowest byte first.
    fn load_singles(from: &[u8]) -> Self;
    /// Numbers that are stored as binary16.
    fn load_halves(from: &[u8]) -> Self;
    /// Numbers that are stored as bfloat16.
    fn load_brains(from: &[u8]) -> Self;
    fn store(self, to: &mut [f32]);
    /// `self + a · b`.
    fn add_product(self, a: Self, b: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn divided_by(self, other: Self) -> Self;
    /// The larger one; `other` if either is a NaN.
    fn larger(self, other: Self) -> Self;
    /// The smaller one; `other` if either is a NaN.
    fn smaller(self, other: Self) -> Self;
    /// 2 to the power of the integer that was added to 1.5 · 2^23 in `self`.
    fn power_of_two(self) -> Self;
    fn largest(self) -> f32;
    fn sum(self) -> f32;

    /// The exponential, to about one unit in the last place; of numbers past the range of
    /// normal results that of the range's end. (Cephes, `expf`: 2^n times a polynomial in
    /// what is left of x after n times the logarithm of 2, which is subtracted in two
    /// parts.)
    #[inline(always)]
    fn exp(self) -> Self {
        const ROUND: f32 = 12_582_912.0;
        const POLYNOMIAL: [f32; 6] =
            [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];
        let x = Self::splat(88.0).smaller(Self::splat(-87.0).larger(self));
        let one = Self::splat(1.0);
        let rounded = Self::splat(ROUND).add_product(x, Self::splat(std::f32::consts::LOG2_E));
        let n = rounded.add_product(one, Self::splat(-ROUND));
        let rest = x.add_product(n, Self::splat(-0.693_359_4));
        let rest = rest.add_product(n, Self::splat(2.121_944_4e-4));
        let mut sum = Self::splat(POLYNOMIAL[0]);
        for coefficient in &POLYNOMIAL[1..] {
            sum = Self::splat(*coefficient).add_product(sum, rest);
        }
        let sum = rest.add_product(sum, rest.times(rest)).add_product(one, one);
        sum.times(rounded.power_of_two())
    }
}

/// Eight lanes that any machine has.
#[derive(Clone, Copy)]
pub(crate) struct Eight(pub(crate) [f32; 8]);

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
    fn load_singles(from: &[u8]) -> Self {
        let from = from.as_chunks().0;
        Self(std::array::from_fn(|lane| f32::from_le_bytes(from[lane])))
    }

    #[inline(always)]
    fn load_halves(from: &[u8]) -> Self {
        let from = from.as_chunks().0;
        Self(std::array::from_fn(|lane| f32_from_f16(u16::from_le_bytes(from[lane]))))
    }

    #[inline(always)]
    fn load_brains(from: &[u8]) -> Self {
        let from = from.as_chunks().0;
        Self(std::array::from_fn(|lane| f32_from_bf16(u16::from_le_bytes(from[lane]))))
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
    fn times(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] * other.0[lane]))
    }

    #[inline(always)]
    fn divided_by(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] / other.0[lane]))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        Self(std::array::from_fn(|lane| larger(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        let smaller = |a: f32, b: f32| if a < b { a } else { b };
        Self(std::array::from_fn(|lane| smaller(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        let bits = |number: f32| (number.to_bits() << 23).wrapping_add(127 << 23);
        Self(self.0.map(|number| f32::from_bits(bits(number))))
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
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
    fn load_singles(from: &[u8]) -> Self {
        let from = &from[..32];
        // SAFETY: as above; so many bytes are there.
        unsafe { _mm256_loadu_ps(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_halves(from: &[u8]) -> Self {
        let from = &from[..16];
        // SAFETY: as above, and they have F16C; so many bytes are there.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_brains(from: &[u8]) -> Self {
        let from = &from[..16];
        // SAFETY: as above; so many bytes are there.
        unsafe {
            let numbers = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(numbers))
        }
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
    fn times(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_mul_ps(self, other) }
    }

    #[inline(always)]
    fn divided_by(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_div_ps(self, other) }
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_max_ps(self, other) }
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_min_ps(self, other) }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_slli_epi32::<23>(_mm256_castps_si256(self));
            _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(127 << 23)))
        }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(&mut lanes);
        Eight(lanes).largest()
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
    fn load_singles(from: &[u8]) -> Self {
        let from = &from[..64];
        // SAFETY: as above; so many bytes are there.
        unsafe { _mm512_loadu_ps(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_halves(from: &[u8]) -> Self {
        let from = &from[..32];
        // SAFETY: as above; so many bytes are there.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_brains(from: &[u8]) -> Self {
        let from = &from[..32];
        // SAFETY: as above; so many bytes are there.
        unsafe {
            let numbers = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(numbers))
        }
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
    fn times(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(self, other) }
    }

    #[inline(always)]
    fn divided_by(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_div_ps(self, other) }
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_max_ps(self, other) }
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_min_ps(self, other) }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_slli_epi32::<23>(_mm512_castps_si512(self));
            _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(127 << 23)))
        }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_max_ps(self) }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_add_ps(self) }
    }
}
