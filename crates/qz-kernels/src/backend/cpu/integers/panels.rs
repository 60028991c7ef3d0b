//! Both operands interleaved for the register tiles, and the loops around these.

use qz_codec::{Codec, CodecSpec, Integers};
use rayon::prelude::*;

use super::dwords::SimdOfGroups;
use super::formats::{self, Format, Layout, Unpacked, with_format};
use super::quantized::Quantized;
use super::split::{Scratch, Split};
use super::{levels, words};
use crate::backend::cpu::matmul::Matrix;
use crate::gemm::Destination;
use crate::stop;
use crate::vector::Instructions;

/// Rows of weights in a register tile.
pub(super) const ROWS: usize = 4;

/// Weights of a task: unpacked they fill part of a core's second cache.
const TASK: usize = 256 * 1024;

/// Tokens in panels: the groups of one place of a panel's tokens lie behind each other.
pub(super) struct TokenPanels {
    /// Tokens of a panel; the last one is filled up with zeros.
    pub(super) width: usize,
    pub(super) tokens: usize,
    /// Groups of one token.
    pub(super) groups: usize,
    pub(super) levels: Vec<i32>,
    /// Blocks of one token.
    pub(super) blocks: usize,
    pub(super) scales: Vec<f32>,
    /// Pairs of sums of one token.
    pub(super) pairs: usize,
    pub(super) sums: Vec<i32>,
}

impl TokenPanels {
    fn new(width: usize, quantized: &Quantized) -> Self {
        let blocks = quantized.columns / quantized.block;
        let padded = quantized.tokens.next_multiple_of(width);
        let mut scales = vec![0.0; padded * blocks];
        for (panel, to) in scales.chunks_exact_mut((width * blocks).max(1)).enumerate() {
            let own = quantized.scales.chunks_exact(blocks).skip(panel * width).take(width);
            interleave(own, width, to);
        }
        Self {
            width,
            tokens: quantized.tokens,
            groups: 0,
            levels: Vec::new(),
            blocks,
            scales,
            pairs: 0,
            sums: Vec::new(),
        }
    }

    /// Groups of four levels, with the sums of every sub-block.
    fn of_levels<F: Format>(width: usize, quantized: &Quantized) -> Self {
        let mut panels = Self::new(width, quantized);
        let group = |levels: &[i8; 4]| i32::from_le_bytes(levels.map(|level| level as u8));
        panels.groups = quantized.columns / 4;
        panels.levels = grouped(width, quantized, group);
        let sums = quantized.sums(F::SUB_BLOCK);
        let sums_of_token = quantized.columns / F::SUB_BLOCK;
        let pairs: Vec<i32> = if F::BLOCK == F::SUB_BLOCK {
            sums.iter().map(|sum| pair(*sum, 0)).collect()
        } else {
            sums.as_chunks::<2>().0.iter().map(|[first, second]| pair(*first, *second)).collect()
        };
        panels.pairs = if F::BLOCK == F::SUB_BLOCK { sums_of_token } else { sums_of_token / 2 };
        panels.sums = vec![0; panels.tokens.next_multiple_of(width) * panels.pairs];
        let to = panels.sums.chunks_exact_mut((width * panels.pairs).max(1));
        for (panel, to) in to.enumerate() {
            let own = pairs.chunks_exact(panels.pairs).skip(panel * width).take(width);
            interleave(own, width, to);
        }
        panels
    }

    /// Groups of two levels of 16 bits.
    fn of_words(width: usize, quantized: &Quantized) -> Self {
        let mut panels = Self::new(width, quantized);
        let group = |[first, second]: &[i8; 2]| pair(i16::from(*first), i16::from(*second));
        panels.groups = quantized.columns / 2;
        panels.levels = grouped(width, quantized, group);
        panels
    }
}

/// Two 16-bit numbers in one of 32 bits.
#[inline(always)]
pub(super) fn pair(first: i16, second: i16) -> i32 {
    i32::from(first) & 0xffff | i32::from(second) << 16
}

/// All levels of a panel's tokens, grouped and interleaved.
fn grouped<const N: usize>(
    width: usize,
    quantized: &Quantized,
    group: impl Fn(&[i8; N]) -> i32 + Sync,
) -> Vec<i32> {
    let groups = quantized.columns / N;
    let mut panels = vec![0; quantized.tokens.next_multiple_of(width) * groups];
    panels.par_chunks_exact_mut((width * groups).max(1)).enumerate().for_each(|(panel, to)| {
        let rows = quantized.levels.chunks_exact(quantized.columns);
        let mut row = vec![0; groups];
        for (token, levels) in rows.skip(panel * width).take(width).enumerate() {
            for (to, levels) in row.iter_mut().zip(levels.as_chunks::<N>().0) {
                *to = group(levels);
            }
            spread(&row, width, &mut to[token..]);
        }
    });
    panels
}

/// Rows beside each other: the numbers of one place lie behind each other.
fn interleave<'a, T: Copy + 'a>(rows: impl Iterator<Item = &'a [T]>, width: usize, to: &mut [T]) {
    for (position, row) in rows.enumerate() {
        spread(row, width, &mut to[position..]);
    }
}

/// One row, `width` apart.
#[inline(always)]
fn spread<T: Copy>(row: &[T], width: usize, to: &mut [T]) {
    for (to, number) in to.iter_mut().step_by(width).zip(row) {
        *to = *number;
    }
}

/// Rows of weights, unpacked and interleaved in groups of [`ROWS`].
#[derive(Default)]
pub(super) struct WeightPanels {
    pub(super) rows: usize,
    /// Groups of levels of one row.
    pub(super) groups: usize,
    pub(super) levels: Vec<i32>,
    /// Twice the same integer scale in each.
    pub(super) scales: Vec<i32>,
    /// Pairs of integer minimums of one row, negative.
    pub(super) pairs: usize,
    pub(super) minimums: Vec<i32>,
    /// Units of one row.
    pub(super) blocks: usize,
    pub(super) units: Vec<f32>,
    pub(super) minimum_units: Vec<f32>,
}

impl WeightPanels {
    /// What rows that fill up the last panel have must be zero.
    fn clear(&mut self, rows: usize) {
        self.rows = rows;
        if !rows.is_multiple_of(ROWS) {
            self.levels.clear();
            self.scales.clear();
            self.minimums.clear();
            self.units.clear();
            self.minimum_units.clear();
        }
    }

    /// Unpacks rows of `columns` weights.
    #[inline(always)]
    pub(super) fn unpack_levels<S: SimdOfGroups, F: Format>(
        &mut self,
        simd: S,
        bytes: &[u8],
        columns: usize,
    ) {
        let row_bytes = columns / F::BLOCK * F::BYTES;
        self.clear(bytes.len() / row_bytes);
        let padded = self.rows.next_multiple_of(ROWS);
        let sub_blocks = F::BLOCK / F::SUB_BLOCK;
        let pairs = sub_blocks.div_ceil(2);
        (self.groups, self.blocks) = (columns / 4, columns / F::BLOCK);
        self.pairs = pairs * self.blocks;
        self.levels.resize(padded * self.groups, 0);
        self.scales.resize(padded * self.blocks * sub_blocks, 0);
        self.minimums.resize(padded * self.pairs, 0);
        self.units.resize(padded * self.blocks, 0.0);
        self.minimum_units.resize(padded * self.blocks, 0.0);
        let mut unpacked = Unpacked::new();
        for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
            let (panel, own) = (row / ROWS, row % ROWS);
            for (block, bytes) in bytes.chunks_exact(F::BYTES).enumerate() {
                F::unpack(simd, bytes, &mut unpacked);
                let at = (panel * self.blocks + block) * ROWS + own;
                self.units[at] = unpacked.unit;
                self.minimum_units[at] = unpacked.minimum_unit;
                let from = (panel * self.blocks + block) * ROWS * F::BLOCK / 4;
                let to =
                    &mut self.levels[from..from + ROWS * F::BLOCK / 4].as_chunks_mut::<ROWS>().0;
                for (to, levels) in to.iter_mut().zip(unpacked.levels.as_chunks::<4>().0) {
                    to[own] = i32::from_le_bytes(*levels);
                }
                let from = (panel * self.blocks + block) * ROWS * sub_blocks;
                let to = &mut self.scales[from..from + ROWS * sub_blocks].as_chunks_mut::<ROWS>().0;
                for (to, scale) in to.iter_mut().zip(&unpacked.scales) {
                    to[own] = *scale;
                }
                let from = (panel * self.blocks + block) * ROWS * pairs;
                let to = &mut self.minimums[from..from + ROWS * pairs].as_chunks_mut::<ROWS>().0;
                for (to, [first, second]) in to.iter_mut().zip(unpacked.minimums.as_chunks().0) {
                    to[own] = pair(-*first, -*second);
                }
            }
        }
    }

    fn split(&mut self, split: &Split, codec: &dyn Codec, bytes: &[u8], columns: usize) {
        let data_type = codec.spec().data_type;
        let row_bytes = columns / data_type.block_elements() * data_type.block_bytes();
        self.clear(bytes.len() / row_bytes);
        let padded = self.rows.next_multiple_of(ROWS);
        (self.groups, self.blocks) = (columns / 2, columns / split.length);
        self.levels.resize(padded * self.groups, 0);
        self.units.resize(padded * self.blocks, 0.0);
        let mut scratch = Scratch::default();
        let (mut integers, mut units) = (vec![0; columns], vec![0.0; self.blocks]);
        for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
            split.row(codec, bytes, &mut scratch, &mut integers, &mut units);
            let (panel, own) = (row / ROWS, row % ROWS);
            let to = &mut self.levels[panel * ROWS * self.groups..][..ROWS * self.groups];
            for (to, integers) in
                to.as_chunks_mut::<ROWS>().0.iter_mut().zip(integers.as_chunks().0)
            {
                let [first, second] = *integers;
                to[own] = pair(first, second);
            }
            spread(&units, ROWS, &mut self.units[panel * ROWS * self.blocks + own..]);
        }
    }
}

/// Which register tile takes a type.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum PanelKind {
    Levels(Layout),
    Words(Split),
}

impl PanelKind {
    /// The tile for a type of weights, if they become integers.
    pub(in super::super) fn of(spec: &CodecSpec) -> Option<Self> {
        match spec.integers {
            Integers::Floats => None,
            Integers::Levels => Layout::of(spec.data_type).map(Self::Levels),
            Integers::Units { unit, length } => Some(Self::Words(Split { unit, length })),
        }
    }
}

/// All products of the tokens with the matrix; runs on the current pool's threads. `out`
/// has a row for each token.
pub(in super::super) fn multiply_many(
    instructions: Instructions,
    kind: PanelKind,
    quantized: &Quantized,
    matrix: &Matrix,
    out: &mut [f32],
) {
    let lanes = instructions.lanes();
    let width = if quantized.tokens <= lanes { lanes } else { 2 * lanes };
    let tokens = match kind {
        PanelKind::Levels(layout) => {
            with_format!(layout, level_panels, width, quantized)
        }
        PanelKind::Words(_) => TokenPanels::of_words(width, quantized),
    };
    let rows = (TASK / matrix.columns).clamp(ROWS, matrix.rows.max(ROWS)).next_multiple_of(ROWS);
    let row_bytes = matrix.bytes.len() / matrix.rows.max(1);
    let mut all = crate::gemm::ViewMut::dense(out, quantized.tokens, matrix.rows);
    let destination = Destination::new(&mut all);
    let tasks = matrix.bytes.par_chunks((rows * row_bytes).max(1)).enumerate();
    tasks.for_each_init(
        Default::default,
        |(weights, sums): &mut (WeightPanels, Vec<f32>), task| {
            let (number, bytes) = task;
            if stop::is_requested() {
                return;
            }
            match kind {
                PanelKind::Levels(layout) => {
                    levels::unpack(instructions, layout, bytes, matrix.columns, weights);
                }
                PanelKind::Words(split) => {
                    weights.split(&split, matrix.codec, bytes, matrix.columns)
                }
            }
            let first_row = number * rows;
            let own_rows = first_row..first_row + weights.rows;
            // SAFETY: no other task has these rows of the matrix.
            let mut own = unsafe { destination.block(0..tokens.tokens, own_rows) };
            for panel in 0..tokens.tokens.div_ceil(width) {
                sums.clear();
                sums.resize(weights.rows.next_multiple_of(ROWS) * width, 0.0);
                match kind {
                    PanelKind::Levels(layout) => {
                        levels::add(instructions, layout, &tokens, panel, weights, sums);
                    }
                    PanelKind::Words(split) => {
                        words::add(instructions, &split, &tokens, panel, weights, sums);
                    }
                }
                let first = panel * width;
                for token in first..tokens.tokens.min(first + width) {
                    for (row, sums) in sums.chunks_exact(width).enumerate().take(weights.rows) {
                        own.set(token, row, sums[token - first]);
                    }
                }
            }
        },
    );
}

fn level_panels<F: Format>(width: usize, quantized: &Quantized) -> TokenPanels {
    TokenPanels::of_levels::<F>(width, quantized)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type without one would be multiplied as floats, many times slower. (Specifications
    /// alone are looked at: no codec is compiled for this.)
    #[test]
    fn every_type_of_blocks_has_a_path_in_integers() {
        for spec in qz_codec::CODECS.iter().map(|codec| codec.spec()) {
            let (name, kind) = (spec.data_type, PanelKind::of(spec));
            assert_eq!(kind.is_some(), name.is_block(), "{name}");
            assert!(!name.is_block() || spec.activations.is_block(), "{name}");
            if let Some(PanelKind::Words(split)) = kind {
                let scale = spec.activations.block_elements();
                assert!(scale.is_multiple_of(split.length), "{name}");
            }
        }
    }
}
