//! How the scales of sub-blocks are stored: as a few bits, in odd multiples of a unit.

use crate::block::set_half_at;
use crate::number::{f16_from_f32, nearest_integer};

/// Stores the scales' unit, times `factor`, in the block's first two bytes, and gives
/// the scales as four bits. Nothing where all scales are zero.
#[inline(always)]
pub(crate) fn four_bit_scales<const COUNT: usize>(
    scales: &[f32; COUNT],
    factor: f32,
    block: &mut [u8],
) -> Option<[u8; COUNT]> {
    let (unit, bits) = odd_multiples(scales, 15)?;
    set_half_at(block, 0, f16_from_f32(unit * factor));
    Some(bits)
}

/// The unit of which the largest scale is `2 * top + 1`, and the scales as numbers up
/// to `top`. Nothing where all scales are zero.
#[inline(always)]
pub(crate) fn odd_multiples<const COUNT: usize>(
    scales: &[f32; COUNT],
    top: u8,
) -> Option<(f32, [u8; COUNT])> {
    let mut largest = 0.0f32;
    for &scale in scales {
        // A NaN, with which the reference ends the process, stays one, to be noticed.
        largest = if largest.is_nan() || largest > scale { largest } else { scale };
    }
    if largest == 0.0 {
        return None;
    }
    let unit = largest / f32::from(2 * top + 1);
    let inverse = 1.0 / unit;
    let mut bits = [0; COUNT];
    for (bits, scale) in bits.iter_mut().zip(scales) {
        let nearest = nearest_integer(0.5 * (inverse * scale - 1.0));
        *bits = nearest.clamp(0, i32::from(top)) as u8;
    }
    Some((unit, bits))
}

/// One of the scales that are stored two to a byte.
#[inline(always)]
pub(crate) fn four_bits_at(bytes: &[u8], position: usize) -> u8 {
    bytes[position / 2] >> (4 * (position % 2)) & 15
}

/// Stores scales two to a byte, the first in the lower half.
#[inline(always)]
pub(crate) fn pack_scales(scales: &[u8], bytes: &mut [u8]) {
    for (byte, pair) in bytes.iter_mut().zip(scales.as_chunks::<2>().0) {
        *byte = pair[0] | pair[1] << 4;
    }
}
