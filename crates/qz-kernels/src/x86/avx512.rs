//! Registers of sixteen numbers.

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Sub};

use qz_codec::lanes::{LANES, Lanes, Mask};

use super::lanes::{
    fold_fours, for_each_register, lanes, registers, transpose_bytes, transpose_fours,
};
use super::{ROUNDING_OFFSET, sixteen_bytes};

type Register = __m512;
type Decision = __mmask16;

lanes! { [0], 1 }

/// Combines the numbers of sixteen blocks, each with those of its block.
macro_rules! fold_blocks {
    ($blocks:ident, $fold:ident) => {{
        let mut fours = [_mm512_setzero_ps(); 4];
        for (four, blocks) in fours.iter_mut().zip($blocks.as_chunks::<4>().0) {
            let mut folded = [_mm512_setzero_ps(); 4];
            for (folded, [a, b]) in folded.iter_mut().zip(blocks) {
                *folded = $fold(*a, *b);
            }
            *four = fold_fours!(
                folded,
                $fold,
                _mm512_unpacklo_ps,
                _mm512_unpackhi_ps,
                _mm512_shuffle_ps
            );
        }
        // What is left is the combination of the four parts of 128 bits.
        let [a, b, c, d] = fours;
        let ab = $fold(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let cd = $fold(_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        [$fold(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd))]
    }};
}

registers! { "avx512f,avx512bw,avx512dq,avx512vl":
    load(numbers: &[f32; 16]) -> Register {
        // SAFETY: the pointer is to sixteen numbers.
        unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
    }

    store(a: Register, numbers: &mut [f32; 16]) -> () {
        // SAFETY: the pointer is to sixteen numbers.
        unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), a) }
    }

    splat(number: f32) -> Register { _mm512_set1_ps(number) }
    splat_half(half: u16) -> Register { _mm512_cvtph_ps(_mm256_set1_epi16(half as i16)) }
    add(a: Register, b: Register) -> Register { _mm512_add_ps(a, b) }
    sub(a: Register, b: Register) -> Register { _mm512_sub_ps(a, b) }
    mul(a: Register, b: Register) -> Register { _mm512_mul_ps(a, b) }
    div(a: Register, b: Register) -> Register { _mm512_div_ps(a, b) }
    neg(a: Register) -> Register { _mm512_xor_ps(a, _mm512_set1_ps(-0.0)) }
    abs(a: Register) -> Register { _mm512_abs_ps(a) }

    // The second where they are equal, or either is a NaN, as the trait wants it.
    min(a: Register, b: Register) -> Register { _mm512_min_ps(a, b) }
    max(a: Register, b: Register) -> Register { _mm512_max_ps(a, b) }

    less(a: Register, b: Register) -> Decision { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    equal(a: Register, b: Register) -> Decision { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    unequal(a: Register, b: Register) -> Decision { _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, b) }
    bitand(a: Decision, b: Decision) -> Decision { a & b }
    bitor(a: Decision, b: Decision) -> Decision { a | b }
    any(a: Decision) -> bool { a != 0 }

    select(decision: Decision, set: Register, unset: Register) -> Register {
        _mm512_mask_blend_ps(decision, unset, set)
    }

    // The mantissa as an integer above 2^23, and its lowest byte likewise.
    mantissa(a: Register) -> Register {
        let bits = _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x007f_ffff));
        _mm512_castsi512_ps(_mm512_or_si512(bits, _mm512_set1_epi32(0x4b00_0000)))
    }

    low_mantissa(a: Register) -> Register {
        let bits = _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x0000_00ff));
        _mm512_castsi512_ps(_mm512_or_si512(bits, _mm512_set1_epi32(0x4b00_0000)))
    }

    as_integers(a: Register) -> __m512i { _mm512_castps_si512(a) }
    truncate(a: Register) -> __m512i { _mm512_cvttps_epi32(a) }
    low_bytes(integers: [__m512i; 1]) -> [u8; LANES] {
        sixteen_bytes(_mm512_cvtepi32_epi8(integers[0]))
    }

    pattern_bits(a: Register, shift: u32, mask: u32) -> Register {
        let shifted = _mm512_srl_epi32(_mm512_castps_si512(a), _mm_cvtsi32_si128(shift as i32));
        _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(mask as i32)))
    }

    least(a: [Register; 1]) -> f32 { _mm512_reduce_min_ps(a[0]) }
    bits(a: Decision) -> u32 { u32::from(a) }

    // Integers in 0..128 stay, and the least one becomes zero.
    saturated_bytes(integers: [__m512i; 1]) -> [u8; LANES] {
        sixteen_bytes(_mm512_cvtepi32_epi8(integers[0]))
    }

    from_bytes(bytes: &[u8; 16]) -> Register {
        // SAFETY: the pointer is to sixteen bytes.
        let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
    }

    from_signed_bytes(bytes: &[i8; 16]) -> Register {
        // SAFETY: the pointer is to sixteen bytes.
        let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
    }

    ranges(blocks: &[&[f32; 32]; LANES]) -> ([Register; 1], [Register; 1]) {
        let mut registers = [[_mm512_setzero_ps(); 2]; LANES];
        for (registers, block) in registers.iter_mut().zip(blocks) {
            for (register, numbers) in registers.iter_mut().zip(block.as_chunks().0) {
                *register = load(numbers);
            }
        }
        (fold_blocks!(registers, _mm512_min_ps), fold_blocks!(registers, _mm512_max_ps))
    }

    transpose_quarter(blocks: &[&[f32; LANES]; 16], quarter: usize) -> [Register; 4] {
        let mut registers = [_mm512_setzero_ps(); 4];
        for (position, register) in registers.iter_mut().enumerate() {
            let part = |number: usize| blocks[position + 4 * number].as_chunks::<4>().0[quarter].as_ptr();
            // SAFETY: the pointers are to four numbers.
            *register = unsafe {
                let register = _mm512_castps128_ps512(_mm_loadu_ps(part(0)));
                let register = _mm512_insertf32x4::<1>(register, _mm_loadu_ps(part(1)));
                let register = _mm512_insertf32x4::<2>(register, _mm_loadu_ps(part(2)));
                _mm512_insertf32x4::<3>(register, _mm_loadu_ps(part(3)))
            };
        }
        transpose_fours!(registers, _mm512_unpacklo_ps, _mm512_unpackhi_ps, _mm512_shuffle_ps)
    }
}
