//! How an engine rounds activations before it multiplies them with weights.

use qz_codec::number::{f16_from_f32, f32_from_f16};
use qz_tensor::DataType;

use crate::codec_for;

/// What becomes of activations before a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Nothing.
    Exact,
    /// What ggml does on a processor: they get the type that goes with the weights'
    /// ([`activation_type`]).
    #[default]
    Engine,
}

/// The type in which ggml's processor backend multiplies activations with weights of a
/// type; F32, which rounds nothing, where there is no codec.
pub fn activation_type(weights: DataType) -> DataType {
    qz_codec::codec_for(weights).map_or(DataType::F32, |codec| codec.spec().activations)
}

/// Rounds rows of activations to `data_type` and back. The products of ggml's integer
/// dot products are those of the rounded numbers, but for the order of their sums, and
/// for the sum that a Q8_1 block keeps in 16 bits.
pub fn round_activations(data_type: DataType, columns: usize, values: &mut [f32]) {
    if data_type == DataType::F32 {
        return;
    }
    if data_type == DataType::Q8_1 {
        return values.as_chunks_mut().0.iter_mut().for_each(round_q8_1);
    }
    let Some(codec) = codec_for(data_type) else { return };
    let row_bytes = columns / data_type.block_elements() * data_type.block_bytes();
    let mut bytes = vec![0; row_bytes];
    for row in values.chunks_exact_mut(columns) {
        codec.encode(row, columns, None, &mut bytes);
        codec.decode(&bytes, row);
    }
}

/// Q8_1: signed bytes times a 16-bit scale (`quantize_row_q8_1_ref` in ggml-quants.c).
fn round_q8_1(block: &mut [f32; 32]) {
    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    let stored = f32_from_f16(f16_from_f32(scale));
    for value in block {
        *value = (*value * inverse).round() * stored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_activations() {
        let check = |weights: DataType, expected: DataType| {
            assert_eq!(activation_type(weights), expected, "{weights}");
        };
        check(DataType::F32, DataType::F32);
        check(DataType::F16, DataType::F16);
        check(DataType::BF16, DataType::BF16);
        check(DataType::Q4_0, DataType::Q8_0);
        check(DataType::IQ4_NL, DataType::Q8_0);
        check(DataType::MXFP4, DataType::Q8_0);
        check(DataType::NVFP4, DataType::Q8_0);
        check(DataType::Q5_1, DataType::Q8_1);
        check(DataType::Q2_K, DataType::Q8_K);
        check(DataType::IQ4_XS, DataType::Q8_K);
        check(DataType::TQ2_0, DataType::Q8_K);
    }
}
