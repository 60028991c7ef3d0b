//! Registers of eight numbers.

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Sub};

use qz_codec::lanes::{LANES, Lanes, Mask};

use super::lanes::{
    fold_fours, for_each_register, lanes, registers, transpose_bytes, transpose_fours,
};
use super::{ROUNDING_OFFSET, sixteen_bytes};

type Register = __m256;
type Decision = __m256;

lanes! { [0 1], 2 }

/// Combines the numbers of eight blocks, each with those of its block.
macro_rules! fold_blocks {
    ($blocks:ident, $fold:ident) => {{
        let mut fours = [_mm256_setzero_ps(); 2];
        for (four, blocks) in fours.iter_mut().zip($blocks.as_chunks::<4>().0) {
            let mut folded = [_mm256_setzero_ps(); 4];
            for (folded, [a, b, c, d]) in folded.iter_mut().zip(blocks) {
                *folded = $fold($fold(*a, *b), $fold(*c, *d));
            }
            *four = fold_fours!(
                folded,
                $fold,
                _mm256_unpacklo_ps,
                _mm256_unpackhi_ps,
                _mm256_shuffle_ps
            );
        }
        let [first, second] = fours;
        $fold(
            _mm256_permute2f128_ps::<0x20>(first, second),
            _mm256_permute2f128_ps::<0x31>(first, second),
        )
    }};
}

registers! { "avx2,f16c":
    load(numbers: &[f32; 8]) -> Register {
        // SAFETY: the pointer is to eight numbers.
        unsafe { _mm256_loadu_ps(numbers.as_ptr()) }
    }

    store(a: Register, numbers: &mut [f32; 8]) -> () {
        // SAFETY: the pointer is to eight numbers.
        unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), a) }
    }

    splat(number: f32) -> Register { _mm256_set1_ps(number) }
    splat_half(half: u16) -> Register { _mm256_cvtph_ps(_mm_set1_epi16(half as i16)) }
    add(a: Register, b: Register) -> Register { _mm256_add_ps(a, b) }
    sub(a: Register, b: Register) -> Register { _mm256_sub_ps(a, b) }
    mul(a: Register, b: Register) -> Register { _mm256_mul_ps(a, b) }
    div(a: Register, b: Register) -> Register { _mm256_div_ps(a, b) }
    neg(a: Register) -> Register { _mm256_xor_ps(a, _mm256_set1_ps(-0.0)) }
    abs(a: Register) -> Register { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }

    // The second where they are equal, or either is a NaN, as the trait wants it.
    min(a: Register, b: Register) -> Register { _mm256_min_ps(a, b) }
    max(a: Register, b: Register) -> Register { _mm256_max_ps(a, b) }

    less(a: Register, b: Register) -> Decision { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    equal(a: Register, b: Register) -> Decision { _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b) }
    unequal(a: Register, b: Register) -> Decision { _mm256_cmp_ps::<_CMP_NEQ_UQ>(a, b) }
    bitand(a: Decision, b: Decision) -> Decision { _mm256_and_ps(a, b) }
    bitor(a: Decision, b: Decision) -> Decision { _mm256_or_ps(a, b) }
    any(a: Decision) -> bool { _mm256_movemask_ps(a) != 0 }

    select(decision: Decision, set: Register, unset: Register) -> Register {
        _mm256_blendv_ps(unset, set, decision)
    }

    // The mantissa as an integer above 2^23, and its lowest byte likewise.
    mantissa(a: Register) -> Register {
        let bits = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x007f_ffff));
        _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x4b00_0000)))
    }

    low_mantissa(a: Register) -> Register {
        let bits = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x0000_00ff));
        _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x4b00_0000)))
    }

    as_integers(a: Register) -> __m256i { _mm256_castps_si256(a) }
    truncate(a: Register) -> __m256i { _mm256_cvttps_epi32(a) }

    low_bytes(integers: [__m256i; 2]) -> [u8; LANES] {
        let [a, b] = integers;
        let byte = _mm256_set1_epi32(0xff);
        let pairs = _mm256_packus_epi32(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
        // Within its part of 128 bits each instruction has packed four of `a` beside
        // four of `b`.
        let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
        let (low, high) = (_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        sixteen_bytes(_mm_packus_epi16(low, high))
    }

    pattern_bits(a: Register, shift: u32, mask: u32) -> Register {
        let shifted = _mm256_srl_epi32(_mm256_castps_si256(a), _mm_cvtsi32_si128(shift as i32));
        _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(mask as i32)))
    }

    least(a: [Register; 2]) -> f32 {
        let eight = _mm256_min_ps(a[0], a[1]);
        let four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_min_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }

    bits(a: Decision) -> u32 { _mm256_movemask_ps(a) as u32 }

    // Integers in 0..128 stay, and the least one becomes zero.
    saturated_bytes(integers: [__m256i; 2]) -> [u8; LANES] {
        let pairs = _mm256_packs_epi32(integers[0], integers[1]);
        let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
        let (low, high) = (_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        sixteen_bytes(_mm_packus_epi16(low, high))
    }

    from_bytes(bytes: &[u8; 8]) -> Register {
        // SAFETY: the pointer is to eight bytes.
        let bytes = unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) };
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
    }

    from_signed_bytes(bytes: &[i8; 8]) -> Register {
        // SAFETY: the pointer is to eight bytes.
        let bytes = unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) };
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
    }

    ranges(blocks: &[&[f32; 32]; LANES]) -> ([Register; 2], [Register; 2]) {
        let (mut least, mut greatest) = ([_mm256_setzero_ps(); 2], [_mm256_setzero_ps(); 2]);
        for (half, blocks) in blocks.as_chunks::<8>().0.iter().enumerate() {
            let mut registers = [[_mm256_setzero_ps(); 4]; 8];
            for (registers, block) in registers.iter_mut().zip(blocks) {
                for (register, numbers) in registers.iter_mut().zip(block.as_chunks().0) {
                    *register = load(numbers);
                }
            }
            least[half] = fold_blocks!(registers, _mm256_min_ps);
            greatest[half] = fold_blocks!(registers, _mm256_max_ps);
        }
        (least, greatest)
    }

    transpose_quarter(blocks: &[&[f32; LANES]; 8], quarter: usize) -> [Register; 4] {
        let mut registers = [_mm256_setzero_ps(); 4];
        for (position, register) in registers.iter_mut().enumerate() {
            let low = &blocks[position].as_chunks::<4>().0[quarter];
            let high = &blocks[position + 4].as_chunks::<4>().0[quarter];
            // SAFETY: the pointers are to four numbers.
            let (low, high) = unsafe { (_mm_loadu_ps(low.as_ptr()), _mm_loadu_ps(high.as_ptr())) };
            *register = _mm256_set_m128(high, low);
        }
        transpose_fours!(registers, _mm256_unpacklo_ps, _mm256_unpackhi_ps, _mm256_shuffle_ps)
    }
}
