//! Weight types whose levels are small unsigned numbers: a weight is
//! `unit · scale · level - minimum`, with an integer scale for each sub-block.

use qz_codec::pack::{
    unpack_bits, unpack_crumbs, unpack_fifth_bits, unpack_halves, unpack_nibbles, unpack_six_bits,
    unpack_sixteen_scales,
};
use qz_tensor::DataType;

use super::dwords::SimdOfGroups;
use crate::backend::cpu::matmul::kernel_of;

/// What a minimum is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Minimums {
    /// The block's unit: levels are stored plus an offset, and a minimum is that times
    /// the scale.
    OfUnit,
    /// A second unit.
    OfTheirOwn,
}

/// A block, unpacked. Only the first elements are used by types with smaller blocks.
#[derive(Clone, Debug)]
pub(super) struct Unpacked {
    pub(super) levels: [u8; 256],
    /// Each twice, as two numbers of 16 bits in one of 32.
    pub(super) scales: [i32; 16],
    pub(super) minimums: [i16; 16],
    pub(super) unit: f32,
    /// What is subtracted is this times minimum.
    pub(super) minimum_unit: f32,
}

impl Unpacked {
    pub(super) fn new() -> Self {
        Self {
            levels: [0; 256],
            scales: [0x0001_0001; 16],
            minimums: [0; 16],
            unit: 0.0,
            minimum_unit: 0.0,
        }
    }
}

/// How a type's blocks are read.
pub(super) trait Format {
    const TYPE: DataType;
    /// Bytes of a block.
    const BYTES: usize = Self::TYPE.block_bytes();
    /// Weights of a block.
    const BLOCK: usize = Self::TYPE.block_elements();
    /// Weights with one scale.
    const SUB_BLOCK: usize;
    /// How many sums of two products of levels with activations, which are at most 127,
    /// may be added before they leave 16 bits; divides a sub-block's groups of four.
    const RUN: usize;
    const MINIMUMS: Minimums;

    /// Unpacks a block of [`Format::BYTES`] bytes.
    fn unpack<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked);
}

/// How many sums of two products fit 16 bits, at most the groups of a sub-block.
const fn run(highest_level: usize, sub_block: usize) -> usize {
    let mut run = sub_block / 4;
    while run * 2 * highest_level * 127 > i16::MAX as usize {
        run /= 2;
    }
    run
}

#[inline(always)]
fn half<S: SimdOfGroups>(simd: S, block: &[u8], at: usize) -> f32 {
    simd.half([block[at], block[at + 1]])
}

/// A number of 16 bits twice in one of 32.
#[inline(always)]
pub(super) fn twice(number: i16) -> i32 {
    i32::from(number) & 0xffff | i32::from(number) << 16
}

/// One of the types that this module reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Layout {
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
}

/// Calls a function that is generic in a format.
macro_rules! with_format {
    ($layout:expr, $function:ident, $($argument:expr),*) => {
        match $layout {
            Layout::Q2K => $function::<formats::Q2K>($($argument),*),
            Layout::Q3K => $function::<formats::Q3K>($($argument),*),
            Layout::Q4K => $function::<formats::Q4K>($($argument),*),
            Layout::Q5K => $function::<formats::Q5K>($($argument),*),
            Layout::Q6K => $function::<formats::Q6K>($($argument),*),
            Layout::Q4_0 => $function::<formats::Q4_0>($($argument),*),
            Layout::Q4_1 => $function::<formats::Q4_1>($($argument),*),
            Layout::Q5_0 => $function::<formats::Q5_0>($($argument),*),
            Layout::Q5_1 => $function::<formats::Q5_1>($($argument),*),
        }
    };
}

pub(super) use with_format;

impl Layout {
    pub(super) fn of(data_type: DataType) -> Option<Self> {
        let layouts = [
            (Q2K::TYPE, Self::Q2K),
            (Q3K::TYPE, Self::Q3K),
            (Q4K::TYPE, Self::Q4K),
            (Q5K::TYPE, Self::Q5K),
            (Q6K::TYPE, Self::Q6K),
            (Q4_0::TYPE, Self::Q4_0),
            (Q4_1::TYPE, Self::Q4_1),
            (Q5_0::TYPE, Self::Q5_0),
            (Q5_1::TYPE, Self::Q5_1),
        ];
        kernel_of(&layouts, data_type)
    }
}

pub(super) struct Q2K;

impl Format for Q2K {
    const TYPE: DataType = DataType::Q2_K;
    const SUB_BLOCK: usize = 16;
    const RUN: usize = run(3, 16);
    const MINIMUMS: Minimums = Minimums::OfTheirOwn;

    #[inline(always)]
    fn unpack<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked) {
        unpack_crumbs(&block[16..80], &mut to.levels);
        let numbers = to.scales.iter_mut().zip(&mut to.minimums).zip(&block[..16]);
        for ((scale, minimum), byte) in numbers {
            (*scale, *minimum) = (twice(i16::from(byte & 15)), i16::from(byte >> 4));
        }
        (to.unit, to.minimum_unit) = (half(simd, block, 80), half(simd, block, 82));
    }
}

pub(super) struct Q3K;

impl Format for Q3K {
    const TYPE: DataType = DataType::Q3_K;
    const SUB_BLOCK: usize = 16;
    const RUN: usize = run(7, 16);
    const MINIMUMS: Minimums = Minimums::OfUnit;

    #[inline(always)]
    fn unpack<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked) {
        unpack_crumbs(&block[32..96], &mut to.levels);
        unpack_bits(&block[..32], 2, &mut to.levels);
        let stored = unpack_sixteen_scales(&block[96..108]);
        let numbers = to.scales.iter_mut().zip(&mut to.minimums).zip(stored);
        for ((scale, minimum), stored) in numbers {
            let own = i16::from(stored) - 32;
            (*scale, *minimum) = (twice(own), own * 4);
        }
        to.unit = half(simd, block, 108);
    }
}

/// Scales, minimums and both units of Q4_K and Q5_K.
#[inline(always)]
fn unpack_header<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked) {
    let stored = unpack_six_bits(&block[4..16]);
    let (scales, minimums) = stored.split_at(8);
    for (scale, stored) in to.scales.iter_mut().zip(scales) {
        *scale = twice(i16::from(*stored));
    }
    for (minimum, stored) in to.minimums.iter_mut().zip(minimums) {
        *minimum = i16::from(*stored);
    }
    (to.unit, to.minimum_unit) = (half(simd, block, 0), half(simd, block, 2));
}

pub(super) struct Q4K;

impl Format for Q4K {
    const TYPE: DataType = DataType::Q4_K;
    const SUB_BLOCK: usize = 32;
    const RUN: usize = run(15, 32);
    const MINIMUMS: Minimums = Minimums::OfTheirOwn;

    #[inline(always)]
    fn unpack<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked) {
        unpack_nibbles(&block[16..144], &mut to.levels);
        unpack_header(simd, block, to);
    }
}

pub(super) struct Q5K;

impl Format for Q5K {
    const TYPE: DataType = DataType::Q5_K;
    const SUB_BLOCK: usize = 32;
    const RUN: usize = run(31, 32);
    const MINIMUMS: Minimums = Minimums::OfTheirOwn;

    #[inline(always)]
    fn unpack<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked) {
        unpack_nibbles(&block[48..176], &mut to.levels);
        unpack_bits(&block[16..48], 4, &mut to.levels);
        unpack_header(simd, block, to);
    }
}

pub(super) struct Q6K;

impl Format for Q6K {
    const TYPE: DataType = DataType::Q6_K;
    const SUB_BLOCK: usize = 16;
    const RUN: usize = run(63, 16);
    const MINIMUMS: Minimums = Minimums::OfUnit;

    #[inline(always)]
    fn unpack<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked) {
        unpack_crumbs(&block[128..192], &mut to.levels);
        let halves = to.levels.as_chunks_mut::<128>().0.iter_mut();
        for (levels, low) in halves.zip(block[..128].as_chunks::<64>().0) {
            let (first, second) = levels.split_at_mut(64);
            for ((first, second), low) in first.iter_mut().zip(second).zip(low) {
                *first = *first << 4 | low & 15;
                *second = *second << 4 | low >> 4;
            }
        }
        let numbers = to.scales.iter_mut().zip(&mut to.minimums).zip(&block[192..208]);
        for ((scale, minimum), stored) in numbers {
            let own = i16::from(*stored as i8);
            (*scale, *minimum) = (twice(own), own * 32);
        }
        to.unit = half(simd, block, 208);
    }
}

#[inline(always)]
fn thirty_two(to: &mut Unpacked) -> &mut [u8; 32] {
    &mut to.levels.as_chunks_mut().0[0]
}

pub(super) struct Q4_0;

impl Format for Q4_0 {
    const TYPE: DataType = DataType::Q4_0;
    const SUB_BLOCK: usize = 32;
    const RUN: usize = run(15, 32);
    const MINIMUMS: Minimums = Minimums::OfUnit;

    #[inline(always)]
    fn unpack<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked) {
        unpack_halves(&block[2..18], thirty_two(to));
        (to.scales[0], to.minimums[0], to.unit) = (twice(1), 8, half(simd, block, 0));
    }
}

pub(super) struct Q5_0;

impl Format for Q5_0 {
    const TYPE: DataType = DataType::Q5_0;
    const SUB_BLOCK: usize = 32;
    const RUN: usize = run(31, 32);
    const MINIMUMS: Minimums = Minimums::OfUnit;

    #[inline(always)]
    fn unpack<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked) {
        unpack_halves(&block[6..22], thirty_two(to));
        unpack_fifth_bits([block[2], block[3], block[4], block[5]], thirty_two(to));
        (to.scales[0], to.minimums[0], to.unit) = (twice(1), 16, half(simd, block, 0));
    }
}

pub(super) struct Q4_1;

impl Format for Q4_1 {
    const TYPE: DataType = DataType::Q4_1;
    const SUB_BLOCK: usize = 32;
    const RUN: usize = run(15, 32);
    const MINIMUMS: Minimums = Minimums::OfTheirOwn;

    #[inline(always)]
    fn unpack<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked) {
        unpack_halves(&block[4..20], thirty_two(to));
        (to.scales[0], to.minimums[0]) = (twice(1), 1);
        // This type adds its minimum.
        (to.unit, to.minimum_unit) = (half(simd, block, 0), -half(simd, block, 2));
    }
}

pub(super) struct Q5_1;

impl Format for Q5_1 {
    const TYPE: DataType = DataType::Q5_1;
    const SUB_BLOCK: usize = 32;
    const RUN: usize = run(31, 32);
    const MINIMUMS: Minimums = Minimums::OfTheirOwn;

    #[inline(always)]
    fn unpack<S: SimdOfGroups>(simd: S, block: &[u8], to: &mut Unpacked) {
        unpack_halves(&block[8..24], thirty_two(to));
        unpack_fifth_bits([block[4], block[5], block[6], block[7]], thirty_two(to));
        (to.scales[0], to.minimums[0]) = (twice(1), 1);
        (to.unit, to.minimum_unit) = (half(simd, block, 0), -half(simd, block, 2));
    }
}
