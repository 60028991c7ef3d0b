//! Vectors of AVX2 and AVX-512.
//!
//! The proofs' fields are private to this module, and made by `detect` alone. Each vector
//! has a proof in it. So the functions here may call intrinsics: they have a proof.

use std::arch::x86_64::*;

use super::{Eight, Simd, Vector};

/// Proof that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// A proof, if the machine has the instructions.
    pub(crate) fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has_all.then_some(Self(()))
    }
}

/// Proof that the machine has AVX-512 F and BW, and what [`Avx2`] proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(Avx2);

impl Avx512 {
    /// A proof, if the machine has the instructions.
    pub(crate) fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        Avx2::detect().filter(|_| has_all).map(Self)
    }

    /// The narrower instructions, which are there, too.
    #[inline(always)]
    pub(crate) fn avx2(self) -> Avx2 {
        self.0
    }
}

/// The sum of eight numbers, as [`Eight`] has it.
#[inline]
#[target_feature(enable = "avx")]
pub(crate) fn sum_of_eight(register: __m256) -> f32 {
    let mut lanes = [0.0; 8];
    // SAFETY: there is room for eight numbers.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), register) };
    Eight(lanes).sum()
}

/// Eight numbers.
#[derive(Clone, Copy)]
pub(crate) struct FloatsOf256 {
    simd: Avx2,
    register: __m256,
}

impl FloatsOf256 {
    #[inline(always)]
    pub(crate) fn new(simd: Avx2, register: __m256) -> Self {
        Self { simd, register }
    }
}

impl Simd for Avx2 {
    type Floats = FloatsOf256;
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> FloatsOf256 {
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C.
        FloatsOf256::new(self, unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    fn zero(self) -> FloatsOf256 {
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C.
        FloatsOf256::new(self, unsafe { _mm256_setzero_ps() })
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> FloatsOf256 {
        let from = &from[..8];
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C, and eight numbers are there.
        FloatsOf256::new(self, unsafe { _mm256_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn load_singles(self, from: &[u8]) -> FloatsOf256 {
        let from = &from[..32];
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C, and 32 bytes are there.
        FloatsOf256::new(self, unsafe { _mm256_loadu_ps(from.as_ptr().cast()) })
    }

    #[inline(always)]
    fn load_halves(self, from: &[u8]) -> FloatsOf256 {
        let from = &from[..16];
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C, and 16 bytes are there.
        FloatsOf256::new(self, unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_brains(self, from: &[u8]) -> FloatsOf256 {
        let from = &from[..16];
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C, and 16 bytes are there.
        let register = unsafe {
            let numbers = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(numbers))
        };
        FloatsOf256::new(self, register)
    }
}

impl Vector for FloatsOf256 {
    type Simd = Avx2;

    #[inline(always)]
    fn simd(self) -> Avx2 {
        self.simd
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..8];
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C, and there is room for eight numbers.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self.register) }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C.
        Self::new(self.simd, unsafe { _mm256_fmadd_ps(a.register, b.register, self.register) })
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C.
        Self::new(self.simd, unsafe { _mm256_mul_ps(self.register, other.register) })
    }

    #[inline(always)]
    fn divided_by(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C.
        Self::new(self.simd, unsafe { _mm256_div_ps(self.register, other.register) })
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C.
        Self::new(self.simd, unsafe { _mm256_max_ps(self.register, other.register) })
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C.
        Self::new(self.simd, unsafe { _mm256_min_ps(self.register, other.register) })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C.
        let register = unsafe {
            let bits = _mm256_slli_epi32::<23>(_mm256_castps_si256(self.register));
            _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(127 << 23)))
        };
        Self::new(self.simd, register)
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(&mut lanes);
        Eight(lanes).largest()
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: `self` proves that the machine has AVX2, FMA and F16C.
        unsafe { sum_of_eight(self.register) }
    }
}

/// Sixteen numbers.
#[derive(Clone, Copy)]
pub(crate) struct FloatsOf512 {
    simd: Avx512,
    register: __m512,
}

impl FloatsOf512 {
    #[inline(always)]
    pub(crate) fn new(simd: Avx512, register: __m512) -> Self {
        Self { simd, register }
    }
}

impl Simd for Avx512 {
    type Floats = FloatsOf512;
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(self, value: f32) -> FloatsOf512 {
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2.
        FloatsOf512::new(self, unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn zero(self) -> FloatsOf512 {
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2.
        FloatsOf512::new(self, unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> FloatsOf512 {
        let from = &from[..16];
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2, and sixteen numbers are there.
        FloatsOf512::new(self, unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn load_singles(self, from: &[u8]) -> FloatsOf512 {
        let from = &from[..64];
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2, and 64 bytes are there.
        FloatsOf512::new(self, unsafe { _mm512_loadu_ps(from.as_ptr().cast()) })
    }

    #[inline(always)]
    fn load_halves(self, from: &[u8]) -> FloatsOf512 {
        let from = &from[..32];
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2, and 32 bytes are there.
        FloatsOf512::new(self, unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_brains(self, from: &[u8]) -> FloatsOf512 {
        let from = &from[..32];
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2, and 32 bytes are there.
        let register = unsafe {
            let numbers = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(numbers))
        };
        FloatsOf512::new(self, register)
    }
}

impl Vector for FloatsOf512 {
    type Simd = Avx512;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.simd
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..16];
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2, and there is room for sixteen numbers.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.register) }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2.
        Self::new(self.simd, unsafe { _mm512_fmadd_ps(a.register, b.register, self.register) })
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2.
        Self::new(self.simd, unsafe { _mm512_mul_ps(self.register, other.register) })
    }

    #[inline(always)]
    fn divided_by(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2.
        Self::new(self.simd, unsafe { _mm512_div_ps(self.register, other.register) })
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2.
        Self::new(self.simd, unsafe { _mm512_max_ps(self.register, other.register) })
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2.
        Self::new(self.simd, unsafe { _mm512_min_ps(self.register, other.register) })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2.
        let register = unsafe {
            let bits = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.register));
            _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(127 << 23)))
        };
        Self::new(self.simd, register)
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2.
        unsafe { _mm512_reduce_max_ps(self.register) }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: `self` proves that the machine has AVX-512 F and AVX2.
        unsafe { _mm512_reduce_add_ps(self.register) }
    }
}
