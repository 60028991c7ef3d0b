//! Registers of 32-bit groups, each of four bytes, two 16-bit numbers or one number.

#[cfg(target_arch = "x86_64")]
use std::arch::{asm, x86_64::*};

use qz_codec::number::f32_from_f16;

use crate::vector::{Eight, Vector};

/// A register of [`Vector::LANES`] groups of 32 bits.
pub(super) trait Dwords: Copy {
    /// As many f32 numbers.
    type Floats: Vector;
    fn zero() -> Self;
    /// The same group in every lane.
    fn splat(group: i32) -> Self;
    /// The first groups of `from`, which has that many.
    fn load(from: &[i32]) -> Self;
    /// For each two unsigned bytes of `self` and signed ones of `other` the sum of their
    /// products, as a signed 16-bit number, which it has to fit.
    fn multiply_bytes(self, other: Self) -> Self;
    /// Sums of 16-bit numbers.
    fn add_pairs(self, other: Self) -> Self;
    /// For each two 16-bit numbers the sum of their products.
    fn multiply_pairs(self, other: Self) -> Self;
    /// Sums of 32-bit numbers.
    fn add(self, other: Self) -> Self;
    /// 32-bit numbers as floats.
    fn to_floats(self) -> Self::Floats;
    /// The number that a binary16 stands for, the lower byte first.
    fn half(bytes: [u8; 2]) -> f32;
    /// The same, computed at this place of the program. Left alone the compiler adds up
    /// one sum after the other, and loads every operand again for each of them.
    fn here(self) -> Self;
}

/// Registers of eight groups, which take 32 bytes of a row.
pub(super) trait EightDwords: Dwords {
    /// 32 bytes.
    fn load_bytes(from: &[u8; 32]) -> Self;
    /// 32 signed bytes.
    fn load_levels(from: &[i8; 32]) -> Self;
    /// Sixteen 16-bit numbers.
    fn load_words(from: &[i16; 16]) -> Self;
    /// What a table has at each half of a byte: the lower halves' in the first 16 bytes,
    /// the upper ones' in the last.
    fn look_up(table: &[i8; 16], numbers: &[u8; 16]) -> Self;
    /// One group in the first four lanes, another one in the last four.
    fn halves(first: i32, second: i32) -> Self;
    /// Signed bytes without their signs.
    fn magnitudes(self) -> Self;
    /// Signed bytes with the sign of those of `other`, zero where that is zero.
    fn with_signs_of(self, other: Self) -> Self;
}

/// Eight groups that any machine has.
#[derive(Clone, Copy)]
pub(super) struct Plain([i32; 8]);

#[inline(always)]
fn bytes(group: i32) -> [i32; 4] {
    group.to_le_bytes().map(i32::from)
}

#[inline(always)]
fn signed_bytes(group: i32) -> [i32; 4] {
    group.to_le_bytes().map(|byte| i32::from(byte as i8))
}

#[inline(always)]
fn pair(group: i32) -> [i32; 2] {
    [i32::from(group as i16), group >> 16]
}

#[inline(always)]
fn from_pair([low, high]: [i32; 2]) -> i32 {
    low & 0xffff | high << 16
}

impl Plain {
    #[inline(always)]
    fn with(self, other: Self, work: impl Fn(i32, i32) -> i32) -> Self {
        Self(std::array::from_fn(|lane| work(self.0[lane], other.0[lane])))
    }
}

impl Dwords for Plain {
    type Floats = Eight;

    #[inline(always)]
    fn zero() -> Self {
        Self([0; 8])
    }

    #[inline(always)]
    fn splat(group: i32) -> Self {
        Self([group; 8])
    }

    #[inline(always)]
    fn load(from: &[i32]) -> Self {
        Self(std::array::from_fn(|lane| from[lane]))
    }

    #[inline(always)]
    fn multiply_bytes(self, other: Self) -> Self {
        self.with(other, |a, b| {
            let (a, b) = (bytes(a), signed_bytes(b));
            from_pair([a[0] * b[0] + a[1] * b[1], a[2] * b[2] + a[3] * b[3]])
        })
    }

    #[inline(always)]
    fn add_pairs(self, other: Self) -> Self {
        self.with(other, |a, b| {
            let (a, b) = (pair(a), pair(b));
            from_pair([a[0] + b[0], a[1] + b[1]])
        })
    }

    #[inline(always)]
    fn multiply_pairs(self, other: Self) -> Self {
        self.with(other, |a, b| {
            let (a, b) = (pair(a), pair(b));
            a[0] * b[0] + a[1] * b[1]
        })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    #[inline(always)]
    fn to_floats(self) -> Eight {
        Eight(self.0.map(|number| number as f32))
    }

    #[inline(always)]
    fn half(bytes: [u8; 2]) -> f32 {
        f32_from_f16(u16::from_le_bytes(bytes))
    }

    #[inline(always)]
    fn here(self) -> Self {
        self
    }
}

impl EightDwords for Plain {
    #[inline(always)]
    fn load_bytes(from: &[u8; 32]) -> Self {
        let groups = from.as_chunks::<4>().0;
        Self(std::array::from_fn(|lane| i32::from_le_bytes(groups[lane])))
    }

    #[inline(always)]
    fn load_levels(from: &[i8; 32]) -> Self {
        Self::load_bytes(&from.map(|level| level as u8))
    }

    #[inline(always)]
    fn load_words(from: &[i16; 16]) -> Self {
        Self(std::array::from_fn(|lane| {
            from_pair([i32::from(from[2 * lane]), i32::from(from[2 * lane + 1])])
        }))
    }

    #[inline(always)]
    fn look_up(table: &[i8; 16], numbers: &[u8; 16]) -> Self {
        let mut found = [0; 32];
        for (position, number) in numbers.iter().enumerate() {
            found[position] = table[usize::from(number & 15)] as u8;
            found[position + 16] = table[usize::from(number >> 4)] as u8;
        }
        Self::load_bytes(&found)
    }

    #[inline(always)]
    fn halves(first: i32, second: i32) -> Self {
        Self([first, first, first, first, second, second, second, second])
    }

    #[inline(always)]
    fn magnitudes(self) -> Self {
        let magnitude = |byte: u8| (byte as i8).unsigned_abs();
        Self(self.0.map(|group| i32::from_le_bytes(group.to_le_bytes().map(magnitude))))
    }

    #[inline(always)]
    fn with_signs_of(self, other: Self) -> Self {
        self.with(other, |a, b| {
            let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
            let signed = |byte: usize| (a[byte] as i8).wrapping_mul((b[byte] as i8).signum()) as u8;
            i32::from_le_bytes([signed(0), signed(1), signed(2), signed(3)])
        })
    }
}

#[cfg(target_arch = "x86_64")]
impl Dwords for __m256i {
    type Floats = __m256;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: inlined into functions that have AVX2 only; so is all below.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn splat(group: i32) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_set1_epi32(group) }
    }

    #[inline(always)]
    fn load(from: &[i32]) -> Self {
        let from = &from[..8];
        // SAFETY: as above; eight groups are there.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn multiply_bytes(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_maddubs_epi16(self, other) }
    }

    #[inline(always)]
    fn add_pairs(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_add_epi16(self, other) }
    }

    #[inline(always)]
    fn multiply_pairs(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_madd_epi16(self, other) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_add_epi32(self, other) }
    }

    #[inline(always)]
    fn to_floats(self) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi32_ps(self) }
    }

    #[inline(always)]
    fn half(bytes: [u8; 2]) -> f32 {
        // SAFETY: as above, and they have F16C.
        unsafe { half_f16c(bytes) }
    }

    #[inline(always)]
    fn here(self) -> Self {
        // SAFETY: as above.
        unsafe { here_avx2(self) }
    }
}

#[cfg(target_arch = "x86_64")]
impl EightDwords for __m256i {
    #[inline(always)]
    fn load_bytes(from: &[u8; 32]) -> Self {
        // SAFETY: inlined into functions that have AVX2 only; so is all below.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_levels(from: &[i8; 32]) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_words(from: &[i16; 16]) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn look_up(table: &[i8; 16], numbers: &[u8; 16]) -> Self {
        // SAFETY: as above.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            let numbers = _mm_loadu_si128(numbers.as_ptr().cast());
            let numbers = _mm256_set_m128i(_mm_srli_epi16::<4>(numbers), numbers);
            _mm256_shuffle_epi8(table, _mm256_and_si256(numbers, _mm256_set1_epi8(15)))
        }
    }

    #[inline(always)]
    fn halves(first: i32, second: i32) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_set_m128i(_mm_set1_epi32(second), _mm_set1_epi32(first)) }
    }

    #[inline(always)]
    fn magnitudes(self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_abs_epi8(self) }
    }

    #[inline(always)]
    fn with_signs_of(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_sign_epi8(self, other) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Dwords for __m512i {
    type Floats = __m512;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: inlined into functions that have AVX-512 F and BW only; so is all below.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn splat(group: i32) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(group) }
    }

    #[inline(always)]
    fn load(from: &[i32]) -> Self {
        let from = &from[..16];
        // SAFETY: as above; sixteen groups are there.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn multiply_bytes(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_maddubs_epi16(self, other) }
    }

    #[inline(always)]
    fn add_pairs(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_add_epi16(self, other) }
    }

    #[inline(always)]
    fn multiply_pairs(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_madd_epi16(self, other) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_add_epi32(self, other) }
    }

    #[inline(always)]
    fn to_floats(self) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(self) }
    }

    #[inline(always)]
    fn half(bytes: [u8; 2]) -> f32 {
        // SAFETY: as above, and they have F16C.
        unsafe { half_f16c(bytes) }
    }

    #[inline(always)]
    fn here(self) -> Self {
        // SAFETY: as above.
        unsafe { here_avx512f(self) }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "f16c")]
fn half_f16c(bytes: [u8; 2]) -> f32 {
    let half = _mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes)));
    _mm_cvtss_f32(_mm_cvtph_ps(half))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn here_avx2(mut groups: __m256i) -> __m256i {
    // SAFETY: there are no instructions in it.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) groups, options(nomem, nostack, preserves_flags));
    }
    groups
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn here_avx512f(mut groups: __m512i) -> __m512i {
    // SAFETY: there are no instructions in it.
    unsafe {
        asm!("/* {0} */", inout(zmm_reg) groups, options(nomem, nostack, preserves_flags));
    }
    groups
}
