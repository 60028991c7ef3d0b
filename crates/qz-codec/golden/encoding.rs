//! Rows to blocks, for tests of codecs.

use qz_codec::Codec;

/// The blocks that a codec makes of rows; what it left unwritten would show.
pub(crate) fn encode(
    codec: &dyn Codec,
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
) -> Vec<u8> {
    let data_type = codec.spec().data_type;
    let blocks = weights.len() / data_type.block_elements();
    let mut bytes = vec![0xa5; blocks * data_type.block_bytes()];
    codec.encode(weights, columns, importance, &mut bytes);
    bytes
}
