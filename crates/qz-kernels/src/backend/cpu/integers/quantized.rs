//! Activations as ggml rounds them: signed levels with a scale for each block.

use qz_codec::number::f32_from_f16;
use qz_tensor::DataType;
use rayon::prelude::*;

use crate::codec_for;

/// Rows of activations in Q8_0, Q8_1 or Q8_K.
pub(in super::super) struct Quantized {
    /// Levels of all tokens, one token behind the other.
    pub(super) levels: Vec<i8>,
    /// A scale for each block.
    pub(super) scales: Vec<f32>,
    pub(super) tokens: usize,
    pub(super) columns: usize,
    /// Levels of a block.
    pub(super) block: usize,
}

impl Quantized {
    /// Rounds rows of `columns` numbers on the current pool's threads. `data_type` is one
    /// of the three.
    pub(in super::super) fn new(data_type: DataType, columns: usize, activations: &[f32]) -> Self {
        let block = data_type.block_elements();
        let tokens = activations.len() / columns;
        let mut levels = vec![0; tokens * columns];
        let mut scales = vec![0.0; tokens * columns / block];
        let rows = levels.par_chunks_mut(columns).zip(scales.par_chunks_mut(columns / block));
        rows.zip(activations.par_chunks(columns)).for_each_init(
            || vec![0; columns / block * data_type.block_bytes()],
            |bytes, ((levels, scales), row)| {
                if let Some(codec) = codec_for(data_type) {
                    codec.encode(row, columns, None, bytes);
                }
                split(data_type, bytes, levels, scales);
            },
        );
        Self { levels, scales, tokens, columns, block }
    }

    /// The sums of every `length` levels of a token.
    pub(super) fn sums(&self, length: usize) -> Vec<i16> {
        let sum = |levels: &[i8]| levels.iter().map(|level| i16::from(*level)).sum();
        self.levels.chunks_exact(length).map(sum).collect()
    }
}

/// Takes a row's bytes apart.
fn split(data_type: DataType, bytes: &[u8], levels: &mut [i8], scales: &mut [f32]) {
    let block = data_type.block_elements();
    let blocks = bytes.chunks_exact(data_type.block_bytes());
    for ((bytes, levels), scale) in blocks.zip(levels.chunks_exact_mut(block)).zip(scales) {
        let first;
        (*scale, first) = if data_type == DataType::Q8_K {
            (f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), 4)
        } else {
            let scale = f32_from_f16(u16::from_le_bytes([bytes[0], bytes[1]]));
            // Q8_1 has its sum behind the scale.
            (scale, if data_type == DataType::Q8_1 { 4 } else { 2 })
        };
        for (level, byte) in levels.iter_mut().zip(&bytes[first..]) {
            *level = *byte as i8;
        }
    }
}
