//! Super-blocks of 256 weights; the layouts are described with each codec
//! (`codecs/q2_k.rs` to `codecs/q6_k.rs`).

use super::super::Unit;
use super::super::level_grid::Packing;
use super::{parameter, set_parameter};
use crate::block::SUPER_BLOCK;
use crate::pack;

/// The codes of a super-block.
fn whole(codes: &[u8]) -> &[u8; SUPER_BLOCK] {
    &codes.as_chunks().0[0]
}

/// The codes of a super-block.
fn whole_mut(codes: &mut [u8]) -> &mut [u8; SUPER_BLOCK] {
    &mut codes.as_chunks_mut().0[0]
}

pub(in super::super) struct Q2K;

impl Packing for Q2K {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        let steps = unit.scales.iter().zip(&unit.offsets);
        for (byte, (scale, offset)) in out[..16].iter_mut().zip(steps) {
            *byte = *scale as u8 & 15 | (*offset as u8) << 4;
        }
        pack::pack_crumbs(whole(codes), &mut out[16..80]);
        set_parameter(out, 80, unit.parameters[0]);
        set_parameter(out, 82, unit.parameters[1]);
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        pack::unpack_crumbs(&bytes[16..80], whole_mut(codes));
        Unit {
            parameters: [parameter(bytes, 80), parameter(bytes, 82)],
            scales: std::array::from_fn(|group| i16::from(bytes[group] & 15)),
            offsets: std::array::from_fn(|group| i16::from(bytes[group] >> 4)),
        }
    }
}

pub(in super::super) struct Q3K;

impl Packing for Q3K {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        pack::pack_bits(whole(codes), 2, &mut out[..32]);
        pack::pack_crumbs(whole(codes), &mut out[32..96]);
        let scales = unit.scales.map(|scale| (scale + 32) as u8 & 63);
        out[96..108].copy_from_slice(&pack::pack_sixteen_scales(&scales));
        set_parameter(out, 108, unit.parameters[0]);
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        pack::unpack_crumbs(&bytes[32..96], whole_mut(codes));
        pack::unpack_bits(&bytes[..32], 2, whole_mut(codes));
        let scales = pack::unpack_sixteen_scales(&bytes[96..108]);
        Unit {
            parameters: [parameter(bytes, 108), 0.0],
            scales: scales.map(|scale| i16::from(scale) - 32),
            ..Unit::default()
        }
    }
}

/// What Q4_K and Q5_K begin with (see `six_bit.rs`).
fn pack_header(unit: &Unit, out: &mut [u8]) {
    set_parameter(out, 0, unit.parameters[0]);
    set_parameter(out, 2, unit.parameters[1]);
    let bytes = |steps: &[i16; 16]| std::array::from_fn(|group| steps[group] as u8 & 63);
    let packed = pack::pack_six_bits(&bytes(&unit.scales), &bytes(&unit.offsets));
    out[4..16].copy_from_slice(&packed);
}

/// Undoes [`pack_header`].
fn unpack_header(bytes: &[u8]) -> Unit {
    let unpacked = pack::unpack_six_bits(&bytes[4..16]);
    let (scales, offsets) = unpacked.split_at(8);
    let steps =
        |bytes: &[u8]| std::array::from_fn(|group| bytes.get(group).copied().map_or(0, i16::from));
    Unit {
        parameters: [parameter(bytes, 0), parameter(bytes, 2)],
        scales: steps(scales),
        offsets: steps(offsets),
    }
}

pub(in super::super) struct Q4K;

impl Packing for Q4K {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        pack_header(unit, out);
        pack::pack_nibbles(whole(codes), &mut out[16..]);
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        pack::unpack_nibbles(&bytes[16..], whole_mut(codes));
        unpack_header(bytes)
    }
}

pub(in super::super) struct Q5K;

impl Packing for Q5K {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        pack_header(unit, out);
        pack::pack_bits(whole(codes), 4, &mut out[16..48]);
        pack::pack_nibbles(whole(codes), &mut out[48..]);
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        pack::unpack_nibbles(&bytes[48..], whole_mut(codes));
        pack::unpack_bits(&bytes[16..48], 4, whole_mut(codes));
        unpack_header(bytes)
    }
}

pub(in super::super) struct Q6K;

impl Packing for Q6K {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]) {
        let codes = whole(codes);
        let halves = codes.as_chunks::<128>().0.iter();
        for (codes, low) in halves.zip(out[..128].as_chunks_mut::<64>().0) {
            for (position, byte) in low.iter_mut().enumerate() {
                *byte = codes[position] & 15 | codes[position + 64] << 4;
            }
        }
        pack::pack_crumbs(&codes.map(|code| code >> 4), &mut out[128..192]);
        for (byte, scale) in out[192..208].iter_mut().zip(unit.scales) {
            *byte = scale as i8 as u8;
        }
        set_parameter(out, 208, unit.parameters[0]);
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit {
        pack::unpack_crumbs(&bytes[128..192], whole_mut(codes));
        let halves = codes.as_chunks_mut::<128>().0.iter_mut();
        for (codes, low) in halves.zip(bytes[..128].as_chunks::<64>().0) {
            for (position, byte) in low.iter().enumerate() {
                codes[position] = codes[position] << 4 | byte & 15;
                codes[position + 64] = codes[position + 64] << 4 | byte >> 4;
            }
        }
        Unit {
            parameters: [parameter(bytes, 208), 0.0],
            scales: std::array::from_fn(|group| i16::from(bytes[192 + group] as i8)),
            ..Unit::default()
        }
    }
}
