//! Weights as E4M3 numbers times a scale of a row, of the tensor, or of a block.
//!
//! | who | scale | weights are |
//! |---|---|---|
//! | compressed-tensors `float-quantized` | largest / 448, in the checkpoint's type | divided by it |
//! | transformers `fp8` | 1 / (448 / largest) for each block | multiplied by 448 / largest |
//!
//! All multiply the number by the stored scale to decode, whatever the scale's name says.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over rows of a matrix whose size was checked, in groups that are not empty"
)]

use super::eight_bit_float::{LARGEST_E4M3, e4m3_from_f32};
use super::numbers::{ScaleType, number_over_tensor};

/// The largest magnitude of some weights; NaN is passed over.
pub(crate) fn largest_magnitude(weights: &[f32]) -> f32 {
    // Lanes of their own, so that the compiler may keep them in one register.
    let (chunks, rest) = weights.as_chunks::<16>();
    let mut lanes = [0.0f32; 16];
    for chunk in chunks {
        for (lane, weight) in lanes.iter_mut().zip(chunk) {
            let magnitude = weight.abs();
            *lane = if magnitude > *lane { magnitude } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(0.0, |largest, weight| weight.abs().max(largest))
}

/// The scale of weights of which the largest has this magnitude, as compressed-tensors
/// computes it.
pub(crate) fn scale(largest: f32, precision: ScaleType) -> f32 {
    let scale = precision.rounded(largest / LARGEST_E4M3);
    if scale == 0.0 { precision.epsilon() } else { scale }
}

/// Divides by the scale and rounds, as compressed-tensors does.
pub(crate) fn encode(weights: &[f32], scale: f32, precision: ScaleType, codes: &mut [u8]) {
    assert_eq!(weights.len(), codes.len(), "codes for the weights");
    match precision {
        ScaleType::F32 => {
            for (weight, code) in weights.iter().zip(codes) {
                *code = e4m3_from_f32(weight / scale);
            }
        }
        precision => {
            for (weight, code) in weights.iter().zip(codes) {
                *code = e4m3_from_f32(precision.rounded(weight / scale));
            }
        }
    }
}

/// How a block's scale is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockScale {
    /// As it is.
    F32,
    /// As the power of two that is not below it (`scale_fmt: "ue8m0"`).
    PowerOfTwo,
}

/// The scale that is stored for a block whose largest weight has this magnitude, and what
/// weights are multiplied by (transformers, `Fp8Quantize`).
pub(crate) fn block_scale(largest: f32, kind: BlockScale) -> (f32, f32) {
    let factor =
        if largest > 0.0 { number_over_tensor(ScaleType::F32, LARGEST_E4M3, largest) } else { 1.0 };
    let stored = 1.0 / factor;
    match kind {
        BlockScale::F32 => (stored, factor),
        BlockScale::PowerOfTwo => {
            let stored = power_not_below(stored.max(f32::MIN_POSITIVE));
            (stored, 1.0 / stored)
        }
    }
}

/// The least power of two that is not below a positive normal number.
fn power_not_below(value: f32) -> f32 {
    let power = f32::from_bits(value.to_bits() & 0x7f80_0000);
    if power < value { power * 2.0 } else { power }
}

/// A grid of blocks, the last of a row or column being smaller where they do not divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Blocks {
    /// Encodes rows of one row of blocks: `weights` are at most `self.rows` rows of `columns`.
    /// `scales` receives one for each block.
    pub(crate) fn encode(
        self,
        weights: &[f32],
        columns: usize,
        kind: BlockScale,
        codes: &mut [u8],
        scales: &mut Vec<f32>,
    ) {
        for (block, (stored, factor)) in self.scaled(weights, columns, kind).enumerate() {
            let own = block * self.columns..columns.min((block + 1) * self.columns);
            for (weights, codes) in weights.chunks(columns).zip(codes.chunks_mut(columns)) {
                for (weight, code) in weights[own.clone()].iter().zip(&mut codes[own.clone()]) {
                    *code = e4m3_from_f32(weight * factor);
                }
            }
            scales.push(stored);
        }
    }

    /// The stored scales of rows of one row of blocks.
    pub(crate) fn scales(
        self,
        weights: &[f32],
        columns: usize,
        kind: BlockScale,
    ) -> impl Iterator<Item = f32> {
        self.scaled(weights, columns, kind).map(|(stored, _)| stored)
    }

    /// The scales of one row of blocks, as [`block_scale`] has them.
    fn scaled(
        self,
        weights: &[f32],
        columns: usize,
        kind: BlockScale,
    ) -> impl Iterator<Item = (f32, f32)> {
        assert!(weights.len() <= self.rows * columns, "one row of blocks");
        (0..columns).step_by(self.columns).map(move |first| {
            let own = first..columns.min(first + self.columns);
            let rows = weights.chunks(columns).map(|row| largest_magnitude(&row[own.clone()]));
            block_scale(rows.fold(0.0, f32::max), kind)
        })
    }

    /// Decodes a row of numbers whose blocks have these scales.
    pub(crate) fn decode_row(self, numbers: &mut [f32], scales: &[f32]) {
        for (numbers, scale) in numbers.chunks_mut(self.columns).zip(scales) {
            numbers.iter_mut().for_each(|number| *number *= scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, bytes_of, weights};
    use crate::layouts::eight_bit_float::{f32_from_e4m3, f32_from_e8m0};

    const PRECISIONS: [(&str, ScaleType); 3] =
        [("f32", ScaleType::F32), ("bf16", ScaleType::BF16), ("f16", ScaleType::F16)];

    #[test]
    fn as_compressed_tensors_rounds() {
        for (name, precision) in PRECISIONS {
            let weights = weights(11, 12, 160, precision);
            let mut codes = vec![0; weights.len()];
            let mut scales = Vec::new();
            for (row, codes) in weights.chunks(160).zip(codes.chunks_mut(160)) {
                let scale = scale(largest_magnitude(row), precision);
                encode(row, scale, precision, codes);
                scales.push(scale);
            }
            assert_golden(&format!("ct-fp8-channel-{name}"), "codes", &codes);
            assert_golden(&format!("ct-fp8-channel-{name}"), "scales", &bytes_of(&scales));
            let scale = scale(largest_magnitude(&weights), precision);
            encode(&weights, scale, precision, &mut codes);
            assert_golden(&format!("ct-fp8-tensor-{name}"), "codes", &codes);
            assert_golden(&format!("ct-fp8-tensor-{name}"), "scales", &bytes_of(&[scale]));
        }
    }

    #[test]
    fn blocks_as_transformers_rounds_them() {
        let check = |kind: BlockScale, case: &str| {
            let blocks = Blocks { rows: 32, columns: 64 };
            let weights = weights(12, 64, 192, ScaleType::F32);
            let (mut codes, mut scales) = (vec![0; weights.len()], Vec::new());
            for (weights, codes) in weights.chunks(32 * 192).zip(codes.chunks_mut(32 * 192)) {
                blocks.encode(weights, 192, kind, codes, &mut scales);
            }
            assert_golden(case, "codes", &codes);
            let stored: Vec<u8> = match kind {
                BlockScale::F32 => bytes_of(&scales),
                BlockScale::PowerOfTwo => {
                    scales.iter().map(|scale| (scale.to_bits() >> 23) as u8).collect()
                }
            };
            assert_golden(case, "scales", &stored);
            if kind == BlockScale::PowerOfTwo {
                let back: Vec<f32> = stored.iter().map(|byte| f32_from_e8m0(*byte)).collect();
                assert_eq!(back, scales);
            }
        };
        check(BlockScale::F32, "fp8-block-float");
        check(BlockScale::PowerOfTwo, "fp8-block-ue8m0");
    }

    #[test]
    fn blocks_that_do_not_divide_come_back() {
        let blocks = Blocks { rows: 4, columns: 16 };
        let weights = weights(3, 3, 37, ScaleType::F32);
        let (mut codes, mut scales) = (vec![0; weights.len()], Vec::new());
        blocks.encode(&weights, 37, BlockScale::F32, &mut codes, &mut scales);
        assert_eq!(scales.len(), 3);
        let mut back = vec![0.0; weights.len()];
        for (number, code) in back.iter_mut().zip(&codes) {
            *number = f32_from_e4m3(*code);
        }
        for (back, weights) in back.chunks_mut(37).zip(weights.chunks(37)) {
            blocks.decode_row(back, &scales);
            for ((back, weight), column) in back.iter().zip(weights).zip(0..) {
                // Half a step of three bits of mantissa, or of the subnormals.
                let bound = (weight.abs() / 16.0).max(scales[column / 16] / 1024.0) * 1.001;
                assert!((back - weight).abs() <= bound, "{back} {weight}");
            }
        }
    }
}
