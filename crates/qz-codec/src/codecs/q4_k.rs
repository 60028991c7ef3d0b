//! Q4_K: 256 weights as 4-bit levels, with a 6-bit scale and a 6-bit minimum for
//! every 32.
//!
//! | bytes | what |
//! |---|---|
//! | 0..16 | scales and minimums, see `six_bit.rs` |
//! | 16..144 | levels |

use crate::block::{BATCH, Rows, SUPER_BLOCK, first_non_finite_scale};
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::pack::{pack_nibbles, unpack_nibbles};
use crate::search::affine::AffineSearch;
use crate::six_bit::{self, HEADER, SixBit};

const BYTES: usize = HEADER + SUPER_BLOCK / 2;

/// ggml-quants.c, `quantize_row_q4_K_ref` and `quantize_row_q4_K_impl`.
const ENCODER: SixBit = SixBit {
    plain: AffineSearch { top: 15, first: -1.0, step: 0.1, last: 20, absolute: false },
    with_importance: AffineSearch { top: 15, first: -0.9, step: 0.05, last: 36, absolute: false },
    bound_scales: false,
};

codec! {
    Q4K: DataType::Q4_K,
    importance: Optional,
    activations: Q8_K,
    integers: Levels,
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0, 2]),
}

/// The body of [`crate::Codec::decode`], with lanes of type `L`.
#[inline(always)]
pub fn decode<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
        let mut levels = [0; SUPER_BLOCK];
        unpack_nibbles(&block[HEADER..], &mut levels);
        six_bit::decode::<L>(block, &levels, out);
    }
}

/// The body of [`crate::Codec::encode`], with lanes of type `L`.
#[inline(always)]
pub fn encode<L: Lanes>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let rows = Rows::new(weights, columns, importance);
    for (number, blocks) in out.as_chunks_mut::<BYTES>().0.chunks_mut(BATCH).enumerate() {
        let batch = rows.batch(number * BATCH);
        let levels = ENCODER.encode::<L, BYTES>(&batch, blocks);
        for (block, levels) in blocks.iter_mut().zip(&levels) {
            pack_nibbles(levels, &mut block[HEADER..]);
        }
    }
}
