//! Where the bits of levels and scales go. Every function is inlined, so that it is
//! compiled for its caller's instructions.

use crate::block::SUPER_BLOCK;
use crate::lanes::{LANES, Lanes};

/// The low two bits of each level: byte `l` of each half super-block holds levels
/// `l`, `l + 32`, `l + 64`, `l + 96` of that half, lowest first.
#[inline(always)]
pub(crate) fn pack_crumbs(levels: &[u8; SUPER_BLOCK], out: &mut [u8]) {
    let halves = levels.as_chunks::<128>().0.iter();
    for (levels, out) in halves.zip(out.as_chunks_mut::<32>().0) {
        for (l, byte) in out.iter_mut().enumerate() {
            *byte = levels[l] & 3
                | (levels[l + 32] & 3) << 2
                | (levels[l + 64] & 3) << 4
                | levels[l + 96] << 6;
        }
    }
}

/// Undoes `pack_crumbs`.
#[inline(always)]
pub fn unpack_crumbs(bytes: &[u8], levels: &mut [u8; SUPER_BLOCK]) {
    let halves = levels.as_chunks_mut::<128>().0.iter_mut();
    for (levels, bytes) in halves.zip(bytes.as_chunks::<32>().0) {
        for (quarter, levels) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (level, byte) in levels.iter_mut().zip(bytes) {
                *level = byte >> (2 * quarter) & 3;
            }
        }
    }
}

/// The low four bits of each level: byte `l` of each quarter super-block holds levels `l`
/// and `l + 32` of that quarter.
#[inline(always)]
pub(crate) fn pack_nibbles(levels: &[u8; SUPER_BLOCK], out: &mut [u8]) {
    let quarters = levels.as_chunks::<64>().0.iter();
    for (levels, out) in quarters.zip(out.as_chunks_mut::<32>().0) {
        for (l, byte) in out.iter_mut().enumerate() {
            *byte = levels[l] & 15 | levels[l + 32] << 4;
        }
    }
}

/// Undoes `pack_nibbles`.
#[inline(always)]
pub fn unpack_nibbles(bytes: &[u8], levels: &mut [u8; SUPER_BLOCK]) {
    let quarters = levels.as_chunks_mut::<64>().0.iter_mut();
    for (levels, bytes) in quarters.zip(bytes.as_chunks::<32>().0) {
        let (low, high) = levels.split_at_mut(32);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            *low = byte & 15;
            *high = byte >> 4;
        }
    }
}

/// Two levels in a byte: byte `l` holds level `l` and the one half of all levels
/// later. Levels lie below 16.
#[inline(always)]
pub(crate) fn pack_halves(levels: &[u8], out: &mut [u8]) {
    let (low, high) = levels.split_at(levels.len() / 2);
    for (byte, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
        *byte = low & 15 | high << 4;
    }
}

/// Undoes `pack_halves`.
#[inline(always)]
pub fn unpack_halves(bytes: &[u8], levels: &mut [u8]) {
    let (low, high) = levels.split_at_mut(levels.len() / 2);
    for (byte, (low, high)) in bytes.iter().zip(low.iter_mut().zip(high)) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// Decodes numbers of entries of a table, two in a byte as [`pack_halves`] has them,
/// each times the scale.
#[inline(always)]
pub(crate) fn decode_numbers<L: Lanes>(
    scale: L,
    table: &[i8; 16],
    bytes: &[u8],
    out: &mut [f32; 2 * LANES],
) {
    let (mut low, mut high) = ([0; LANES], [0; LANES]);
    for (byte, (low, high)) in bytes.iter().zip(low.iter_mut().zip(&mut high)) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    for (out, numbers) in out.as_chunks_mut::<LANES>().0.iter_mut().zip([&low, &high]) {
        *out = (L::from_signed_bytes(&L::look_up(table, numbers)) * scale).store();
    }
}

/// Sets the fifth bits: bit `l` of a little-endian number is that of level `l`.
#[inline(always)]
pub fn unpack_fifth_bits(bytes: [u8; 4], levels: &mut [u8; 32]) {
    let bits = u32::from_le_bytes(bytes);
    for (position, level) in levels.iter_mut().enumerate() {
        *level |= (bits >> position & 1) as u8 * 16;
    }
}

/// Bit `plane` of each level, moved to byte `l % 32`, bit `l / 32`.
#[inline(always)]
pub(crate) fn pack_bits(levels: &[u8; SUPER_BLOCK], plane: u32, out: &mut [u8]) {
    out.fill(0);
    for (position, levels) in levels.as_chunks::<32>().0.iter().enumerate() {
        for (byte, level) in out.iter_mut().zip(levels) {
            *byte |= (level >> plane & 1) << position;
        }
    }
}

/// Sets bit `plane` of each level from what `pack_bits` stored.
#[inline(always)]
pub fn unpack_bits(bytes: &[u8], plane: u32, levels: &mut [u8; SUPER_BLOCK]) {
    for (position, levels) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (level, byte) in levels.iter_mut().zip(bytes) {
            *level |= (byte >> position & 1) << plane;
        }
    }
}

/// Eight 6-bit scales and eight 6-bit minimums in twelve bytes: the first four of
/// each in the low bits of bytes 0..4 and 4..8; the others' low nibbles share
/// bytes 8..12, and their upper two bits top bytes 0..8 (ggml-quants.c,
/// `get_scale_min_k4`). Excess bits of the first four are kept, as there.
#[inline(always)]
pub(crate) fn pack_six_bits(scales: &[u8; 8], minimums: &[u8; 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for j in 0..4 {
        bytes[j] = scales[j] | scales[j + 4] >> 4 << 6;
        bytes[j + 4] = minimums[j] | minimums[j + 4] >> 4 << 6;
        bytes[j + 8] = scales[j + 4] & 15 | minimums[j + 4] << 4;
    }
    bytes
}

/// Undoes `pack_six_bits`: scales, then minimums; four at a time.
#[inline(always)]
pub fn unpack_six_bits(bytes: &[u8]) -> [u8; 16] {
    let four = |position: usize| {
        let bytes = &bytes[position..position + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    };
    let (scales, minimums, low) = (four(0), four(4), four(8));
    let parts = [
        scales & 0x3f3f_3f3f,
        low & 0x0f0f_0f0f | scales >> 2 & 0x3030_3030,
        minimums & 0x3f3f_3f3f,
        low >> 4 & 0x0f0f_0f0f | minimums >> 2 & 0x3030_3030,
    ];
    let mut unpacked = [0; 16];
    for (unpacked, part) in unpacked.as_chunks_mut().0.iter_mut().zip(parts) {
        *unpacked = part.to_le_bytes();
    }
    unpacked
}

/// Sixteen 6-bit scales in twelve bytes: low nibbles of scales `j` and `j + 8` in
/// byte `j`, upper two bits of scales `j`, `j + 4`, `j + 8`, `j + 12` in byte
/// `8 + j` (ggml-quants.c, `dequantize_row_q3_K`).
#[inline(always)]
pub(crate) fn pack_sixteen_scales(scales: &[u8; 16]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (j, byte) in bytes[..8].iter_mut().enumerate() {
        *byte = scales[j] & 15 | scales[j + 8] << 4;
    }
    for (j, scale) in scales.iter().enumerate() {
        bytes[8 + j % 4] |= scale >> 4 << (2 * (j / 4));
    }
    bytes
}

/// Undoes `pack_sixteen_scales`, four at a time.
#[inline(always)]
pub fn unpack_sixteen_scales(bytes: &[u8]) -> [u8; 16] {
    let four = |position: usize| {
        let bytes = &bytes[position..position + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    };
    let (low, more_low, high) = (four(0), four(4), four(8));
    let parts = [
        low & 0x0f0f_0f0f | high << 4 & 0x3030_3030,
        more_low & 0x0f0f_0f0f | high << 2 & 0x3030_3030,
        low >> 4 & 0x0f0f_0f0f | high & 0x3030_3030,
        more_low >> 4 & 0x0f0f_0f0f | high >> 2 & 0x3030_3030,
    ];
    let mut scales = [0; 16];
    for (scales, part) in scales.as_chunks_mut().0.iter_mut().zip(parts) {
        *scales = part.to_le_bytes();
    }
    scales
}

/// Bits as levels: eight to a byte, lowest first.
#[inline(always)]
pub fn unpack_single_bits(bytes: &[u8], levels: &mut [u8]) {
    for (byte, levels) in bytes.iter().zip(levels.as_chunks_mut::<8>().0) {
        for (position, level) in levels.iter_mut().enumerate() {
            *level = byte >> position & 1;
        }
    }
}

/// Four levels below 4 in a byte, each next to the one before it, lowest first.
#[inline(always)]
pub(crate) fn pack_fours(levels: &[u8], out: &mut [u8]) {
    for (byte, levels) in out.iter_mut().zip(levels.as_chunks::<4>().0) {
        let word = u32::from_le_bytes(*levels);
        *byte = (word | word >> 6 | word >> 12 | word >> 18) as u8;
    }
}

/// Undoes `pack_fours`.
#[inline(always)]
pub fn unpack_fours(bytes: &[u8], levels: &mut [u8]) {
    for (byte, levels) in bytes.iter().zip(levels.as_chunks_mut::<4>().0) {
        for (position, level) in levels.iter_mut().enumerate() {
            *level = byte >> (2 * position) & 3;
        }
    }
}
