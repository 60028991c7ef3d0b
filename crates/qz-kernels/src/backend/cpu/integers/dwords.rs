//! Registers of 32-bit groups, each of four bytes, two 16-bit numbers or one number.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use qz_codec::number::f32_from_f16;

#[cfg(target_arch = "x86_64")]
use crate::vector::{Avx2, Avx512, FloatsOf256, FloatsOf512};
use crate::vector::{Eight, Portable, Simd};

/// Instructions for registers of [`Simd::LANES`] groups of 32 bits.
pub(super) trait SimdOfGroups: Simd {
    type Dwords: Dwords<Floats = Self::Floats>;
    fn zero_groups(self) -> Self::Dwords;
    /// The same group in every lane.
    fn splat_group(self, group: i32) -> Self::Dwords;
    /// The first groups of `from`, which has that many.
    fn load_groups(self, from: &[i32]) -> Self::Dwords;
    /// The number that a binary16 stands for, the lower byte first.
    fn half(self, bytes: [u8; 2]) -> f32;
}

/// A register of groups of 32 bits.
pub(super) trait Dwords: Copy {
    /// As many f32 numbers.
    type Floats;
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
    /// The same, computed at this place of the program. Left alone the compiler adds up
    /// one sum after the other, and loads every operand again for each of them.
    fn here(self) -> Self;
}

/// Instructions for registers of eight groups, which take 32 bytes of a row.
pub(super) trait SimdOfEight: SimdOfGroups<Dwords: EightDwords> {
    /// 32 bytes.
    fn load_bytes(self, from: &[u8; 32]) -> Self::Dwords;
    /// 32 signed bytes.
    fn load_levels(self, from: &[i8; 32]) -> Self::Dwords;
    /// Sixteen 16-bit numbers.
    fn load_words(self, from: &[i16; 16]) -> Self::Dwords;
    /// What a table has at each half of a byte: the lower halves' in the first 16 bytes,
    /// the upper ones' in the last.
    fn look_up(self, table: &[i8; 16], numbers: &[u8; 16]) -> Self::Dwords;
    /// One group in the first four lanes, another one in the last four.
    fn halves(self, first: i32, second: i32) -> Self::Dwords;
}

/// A register of eight groups.
pub(super) trait EightDwords: Dwords {
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
    let [a, b, c, d] = group.to_le_bytes();
    [i32::from(a), i32::from(b), i32::from(c), i32::from(d)]
}

#[inline(always)]
fn signed_bytes(group: i32) -> [i32; 4] {
    let [a, b, c, d] = group.to_le_bytes();
    [i32::from(a as i8), i32::from(b as i8), i32::from(c as i8), i32::from(d as i8)]
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
    fn with(mut self, other: Self, work: impl Fn(i32, i32) -> i32) -> Self {
        for lane in 0..8 {
            self.0[lane] = work(self.0[lane], other.0[lane]);
        }
        self
    }
}

impl SimdOfGroups for Portable {
    type Dwords = Plain;

    #[inline(always)]
    fn zero_groups(self) -> Plain {
        Plain([0; 8])
    }

    #[inline(always)]
    fn splat_group(self, group: i32) -> Plain {
        Plain([group; 8])
    }

    #[inline(always)]
    fn load_groups(self, from: &[i32]) -> Plain {
        let mut groups = [0; 8];
        groups.copy_from_slice(&from[..8]);
        Plain(groups)
    }

    #[inline(always)]
    fn half(self, bytes: [u8; 2]) -> f32 {
        f32_from_f16(u16::from_le_bytes(bytes))
    }
}

impl Dwords for Plain {
    type Floats = Eight;

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
        let mut numbers = [0.0; 8];
        for (number, group) in numbers.iter_mut().zip(self.0) {
            *number = group as f32;
        }
        Eight(numbers)
    }

    #[inline(always)]
    fn here(self) -> Self {
        self
    }
}

impl SimdOfEight for Portable {
    #[inline(always)]
    fn load_bytes(self, from: &[u8; 32]) -> Plain {
        let mut groups = [0; 8];
        for (group, bytes) in groups.iter_mut().zip(from.as_chunks().0) {
            *group = i32::from_le_bytes(*bytes);
        }
        Plain(groups)
    }

    #[inline(always)]
    fn load_levels(self, from: &[i8; 32]) -> Plain {
        let mut bytes = [0; 32];
        for (byte, level) in bytes.iter_mut().zip(from) {
            *byte = *level as u8;
        }
        self.load_bytes(&bytes)
    }

    #[inline(always)]
    fn load_words(self, from: &[i16; 16]) -> Plain {
        let mut groups = [0; 8];
        for (group, [low, high]) in groups.iter_mut().zip(from.as_chunks().0) {
            *group = from_pair([i32::from(*low), i32::from(*high)]);
        }
        Plain(groups)
    }

    #[inline(always)]
    fn look_up(self, table: &[i8; 16], numbers: &[u8; 16]) -> Plain {
        let mut found = [0; 32];
        for (position, number) in numbers.iter().enumerate() {
            found[position] = table[usize::from(number & 15)] as u8;
            found[position + 16] = table[usize::from(number >> 4)] as u8;
        }
        self.load_bytes(&found)
    }

    #[inline(always)]
    fn halves(self, first: i32, second: i32) -> Plain {
        Plain([first, first, first, first, second, second, second, second])
    }
}

impl EightDwords for Plain {
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

/// Eight groups.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct GroupsOf256 {
    simd: Avx2,
    register: __m256i,
}

#[cfg(target_arch = "x86_64")]
impl SimdOfGroups for Avx2 {
    type Dwords = GroupsOf256;

    #[inline(always)]
    fn zero_groups(self) -> GroupsOf256 {
        // SAFETY: `self` proves that the machine has AVX2.
        GroupsOf256 { simd: self, register: unsafe { _mm256_setzero_si256() } }
    }

    #[inline(always)]
    fn splat_group(self, group: i32) -> GroupsOf256 {
        // SAFETY: `self` proves that the machine has AVX2.
        GroupsOf256 { simd: self, register: unsafe { _mm256_set1_epi32(group) } }
    }

    #[inline(always)]
    fn load_groups(self, from: &[i32]) -> GroupsOf256 {
        let from = &from[..8];
        // SAFETY: `self` proves that the machine has AVX2, and eight groups are there.
        GroupsOf256 { simd: self, register: unsafe { _mm256_loadu_si256(from.as_ptr().cast()) } }
    }

    #[inline(always)]
    fn half(self, bytes: [u8; 2]) -> f32 {
        // SAFETY: `self` proves that the machine has F16C.
        unsafe { half_f16c(bytes) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Dwords for GroupsOf256 {
    type Floats = FloatsOf256;

    #[inline(always)]
    fn multiply_bytes(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2.
        Self { register: unsafe { _mm256_maddubs_epi16(self.register, other.register) }, ..self }
    }

    #[inline(always)]
    fn add_pairs(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2.
        Self { register: unsafe { _mm256_add_epi16(self.register, other.register) }, ..self }
    }

    #[inline(always)]
    fn multiply_pairs(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2.
        Self { register: unsafe { _mm256_madd_epi16(self.register, other.register) }, ..self }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2.
        Self { register: unsafe { _mm256_add_epi32(self.register, other.register) }, ..self }
    }

    #[inline(always)]
    fn to_floats(self) -> FloatsOf256 {
        // SAFETY: `self` proves that the machine has AVX2.
        FloatsOf256::new(self.simd, unsafe { _mm256_cvtepi32_ps(self.register) })
    }

    #[inline(always)]
    fn here(self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2.
        Self { register: unsafe { here_avx2(self.register) }, ..self }
    }
}

#[cfg(target_arch = "x86_64")]
impl SimdOfEight for Avx2 {
    #[inline(always)]
    fn load_bytes(self, from: &[u8; 32]) -> GroupsOf256 {
        // SAFETY: `self` proves that the machine has AVX2, and 32 bytes are there.
        GroupsOf256 { simd: self, register: unsafe { _mm256_loadu_si256(from.as_ptr().cast()) } }
    }

    #[inline(always)]
    fn load_levels(self, from: &[i8; 32]) -> GroupsOf256 {
        // SAFETY: `self` proves that the machine has AVX2, and 32 bytes are there.
        GroupsOf256 { simd: self, register: unsafe { _mm256_loadu_si256(from.as_ptr().cast()) } }
    }

    #[inline(always)]
    fn load_words(self, from: &[i16; 16]) -> GroupsOf256 {
        // SAFETY: `self` proves that the machine has AVX2, and 32 bytes are there.
        GroupsOf256 { simd: self, register: unsafe { _mm256_loadu_si256(from.as_ptr().cast()) } }
    }

    #[inline(always)]
    fn look_up(self, table: &[i8; 16], numbers: &[u8; 16]) -> GroupsOf256 {
        // SAFETY: `self` proves that the machine has AVX2, and sixteen bytes are at each.
        let register = unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            let numbers = _mm_loadu_si128(numbers.as_ptr().cast());
            let numbers = _mm256_set_m128i(_mm_srli_epi16::<4>(numbers), numbers);
            _mm256_shuffle_epi8(table, _mm256_and_si256(numbers, _mm256_set1_epi8(15)))
        };
        GroupsOf256 { simd: self, register }
    }

    #[inline(always)]
    fn halves(self, first: i32, second: i32) -> GroupsOf256 {
        // SAFETY: `self` proves that the machine has AVX2.
        let register = unsafe { _mm256_set_m128i(_mm_set1_epi32(second), _mm_set1_epi32(first)) };
        GroupsOf256 { simd: self, register }
    }
}

#[cfg(target_arch = "x86_64")]
impl EightDwords for GroupsOf256 {
    #[inline(always)]
    fn magnitudes(self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2.
        Self { register: unsafe { _mm256_abs_epi8(self.register) }, ..self }
    }

    #[inline(always)]
    fn with_signs_of(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX2.
        Self { register: unsafe { _mm256_sign_epi8(self.register, other.register) }, ..self }
    }
}

/// Sixteen groups.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct GroupsOf512 {
    simd: Avx512,
    register: __m512i,
}

#[cfg(target_arch = "x86_64")]
impl SimdOfGroups for Avx512 {
    type Dwords = GroupsOf512;

    #[inline(always)]
    fn zero_groups(self) -> GroupsOf512 {
        // SAFETY: `self` proves that the machine has AVX-512 F and BW.
        GroupsOf512 { simd: self, register: unsafe { _mm512_setzero_si512() } }
    }

    #[inline(always)]
    fn splat_group(self, group: i32) -> GroupsOf512 {
        // SAFETY: `self` proves that the machine has AVX-512 F and BW.
        GroupsOf512 { simd: self, register: unsafe { _mm512_set1_epi32(group) } }
    }

    #[inline(always)]
    fn load_groups(self, from: &[i32]) -> GroupsOf512 {
        let from = &from[..16];
        // SAFETY: `self` proves that the machine has AVX-512 F and BW, and sixteen groups are there.
        GroupsOf512 { simd: self, register: unsafe { _mm512_loadu_si512(from.as_ptr().cast()) } }
    }

    #[inline(always)]
    fn half(self, bytes: [u8; 2]) -> f32 {
        // SAFETY: `self` proves that the machine has F16C.
        unsafe { half_f16c(bytes) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Dwords for GroupsOf512 {
    type Floats = FloatsOf512;

    #[inline(always)]
    fn multiply_bytes(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and BW.
        Self { register: unsafe { _mm512_maddubs_epi16(self.register, other.register) }, ..self }
    }

    #[inline(always)]
    fn add_pairs(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and BW.
        Self { register: unsafe { _mm512_add_epi16(self.register, other.register) }, ..self }
    }

    #[inline(always)]
    fn multiply_pairs(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and BW.
        Self { register: unsafe { _mm512_madd_epi16(self.register, other.register) }, ..self }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and BW.
        Self { register: unsafe { _mm512_add_epi32(self.register, other.register) }, ..self }
    }

    #[inline(always)]
    fn to_floats(self) -> FloatsOf512 {
        // SAFETY: `self` proves that the machine has AVX-512 F and BW.
        FloatsOf512::new(self.simd, unsafe { _mm512_cvtepi32_ps(self.register) })
    }

    #[inline(always)]
    fn here(self) -> Self {
        // SAFETY: `self` proves that the machine has AVX-512 F and BW.
        Self { register: unsafe { here_avx512f(self.register) }, ..self }
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
#[cfg_attr(miri, expect(unused_mut, reason = "Miri knows no assembly"))]
fn here_avx2(mut groups: __m256i) -> __m256i {
    // SAFETY: the text is a comment: no instruction is executed, and no memory is touched.
    #[cfg(not(miri))]
    unsafe {
        std::arch::asm!("/* {0} */", inout(ymm_reg) groups, options(nomem, nostack, preserves_flags));
    }
    groups
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
#[cfg_attr(miri, expect(unused_mut, reason = "Miri knows no assembly"))]
fn here_avx512f(mut groups: __m512i) -> __m512i {
    // SAFETY: the text is a comment: no instruction is executed, and no memory is touched.
    #[cfg(not(miri))]
    unsafe {
        std::arch::asm!("/* {0} */", inout(zmm_reg) groups, options(nomem, nostack, preserves_flags));
    }
    groups
}
