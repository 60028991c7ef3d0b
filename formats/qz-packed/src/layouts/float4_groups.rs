//! Weights as E2M1 numbers in groups: NVFP4 with an E4M3 scale for 16 and one binary32 for
//! the tensor, MXFP4 with a power of two for 32.
//!
//! compressed-tensors divides by the tensor's scale, ModelOpt multiplies with it. In both
//! the first of two weights in a byte is in its low half.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over rows of a matrix whose size was checked, in groups that are not empty"
)]

use super::eight_bit_float::{LARGEST_E4M3, e4m3_from_f32, f32_from_e4m3, f32_from_e8m0};
use super::float8_rounding::largest_magnitude;
use super::four_bit_float::{LARGEST, code_of, decode_low_first, pack_low_first};
use super::microscaling::ExponentRule;
use super::numbers::{ScaleType, number_over_tensor};

/// Weights that share a scale in NVFP4.
pub(crate) const NVFP4_GROUP: usize = 16;
/// Weights that share a scale in MXFP4.
pub(crate) const MXFP4_GROUP: usize = 32;

/// What a group's largest weight may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Six, the largest number.
    Six,
    /// Six or four, whatever leaves less error: between four and six there is no number (Four
    /// Over Six, arXiv 2512.02010).
    SixOrFour,
}

impl Edge {
    /// The stored scale of a tensor's largest weight: one and a half times it is one, too.
    fn top(self) -> f32 {
        match self {
            Self::Six => LARGEST_E4M3,
            Self::SixOrFour => 256.0,
        }
    }
}

/// The scale of a tensor that group scales are multiplied by before they are stored, from
/// its largest magnitude (compressed-tensors, `generate_gparam`). Tensors that an engine
/// multiplies as one share it.
pub(crate) fn global_scale(largest: f32, precision: ScaleType, edge: Edge) -> f32 {
    let least = match precision {
        ScaleType::F16 => 1.0 / 16_384.0,
        ScaleType::F32 | ScaleType::BF16 => f32::MIN_POSITIVE,
    };
    let scale = number_over_tensor(precision, edge.top() * LARGEST, largest.max(least));
    if scale.is_finite() { scale } else { 1.0 }
}

/// The same for ModelOpt, which multiplies with it (`get_weights_scaling_factor_2`). Of nothing but
/// zeros it would be no scale.
pub(crate) fn global_factor(largest: f32, edge: Edge) -> f32 {
    let factor = largest / (LARGEST * edge.top());
    if factor > 0.0 && factor.is_finite() { factor } else { 1.0 }
}

/// Encodes whole groups: one byte for two weights, one E4M3 scale for each group.
///
/// # Panics
/// If the groups are not whole, or the lengths do not fit.
pub(crate) fn encode_nvfp4(
    weights: &[f32],
    (tensor, edge): (TensorScale, Edge),
    precision: ScaleType,
    packed: &mut [u8],
    scales: &mut [u8],
) {
    let (groups, rest) = weights.as_chunks::<NVFP4_GROUP>();
    assert!(rest.is_empty() && groups.len() == scales.len(), "groups are not whole");
    let packed = packed.as_chunks_mut::<{ NVFP4_GROUP / 2 }>().0;
    for ((weights, packed), stored) in groups.iter().zip(packed).zip(scales) {
        let largest = largest_magnitude(weights);
        *stored = nvfp4_scale(largest, tensor, precision);
        *packed = encode_group(weights, nvfp4_factor(*stored, tensor));
        if edge == Edge::SixOrFour {
            let wider = nvfp4_scale(largest * (LARGEST / 4.0), tensor, precision);
            let other = encode_group(weights, nvfp4_factor(wider, tensor));
            let error = |packed: &[u8], scale| squared_error(weights, packed, scale, tensor);
            if error(&other, wider) < error(packed, *stored) {
                (*stored, *packed) = (wider, other);
            }
        }
    }
}

/// What a group's codes leave of its weights, squared.
fn squared_error(
    weights: &[f32; NVFP4_GROUP],
    packed: &[u8],
    scale: u8,
    tensor: TensorScale,
) -> f32 {
    let mut numbers = [0.0; NVFP4_GROUP];
    decode_low_first(packed, nvfp4_factor(scale, tensor), &mut numbers);
    numbers.iter().zip(weights).map(|(number, weight)| (number - weight).powi(2)).sum()
}

/// The stored scale of a group whose largest weight has this magnitude.
fn nvfp4_scale(largest: f32, tensor: TensorScale, precision: ScaleType) -> u8 {
    /// What compressed-tensors takes instead of zero, the type's epsilon.
    const EPSILON: f32 = 0.125;
    /// The least number of E4M3, 2^-9.
    const LEAST: f32 = 0.001_953_125;
    match tensor {
        TensorScale::Divisor(divisor) => {
            let scale = e4m3_from_f32(precision.rounded(largest / LARGEST) * divisor);
            if scale == 0 { e4m3_from_f32(EPSILON) } else { scale }
        }
        TensorScale::Factor(factor) => {
            let scale = largest / (LARGEST * factor);
            let scale = if scale == 0.0 { 1.0 } else { scale };
            e4m3_from_f32(scale.max(LEAST))
        }
    }
}

/// Encodes whole groups: one byte for two weights, one exponent for each group.
///
/// # Panics
/// If the groups are not whole, or the lengths do not fit.
pub(crate) fn encode_mxfp4(
    weights: &[f32],
    precision: ScaleType,
    packed: &mut [u8],
    exponents: &mut [u8],
) {
    let (groups, rest) = weights.as_chunks::<MXFP4_GROUP>();
    assert!(rest.is_empty() && groups.len() == exponents.len(), "groups are not whole");
    let packed = packed.as_chunks_mut::<{ MXFP4_GROUP / 2 }>().0;
    for ((weights, packed), exponent) in groups.iter().zip(packed).zip(exponents) {
        *exponent = ExponentRule::E2M1.exponent(largest_magnitude(weights), precision);
        *packed = encode_group(weights, f32_from_e8m0(*exponent));
    }
}

#[inline(always)]
fn encode_group<const N: usize, const BYTES: usize>(weights: &[f32; N], scale: f32) -> [u8; BYTES] {
    let mut codes = [0; N];
    for (code, weight) in codes.iter_mut().zip(weights) {
        *code = code_of(weight / scale);
    }
    let mut packed = [0; BYTES];
    pack_low_first(&codes, &mut packed);
    packed
}

/// Whether group scales are divided by or multiplied with the tensor's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TensorScale {
    /// As compressed-tensors has it.
    Divisor(f32),
    /// As ModelOpt has it.
    Factor(f32),
}

/// Decodes whole groups.
pub(crate) fn decode_nvfp4(packed: &[u8], scales: &[u8], tensor: TensorScale, out: &mut [f32]) {
    let groups = packed.chunks(NVFP4_GROUP / 2).zip(out.chunks_mut(NVFP4_GROUP));
    for ((packed, out), scale) in groups.zip(scales) {
        decode_low_first(packed, nvfp4_factor(*scale, tensor), out);
    }
}

/// What the numbers of a group with this stored scale are multiplied by.
pub(crate) fn nvfp4_factor(scale: u8, tensor: TensorScale) -> f32 {
    match tensor {
        TensorScale::Divisor(divisor) => f32_from_e4m3(scale) / divisor,
        TensorScale::Factor(factor) => f32_from_e4m3(scale) * factor,
    }
}

/// Decodes whole groups.
pub(crate) fn decode_mxfp4(packed: &[u8], exponents: &[u8], out: &mut [f32]) {
    let groups = packed.chunks(MXFP4_GROUP / 2).zip(out.chunks_mut(MXFP4_GROUP));
    for ((packed, out), exponent) in groups.zip(exponents) {
        decode_low_first(packed, f32_from_e8m0(*exponent), out);
    }
}

/// The same weights as blocks of GGML's MXFP4, value for value: there the first half of a
/// group is in the low halves of the bytes.
pub(crate) fn mxfp4_to_ggml(packed: &[u8], exponents: &[u8], out: &mut [u8]) {
    const HALF: usize = MXFP4_GROUP / 2;
    let groups = packed.as_chunks::<HALF>().0.iter();
    for ((packed, exponent), block) in groups.zip(exponents).zip(out.as_chunks_mut::<17>().0) {
        block[0] = *exponent;
        for (position, byte) in block[1..].iter_mut().enumerate() {
            *byte = nibble(packed, position) | nibble(packed, position + HALF) << 4;
        }
    }
}

/// Undoes [`mxfp4_to_ggml`]: codes, and exponents.
pub(crate) fn mxfp4_from_ggml(blocks: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut packed, mut exponents) = (Vec::new(), Vec::new());
    for block in blocks.as_chunks::<17>().0 {
        exponents.push(block[0]);
        for halves in [0, 4] {
            let codes = block[1..].as_chunks::<2>().0.iter();
            packed.extend(codes.map(|pair| pair[0] >> halves & 15 | (pair[1] >> halves & 15) << 4));
        }
    }
    (packed, exponents)
}

/// The code at a position, the low half of a byte first.
#[inline(always)]
fn nibble(packed: &[u8], position: usize) -> u8 {
    packed[position / 2] >> (position % 2 * 4) & 15
}

/// The same weights as blocks of GGML's NVFP4, value for value where the tensor's scale is
/// one: 64 weights, four scales and then four times eight bytes, in which the first half of
/// a group is low.
pub(crate) fn nvfp4_to_ggml(packed: &[u8], scales: &[u8], out: &mut [u8]) {
    const HALF: usize = NVFP4_GROUP / 2;
    let blocks = packed.as_chunks::<32>().0.iter().zip(scales.as_chunks::<4>().0);
    for ((packed, scales), block) in blocks.zip(out.as_chunks_mut::<36>().0) {
        block[..4].copy_from_slice(scales);
        let groups = packed.as_chunks::<HALF>().0.iter();
        for (packed, bytes) in groups.zip(block[4..].as_chunks_mut::<HALF>().0) {
            for (position, byte) in bytes.iter_mut().enumerate() {
                *byte = nibble(packed, position) | nibble(packed, position + HALF) << 4;
            }
        }
    }
}

/// True if a scale of GGML's NVFP4 is read as E4M3 is: it has no sign, and no NaN.
pub(crate) fn is_ggml_scale(scale: u8) -> bool {
    scale < 0x7f
}

#[cfg(test)]
mod tests {
    use super::super::four_bit_float::VALUES;
    use super::*;
    use crate::golden::{assert_golden, bytes_of, golden, weights};
    use qz_tensor::DataType;

    /// The largest relative error of rounding to E2M1 below its largest number.
    const RELATIVE_ERROR: f32 = 1.0 / 4.0;

    const PRECISIONS: [(&str, ScaleType); 3] =
        [("f32", ScaleType::F32), ("bf16", ScaleType::BF16), ("f16", ScaleType::F16)];

    #[test]
    fn nvfp4_as_compressed_tensors_makes_it() {
        for (name, precision) in PRECISIONS {
            let case = format!("ct-nvfp4a16-{name}");
            let weights = weights(13, 8, 128, precision);
            let global = global_scale(largest_magnitude(&weights), precision, Edge::Six);
            let (mut packed, mut scales) = (vec![0; 512], vec![0; 64]);
            let tensor = TensorScale::Divisor(global);
            encode_nvfp4(&weights, (tensor, Edge::Six), precision, &mut packed, &mut scales);
            assert_golden(&case, "global", &global.to_le_bytes());
            assert_golden(&case, "scales", &scales);
            assert_golden(&case, "packed", &packed);
            let mut back = vec![0.0; weights.len()];
            decode_nvfp4(&packed, &scales, TensorScale::Divisor(global), &mut back);
            for (group, (back, weights)) in back.chunks(16).zip(weights.chunks(16)).enumerate() {
                let scale = f32_from_e4m3(scales[group]) / global;
                for (back, weight) in back.iter().zip(weights) {
                    let bound = (weight.abs() * RELATIVE_ERROR).max(scale / 4.0) * 1.1;
                    assert!((back - weight).abs() <= bound, "{back} {weight}");
                }
            }
        }
    }

    #[test]
    fn mxfp4_as_compressed_tensors_makes_it() {
        for (name, precision) in PRECISIONS {
            let case = format!("ct-mxfp4a16-{name}");
            let weights = weights(13, 8, 128, precision);
            let (mut packed, mut exponents) = (vec![0; 512], vec![0; 32]);
            encode_mxfp4(&weights, precision, &mut packed, &mut exponents);
            assert_golden(&case, "scales", &exponents);
            assert_golden(&case, "packed", &packed);
            let mut back = vec![0.0; weights.len()];
            decode_mxfp4(&packed, &exponents, &mut back);
            // compressed-tensors decodes to bfloat16, which holds E2M1 times a power of two.
            assert_golden(&case, "decoded", &bytes_of(&back));
        }
    }

    #[test]
    fn gpt_oss_as_transformers_reads_it() {
        let mut back = vec![0.0; 512];
        decode_mxfp4(&golden("gpt-oss", "blocks"), &golden("gpt-oss", "scales"), &mut back);
        assert_golden("gpt-oss", "decoded", &bytes_of(&back));
    }

    #[test]
    fn multiplier_and_divisor_mean_the_same() {
        let (packed, scales) = ([0x17, 0x2a, 0, 0, 0xf0, 0x3c, 0x44, 0x99], [0x45]);
        let (mut divided, mut multiplied) = ([0.0; 16], [0.0; 16]);
        decode_nvfp4(&packed, &scales, TensorScale::Divisor(32.0), &mut divided);
        decode_nvfp4(&packed, &scales, TensorScale::Factor(1.0 / 32.0), &mut multiplied);
        assert_eq!(divided, multiplied);
    }

    /// GGML's blocks must decode to the very same numbers.
    #[test]
    fn ggml_holds_the_same_numbers() {
        let weights = weights(13, 8, 128, ScaleType::F32);
        let (mut packed, mut exponents) = (vec![0; 512], vec![0; 32]);
        encode_mxfp4(&weights, ScaleType::F32, &mut packed, &mut exponents);
        let mut blocks = vec![0; 32 * 17];
        mxfp4_to_ggml(&packed, &exponents, &mut blocks);
        let (mut ours, mut theirs) = (vec![0.0; 1024], vec![0.0; 1024]);
        decode_mxfp4(&packed, &exponents, &mut ours);
        assert_eq!(mxfp4_from_ggml(&blocks), (packed.clone(), exponents.clone()));
        let codec = |data_type| qz_codec::codec_for(data_type).expect("a codec");
        codec(DataType::MXFP4).decode(&blocks, &mut theirs);
        assert_eq!(ours, theirs);

        let mut scales = vec![0; 64];
        let one = TensorScale::Divisor(1.0);
        encode_nvfp4(&weights, (one, Edge::Six), ScaleType::F32, &mut packed, &mut scales);
        assert!(scales.iter().all(|scale| is_ggml_scale(*scale)));
        let mut blocks = vec![0; 16 * 36];
        nvfp4_to_ggml(&packed, &scales, &mut blocks);
        decode_nvfp4(&packed, &scales, TensorScale::Divisor(1.0), &mut ours);
        codec(DataType::NVFP4).decode(&blocks, &mut theirs);
        assert_eq!(ours, theirs);
    }

    #[test]
    fn every_code_has_a_number() {
        for (code, value) in VALUES.iter().enumerate() {
            let mut out = [0.0; 2];
            decode_low_first(&[code as u8], 2.0, &mut out);
            assert_eq!(out, [value * 2.0, 0.0]);
        }
    }
}
