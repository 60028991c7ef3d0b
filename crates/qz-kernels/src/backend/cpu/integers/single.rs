//! One token with AVX2: rows of the types that models are stored in, multiplied without
//! leaving the registers. What limits these loops is how many instructions a block takes,
//! so the types' layouts are written out here. `dots.rs` has the same products for every
//! machine, and for more tokens.
//!
//! Integers of a block are summed exactly, eight sums beside each other, and added up
//! across lanes once for a row.

use std::arch::x86_64::*;
use std::hint::black_box;

use qz_codec::search::nonlinear;
use qz_tensor::DataType;

use crate::backend::cpu::matmul::kernel_of;
use crate::vector::{Avx2, prefetch_behind, sum_of_eight};

/// A type whose rows are multiplied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Single {
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Xs,
}

impl Single {
    pub(super) fn of(data_type: DataType) -> Option<Self> {
        let kernels = [
            (DataType::Q8_0, Single::Q8_0),
            (DataType::Q2_K, Single::Q2K),
            (DataType::Q3_K, Single::Q3K),
            (DataType::Q4_K, Single::Q4K),
            (DataType::Q5_K, Single::Q5K),
            (DataType::Q6_K, Single::Q6K),
            (DataType::IQ4_XS, Single::Iq4Xs),
        ];
        kernel_of(&kernels, data_type)
    }
}

/// A token's activations.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) levels: &'a [i8],
    /// One for each block of levels.
    pub(super) scales: &'a [f32],
    /// The sum of the levels that share a scale of weights, for types with minimums.
    pub(super) sums: &'a [i16],
}

/// The product of the token with a row.
pub(super) fn dot(_proof: Avx2, single: Single, token: Token<'_>, row: &[u8]) -> f32 {
    // SAFETY: the proof exists only if the machine has AVX2, FMA and F16C.
    unsafe { dot_avx2(single, token, row) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dot_avx2(single: Single, token: Token<'_>, row: &[u8]) -> f32 {
    // Hidden from the compiler, which would take two instructions for a selection it knows.
    let select = black_box(&SELECT);
    match single {
        Single::Q8_0 => q8_0(token, row),
        Single::Q2K => q2_k(select, token, row),
        Single::Q3K => q3_k(select, token, row),
        Single::Q4K => q4_k(select, token, row),
        Single::Q5K => q5_k(select, token, row),
        Single::Q6K => q6_k(select, token, row),
        Single::Iq4Xs => iq4_xs(select, token, row),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are there.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_levels(levels: &[i8; 32]) -> __m256i {
    // SAFETY: 32 levels are there.
    unsafe { _mm256_loadu_si256(levels.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_half(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: sixteen bytes are there.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// The first sixteen levels of two runs.
#[inline]
#[target_feature(enable = "avx2")]
fn load_two(first: &[i8; 16], second: &[i8; 16]) -> __m256i {
    // SAFETY: sixteen levels are at each.
    unsafe { _mm256_loadu2_m128i(second.as_ptr().cast(), first.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_eight_sums(sums: &[i16; 8]) -> __m128i {
    // SAFETY: eight numbers are there.
    unsafe { _mm_loadu_si128(sums.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_sixteen_sums(sums: &[i16; 16]) -> __m256i {
    // SAFETY: sixteen numbers are there.
    unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) }
}

/// The blocks of a row.
#[inline]
fn blocks<const BYTES: usize>(row: &[u8]) -> std::slice::Iter<'_, [u8; BYTES]> {
    row.as_chunks().0.iter()
}

#[inline]
fn dword(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A binary16 in all lanes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn half(bytes: [u8; 2]) -> __m256 {
    _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(bytes)))
}

/// Lane `run` of eight 16-bit scales, in each half of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn scale(select: &Selections, scales: __m256i, run: usize) -> __m256i {
    _mm256_shuffle_epi8(scales, load(&select.0[run]))
}

#[repr(align(32))]
struct Selections([[u8; 32]; 8]);

/// Both bytes of a 16-bit number, again and again.
static SELECT: Selections = {
    let mut select = [[0; 32]; 8];
    let mut run = 0;
    while run < 8 {
        let mut byte = 0;
        while byte < 32 {
            select[run][byte] = (2 * run + byte % 2) as u8;
            byte += 1;
        }
        run += 1;
    }
    Selections(select)
};

/// Adds a run's products of unsigned levels with signed ones, times its scale.
#[inline]
#[target_feature(enable = "avx2")]
fn add_run(to: __m256i, weights: __m256i, levels: __m256i, scale: __m256i) -> __m256i {
    let products = _mm256_maddubs_epi16(weights, levels);
    _mm256_add_epi32(to, _mm256_madd_epi16(products, scale))
}

/// The same of signed levels, none of which is -128 in `levels`.
#[inline]
#[target_feature(enable = "avx2")]
fn add_signed_run(to: __m256i, weights: __m256i, levels: __m256i, scale: __m256i) -> __m256i {
    let levels = _mm256_sign_epi8(levels, weights);
    add_run(to, _mm256_abs_epi8(weights), levels, scale)
}

/// Sixteen bytes for sub-blocks of sixteen weights as 16-bit numbers. The even ones, which
/// are of the first halves of runs of 32 weights, come into the first half.
#[inline]
#[target_feature(enable = "avx2")]
fn even_and_odd(scales: __m128i) -> __m256i {
    let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, order))
}

/// Bytes shifted to the right, of which `mask` leaves bits that no neighbour's came to.
#[inline]
#[target_feature(enable = "avx2")]
fn right<const SHIFT: i32>(bytes: __m256i, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srli_epi16::<SHIFT>(bytes), _mm256_set1_epi8(mask))
}

/// The same, shifted to the left.
#[inline]
#[target_feature(enable = "avx2")]
fn left<const SHIFT: i32>(bytes: __m256i, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_slli_epi16::<SHIFT>(bytes), _mm256_set1_epi8(mask))
}

/// The lower four bits of bytes and the upper ones.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(bytes: __m256i) -> [__m256i; 2] {
    [right::<0>(bytes, 15), right::<4>(bytes, 15)]
}

/// The four pairs of bits of bytes, as numbers of their own or as bits 4 and 5.
#[inline]
#[target_feature(enable = "avx2")]
fn crumbs<const FOUR: bool>(bytes: __m256i) -> [__m256i; 4] {
    if FOUR {
        let (first, second) = (left::<4>(bytes, 0x30), left::<2>(bytes, 0x30));
        [first, second, right::<0>(bytes, 0x30), right::<2>(bytes, 0x30)]
    } else {
        let (first, second) = (right::<0>(bytes, 3), right::<2>(bytes, 3));
        [first, second, right::<4>(bytes, 3), right::<6>(bytes, 3)]
    }
}

/// A block's sums times the weights' unit and the activations' scale, added to a row's.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_block(total: __m256, integers: __m256i, unit: [u8; 2], scale: f32) -> __m256 {
    let factor = _mm256_mul_ps(half(unit), _mm256_set1_ps(scale));
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(integers), factor, total)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q8_0(token: Token<'_>, row: &[u8]) -> f32 {
    let mut total = _mm256_setzero_ps();
    let blocks =
        blocks::<{ DataType::Q8_0.block_bytes() }>(row).zip(token.levels.as_chunks::<32>().0);
    for ((block, levels), scale) in blocks.zip(token.scales) {
        let [first, second, weights @ ..] = block;
        prefetch_behind(weights);
        let (zero, ones) = (_mm256_setzero_si256(), _mm256_set1_epi16(1));
        let integers = add_signed_run(zero, load(weights), load_levels(levels), ones);
        total = add_block(total, integers, [*first, *second], *scale);
    }
    sum_of_eight(total)
}

/// The twelve bytes of scales and minimums of Q4_K and Q5_K: eight scales in each half of
/// a register, and eight minimums.
#[inline]
#[target_feature(enable = "avx2")]
fn six_bits(bytes: &[u8]) -> (__m256i, __m128i) {
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const HIGH: u32 = 0x3030_3030;
    let [scales, minimums, both] = [dword(bytes, 0), dword(bytes, 4), dword(bytes, 8)];
    let pair = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)) as i64;
    let own_scales = pair(scales & SIX, both & FOUR | scales >> 2 & HIGH);
    let own_minimums = pair(minimums & SIX, both >> 4 & FOUR | minimums >> 2 & HIGH);
    let scales = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(own_scales)));
    (scales, _mm_cvtepu8_epi16(_mm_cvtsi64_si128(own_minimums)))
}

/// The minimums' part of a block of Q4_K or Q5_K, subtracted from a row's.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn subtract_minimums(
    total: __m128,
    minimums: __m128i,
    sums: &[i16; 8],
    unit: [u8; 2],
    scale: f32,
) -> __m128 {
    let factor = _mm_mul_ps(_mm256_castps256_ps128(half(unit)), _mm_set1_ps(scale));
    let products = _mm_madd_epi16(minimums, load_eight_sums(sums));
    _mm_fnmadd_ps(_mm_cvtepi32_ps(products), factor, total)
}

/// Four numbers added to a row's eight.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_with(total: __m256, four: __m128) -> f32 {
    sum_of_eight(_mm256_add_ps(total, _mm256_insertf128_ps::<0>(_mm256_setzero_ps(), four)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k(select: &Selections, token: Token<'_>, row: &[u8]) -> f32 {
    let (mut total, mut minimum) = (_mm256_setzero_ps(), _mm_setzero_ps());
    let blocks =
        blocks::<{ DataType::Q4_K.block_bytes() }>(row).zip(token.levels.as_chunks::<256>().0);
    let blocks = blocks.zip(token.scales).zip(token.sums.as_chunks::<8>().0);
    for (((block, levels), own), sums) in blocks {
        prefetch_behind(block);
        let (scales, minimums) = six_bits(&block[4..16]);
        let mut integers = _mm256_setzero_si256();
        let pairs = block[16..].as_chunks::<32>().0.iter().zip(levels.as_chunks::<64>().0);
        for (pair, (bytes, levels)) in pairs.enumerate() {
            let weights = nibbles(load(bytes));
            let levels = levels.as_chunks::<32>().0;
            for (half, weights) in weights.into_iter().enumerate() {
                let scale = scale(select, scales, 2 * pair + half);
                integers = add_run(integers, weights, load_levels(&levels[half]), scale);
            }
        }
        total = add_block(total, integers, [block[0], block[1]], *own);
        minimum = subtract_minimums(minimum, minimums, sums, [block[2], block[3]], *own);
    }
    sum_with(total, minimum)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q5_k(select: &Selections, token: Token<'_>, row: &[u8]) -> f32 {
    let (mut total, mut minimum) = (_mm256_setzero_ps(), _mm_setzero_ps());
    let blocks =
        blocks::<{ DataType::Q5_K.block_bytes() }>(row).zip(token.levels.as_chunks::<256>().0);
    let blocks = blocks.zip(token.scales).zip(token.sums.as_chunks::<8>().0);
    for (((block, levels), own), sums) in blocks {
        prefetch_behind(block);
        let (scales, minimums) = six_bits(&block[4..16]);
        let fifth = load(&block[16..48].as_chunks().0[0]);
        // Bit `run` of a byte is that of a weight of this run.
        let fifth = [
            [left::<4>(fifth, 16), left::<3>(fifth, 16)],
            [left::<2>(fifth, 16), left::<1>(fifth, 16)],
            [right::<0>(fifth, 16), right::<1>(fifth, 16)],
            [right::<2>(fifth, 16), right::<3>(fifth, 16)],
        ];
        let mut integers = _mm256_setzero_si256();
        let pairs = block[48..].as_chunks::<32>().0.iter().zip(levels.as_chunks::<64>().0);
        for (pair, ((bytes, levels), fifth)) in pairs.zip(fifth).enumerate() {
            let weights = nibbles(load(bytes)).into_iter().zip(fifth);
            let levels = levels.as_chunks::<32>().0;
            for (half, (weights, fifth)) in weights.enumerate() {
                let weights = _mm256_or_si256(weights, fifth);
                let scale = scale(select, scales, 2 * pair + half);
                integers = add_run(integers, weights, load_levels(&levels[half]), scale);
            }
        }
        total = add_block(total, integers, [block[0], block[1]], *own);
        minimum = subtract_minimums(minimum, minimums, sums, [block[2], block[3]], *own);
    }
    sum_with(total, minimum)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k(select: &Selections, token: Token<'_>, row: &[u8]) -> f32 {
    let mut total = _mm256_setzero_ps();
    let blocks =
        blocks::<{ DataType::Q6_K.block_bytes() }>(row).zip(token.levels.as_chunks::<256>().0);
    let blocks = blocks.zip(token.scales).zip(token.sums.as_chunks::<16>().0);
    for (((block, levels), own), sums) in blocks {
        prefetch_behind(block);
        let stored = load_half(&block[192..208].as_chunks().0[0]);
        let scales = even_and_odd(stored);
        let offsets = _mm256_madd_epi16(_mm256_cvtepi8_epi16(stored), load_sixteen_sums(sums));
        // Levels are stored plus 32.
        let mut integers =
            _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<5>(offsets));
        let halves = block[..128].as_chunks::<64>().0.iter().zip(block[128..192].as_chunks().0);
        for (half, ((low, high), levels)) in halves.zip(levels.as_chunks::<128>().0).enumerate() {
            let low = low.as_chunks::<32>().0;
            let ([a, c], [b, d]) = (nibbles(load(&low[0])), nibbles(load(&low[1])));
            let weights = [a, b, c, d].into_iter().zip(crumbs::<true>(load(high)));
            for (run, (low, high)) in weights.enumerate() {
                let levels = load_levels(&levels.as_chunks().0[run]);
                let scale = scale(select, scales, 4 * half + run);
                integers = add_run(integers, _mm256_or_si256(low, high), levels, scale);
            }
        }
        total = add_block(total, integers, [block[208], block[209]], *own);
    }
    sum_of_eight(total)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q2_k(select: &Selections, token: Token<'_>, row: &[u8]) -> f32 {
    let (mut total, mut minimum) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    let blocks =
        blocks::<{ DataType::Q2_K.block_bytes() }>(row).zip(token.levels.as_chunks::<256>().0);
    let blocks = blocks.zip(token.scales).zip(token.sums.as_chunks::<16>().0);
    for (((block, levels), own), sums) in blocks {
        prefetch_behind(block);
        let header = load_half(&block[..16].as_chunks().0[0]);
        let four = _mm_set1_epi8(15);
        let scales = even_and_odd(_mm_and_si128(header, four));
        let minimums = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(header), four));
        let of_minimums = _mm256_madd_epi16(minimums, load_sixteen_sums(sums));
        let mut integers = _mm256_setzero_si256();
        let halves = block[16..80].as_chunks::<32>().0.iter().zip(levels.as_chunks::<128>().0);
        for (half, (bytes, levels)) in halves.enumerate() {
            for (run, weights) in crumbs::<false>(load(bytes)).into_iter().enumerate() {
                let levels = load_levels(&levels.as_chunks().0[run]);
                let scale = scale(select, scales, 4 * half + run);
                integers = add_run(integers, weights, levels, scale);
            }
        }
        total = add_block(total, integers, [block[80], block[81]], *own);
        minimum = add_block(minimum, of_minimums, [block[82], block[83]], *own);
    }
    sum_of_eight(_mm256_sub_ps(total, minimum))
}

/// The sixteen scales of Q3_K, of six bits.
#[inline]
#[target_feature(enable = "avx2")]
fn sixteen_scales(bytes: &[u8]) -> __m128i {
    const FOUR: u32 = 0x0f0f_0f0f;
    const HIGH: u32 = 0x3030_3030;
    let [first, second, high] = [dword(bytes, 0), dword(bytes, 4), dword(bytes, 8)];
    let scales = _mm_setr_epi32(
        (first & FOUR | high << 4 & HIGH) as i32,
        (second & FOUR | high << 2 & HIGH) as i32,
        (first >> 4 & FOUR | high & HIGH) as i32,
        (second >> 4 & FOUR | high >> 2 & HIGH) as i32,
    );
    _mm_sub_epi8(scales, _mm_set1_epi8(32))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q3_k(select: &Selections, token: Token<'_>, row: &[u8]) -> f32 {
    let mut total = _mm256_setzero_ps();
    let blocks =
        blocks::<{ DataType::Q3_K.block_bytes() }>(row).zip(token.levels.as_chunks::<256>().0);
    let blocks = blocks.zip(token.scales).zip(token.sums.as_chunks::<16>().0);
    for (((block, levels), own), sums) in blocks {
        prefetch_behind(block);
        let stored = sixteen_scales(&block[96..108]);
        let scales = even_and_odd(stored);
        let offsets = _mm256_madd_epi16(_mm256_cvtepi8_epi16(stored), load_sixteen_sums(sums));
        // Levels are stored plus 4.
        let mut integers =
            _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<2>(offsets));
        let third = load(&block[..32].as_chunks().0[0]);
        // Bit `run` of a byte is that of a weight of this run.
        let third = [
            [left::<2>(third, 4), left::<1>(third, 4), right::<0>(third, 4), right::<1>(third, 4)],
            [
                right::<2>(third, 4),
                right::<3>(third, 4),
                right::<4>(third, 4),
                right::<5>(third, 4),
            ],
        ];
        let halves = block[32..96].as_chunks::<32>().0.iter().zip(third);
        for (half, ((low, high), levels)) in halves.zip(levels.as_chunks::<128>().0).enumerate() {
            let weights = crumbs::<false>(load(low)).into_iter().zip(high);
            for (run, (low, high)) in weights.enumerate() {
                let levels = load_levels(&levels.as_chunks().0[run]);
                let scale = scale(select, scales, 4 * half + run);
                integers = add_run(integers, _mm256_or_si256(low, high), levels, scale);
            }
        }
        total = add_block(total, integers, [block[108], block[109]], *own);
    }
    sum_of_eight(total)
}

/// The eight scales of IQ4_XS, in the lower bits of 32 each: the even ones first.
#[inline]
#[target_feature(enable = "avx2")]
fn eight_scales(block: &[u8; 136]) -> __m256i {
    let high = i32::from(u16::from_le_bytes([block[2], block[3]]));
    let high = _mm256_set1_epi32(high << 4);
    let high = _mm256_srlv_epi32(high, _mm256_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14));
    let low = _mm256_set1_epi32(dword(block, 4) as i32);
    let low = _mm256_srlv_epi32(low, _mm256_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28));
    let high = _mm256_and_si256(high, _mm256_set1_epi32(0x30));
    let low = _mm256_and_si256(low, _mm256_set1_epi32(15));
    _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn iq4_xs(select: &Selections, token: Token<'_>, row: &[u8]) -> f32 {
    // SAFETY: sixteen levels are there.
    let table = unsafe { _mm_loadu_si128(nonlinear::LEVELS.as_ptr().cast()) };
    let table = _mm256_broadcastsi128_si256(table);
    let mut total = _mm256_setzero_ps();
    let blocks =
        blocks::<{ DataType::IQ4_XS.block_bytes() }>(row).zip(token.levels.as_chunks::<256>().0);
    for ((block, levels), own) in blocks.zip(token.scales) {
        prefetch_behind(block);
        let scales = eight_scales(block);
        let mut integers = _mm256_setzero_si256();
        let pairs = block[8..].as_chunks::<32>().0.iter().zip(levels.as_chunks::<64>().0);
        for (pair, (bytes, levels)) in pairs.enumerate() {
            // A run's first half is in the lower four bits of its bytes: taken together,
            // the first halves of two runs, and the second ones.
            let scale = scale(select, scales, 2 * pair);
            let [a, b, c, d] = &levels.as_chunks::<16>().0 else { continue };
            let [first, second] = nibbles(load(bytes));
            let first = _mm256_shuffle_epi8(table, first);
            integers = add_signed_run(integers, first, load_two(a, c), scale);
            let second = _mm256_shuffle_epi8(table, second);
            integers = add_signed_run(integers, second, load_two(b, d), scale);
        }
        total = add_block(total, integers, [block[0], block[1]], *own);
    }
    sum_of_eight(total)
}
