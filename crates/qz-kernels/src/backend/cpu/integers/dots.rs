//! Few tokens: each block of weights is unpacked into a core's first cache and multiplied
//! with all of them, so that the memory that holds the weights sets the speed.

use qz_codec::search::nonlinear;
use qz_tensor::DataType;
use rayon::prelude::*;

use super::dwords::{Dwords, EightDwords, SimdOfEight};
use super::formats::{self, Format, Layout, Minimums, Unpacked, twice, with_format};
use super::panels::PanelKind;
use super::quantized::Quantized;
#[cfg(target_arch = "x86_64")]
use super::single::{self, Single, Token};
use super::split::{Scratch, Split};
use crate::backend::cpu::matmul::{Matrix, kernel_of, rows_of_a_task};
use crate::gemm::{Destination, ViewMut};
#[cfg(target_arch = "x86_64")]
use crate::vector::Avx2;
use crate::vector::{Instructions, Vector, for_instructions, prefetch_behind};

/// The most tokens that are multiplied here.
pub(in super::super) const FEW: usize = 4;

/// Weights of a task.
const TASK: usize = 128 * 1024;

/// The tokens, always one or [`FEW`]: the last one again where there are fewer.
struct Tokens<'a> {
    quantized: &'a Quantized,
    rows: [usize; FEW],
    /// Sums of sub-blocks' levels, for types that have minimums.
    sums: Vec<i16>,
    /// Levels of 16 bits, for types that are split.
    words: Vec<i16>,
}

impl Tokens<'_> {
    #[inline(always)]
    fn levels(&self, token: usize, first: usize, count: usize) -> &[i8] {
        let row = self.rows[token] * self.quantized.columns;
        &self.quantized.levels[row + first..][..count]
    }

    #[inline(always)]
    fn words(&self, token: usize, first: usize, count: usize) -> &[i16] {
        let row = self.rows[token] * self.quantized.columns;
        &self.words[row + first..][..count]
    }

    #[inline(always)]
    fn scale(&self, token: usize, block: usize) -> f32 {
        let blocks = self.quantized.columns / self.quantized.block;
        self.quantized.scales[self.rows[token] * blocks + block]
    }

    #[inline(always)]
    fn sums(&self, token: usize, length: usize, first: usize, count: usize) -> &[i16] {
        let sums = self.quantized.columns / length;
        &self.sums[self.rows[token] * sums + first..][..count]
    }
}

/// What one token's products with a row are.
type Products = [f32; FEW];

/// All products of at most [`FEW`] tokens with the matrix; runs on the current pool's
/// threads. `out` has a row for each token.
pub(in super::super) fn multiply_few(
    instructions: Instructions,
    kind: PanelKind,
    quantized: &Quantized,
    matrix: &Matrix,
    out: &mut [f32],
) {
    let count = quantized.tokens;
    let last = count.saturating_sub(1);
    let sums = match kind {
        PanelKind::Levels(layout) => with_format!(layout, sums, quantized),
        PanelKind::Words(_) => Vec::new(),
    };
    let way = Way::of(instructions, kind, matrix.codec.spec().data_type, count);
    let words = match way {
        Way::Words(_) => quantized.levels.iter().map(|level| i16::from(*level)).collect(),
        _ => Vec::new(),
    };
    let tokens = Tokens { quantized, rows: std::array::from_fn(|row| row.min(last)), sums, words };
    let rows = rows_of_a_task(matrix, TASK);
    let row_bytes = matrix.bytes.len() / matrix.rows.max(1);
    let mut all = ViewMut::dense(out, count, matrix.rows);
    let destination = Destination::new(&mut all);
    let tasks = matrix.bytes.par_chunks((rows * row_bytes).max(1)).enumerate();
    tasks.for_each_init(Scratch::default, |scratch, (number, bytes)| {
        let first = number * rows;
        // SAFETY: no other task has these rows of the matrix.
        let mut own =
            unsafe { destination.block(0..count, first..first + bytes.len() / row_bytes) };
        for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
            let products = match way {
                #[cfg(target_arch = "x86_64")]
                Way::Single(avx2, single) => of_single(avx2, single, &tokens, bytes),
                Way::Levels(layout) => with_format!(layout, levels, instructions, &tokens, bytes),
                Way::Signed(signed) => of_signed(instructions, signed, &tokens, bytes),
                Way::Words(split) => {
                    of_words(instructions, &split, matrix, &tokens, bytes, scratch)
                }
            };
            for (token, product) in products.iter().enumerate().take(count) {
                own.set(token, row, *product);
            }
        }
    });
}

fn sums<F: Format>(quantized: &Quantized) -> Vec<i16> {
    quantized.sums(F::SUB_BLOCK)
}

#[cfg(target_arch = "x86_64")]
fn of_single(avx2: Avx2, single: Single, tokens: &Tokens<'_>, bytes: &[u8]) -> Products {
    let Quantized { levels, scales, .. } = tokens.quantized;
    let token = Token { levels, scales, sums: &tokens.sums };
    [single::dot(avx2, single, token, bytes), 0.0, 0.0, 0.0]
}

/// How a row of a type is multiplied.
#[derive(Clone, Copy)]
enum Way {
    #[cfg(target_arch = "x86_64")]
    Single(Avx2, Single),
    Levels(Layout),
    Signed(Signed),
    Words(Split),
}

/// Types whose levels are signed bytes, 32 to a scale.
#[derive(Clone, Copy)]
enum Signed {
    Q4_0,
    Q8_0,
    Iq4Nl,
    Iq4Xs,
}

impl Way {
    fn of(instructions: Instructions, kind: PanelKind, data_type: DataType, tokens: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if tokens == 1
            && let Some(avx2) = instructions.avx2()
            && let Some(single) = Single::of(data_type)
        {
            return Self::Single(avx2, single);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (instructions, tokens);
        match (Signed::of(data_type), kind) {
            (Some(signed), _) => Self::Signed(signed),
            (None, PanelKind::Levels(layout)) => Self::Levels(layout),
            (None, PanelKind::Words(split)) => Self::Words(split),
        }
    }
}

impl Signed {
    fn of(data_type: DataType) -> Option<Self> {
        let kernels = [
            (Q4_0::TYPE, Signed::Q4_0),
            (Q8_0::TYPE, Signed::Q8_0),
            (Iq4Nl::TYPE, Signed::Iq4Nl),
            (Iq4Xs::TYPE, Signed::Iq4Xs),
        ];
        kernel_of(&kernels, data_type)
    }
}

for_instructions! {
    eight lanes:
    fn levels<F: Format>(tokens: &Tokens<'_>, bytes: &[u8]) -> Products = any_count_of_levels;
}

#[inline(always)]
fn any_count_of_levels<S: SimdOfEight, F: Format>(
    simd: S,
    tokens: &Tokens<'_>,
    bytes: &[u8],
) -> Products {
    if tokens.quantized.tokens == 1 {
        dot_levels::<S, F, 1>(simd, tokens, bytes)
    } else {
        dot_levels::<S, F, FEW>(simd, tokens, bytes)
    }
}

#[inline(always)]
fn dot_levels<S: SimdOfEight, F: Format, const COUNT: usize>(
    simd: S,
    tokens: &Tokens<'_>,
    bytes: &[u8],
) -> Products {
    let sub_blocks = F::BLOCK / F::SUB_BLOCK;
    let mut totals = [simd.zero(); COUNT];
    let mut minimums = [0.0; COUNT];
    let mut unpacked = Unpacked::new();
    for (block, bytes) in bytes.chunks_exact(F::BYTES).enumerate() {
        F::unpack(simd, bytes, &mut unpacked);
        for token in 0..COUNT {
            let levels = tokens.levels(token, block * F::BLOCK, F::BLOCK);
            let sums = tokens.sums(token, F::SUB_BLOCK, block * sub_blocks, sub_blocks);
            let scale = tokens.scale(token, block);
            let mut of_minimums = 0;
            for (sum, minimum) in sums.iter().zip(&unpacked.minimums) {
                of_minimums += i32::from(*sum) * i32::from(*minimum);
            }
            let mut integers = simd.zero_groups();
            if F::MINIMUMS == Minimums::OfUnit {
                integers = simd.load_groups(&[-of_minimums, 0, 0, 0, 0, 0, 0, 0]);
            } else {
                minimums[token] += of_minimums as f32 * (unpacked.minimum_unit * scale);
            }
            let runs = levels.as_chunks::<32>().0.iter().zip(unpacked.levels.as_chunks().0);
            for (run, (levels, weights)) in runs.enumerate() {
                let products = simd.load_bytes(weights).multiply_bytes(simd.load_levels(levels));
                let scales = if F::SUB_BLOCK == 32 {
                    simd.splat_group(unpacked.scales[run])
                } else {
                    simd.halves(unpacked.scales[2 * run], unpacked.scales[2 * run + 1])
                };
                integers = integers.add(products.multiply_pairs(scales));
            }
            let factor = simd.splat(unpacked.unit * scale);
            totals[token] = totals[token].add_product(integers.to_floats(), factor);
        }
    }
    let mut products = [0.0; FEW];
    for token in 0..COUNT {
        products[token] = totals[token].sum() - minimums[token];
    }
    products
}

for_instructions! {
    eight lanes:
    fn of_signed(signed: Signed, tokens: &Tokens<'_>, bytes: &[u8]) -> Products = any_signed;
}

#[inline(always)]
fn any_signed<S: SimdOfEight>(
    simd: S,
    signed: Signed,
    tokens: &Tokens<'_>,
    bytes: &[u8],
) -> Products {
    match (signed, tokens.quantized.tokens) {
        (Signed::Q4_0, 1) => dot_signed::<S, Q4_0, 1>(simd, tokens, bytes),
        (Signed::Q4_0, _) => dot_signed::<S, Q4_0, FEW>(simd, tokens, bytes),
        (Signed::Q8_0, 1) => dot_signed::<S, Q8_0, 1>(simd, tokens, bytes),
        (Signed::Q8_0, _) => dot_signed::<S, Q8_0, FEW>(simd, tokens, bytes),
        (Signed::Iq4Nl, 1) => dot_signed::<S, Iq4Nl, 1>(simd, tokens, bytes),
        (Signed::Iq4Nl, _) => dot_signed::<S, Iq4Nl, FEW>(simd, tokens, bytes),
        (Signed::Iq4Xs, 1) => dot_signed::<S, Iq4Xs, 1>(simd, tokens, bytes),
        (Signed::Iq4Xs, _) => dot_signed::<S, Iq4Xs, FEW>(simd, tokens, bytes),
    }
}

/// How a block of signed levels is read.
trait SignedFormat {
    const TYPE: DataType;
    /// Bytes of a block.
    const BYTES: usize = Self::TYPE.block_bytes();
    /// Runs of 32 weights.
    const RUNS: usize = Self::TYPE.block_elements() / 32;

    /// The integer scales of the runs, each twice as in [`twice`].
    fn scales(block: &[u8]) -> [i32; 8];
    /// The levels of a run.
    fn levels<S: SimdOfEight>(simd: S, block: &[u8], run: usize) -> S::Dwords;
}

struct Q4_0;

impl SignedFormat for Q4_0 {
    const TYPE: DataType = DataType::Q4_0;

    #[inline(always)]
    fn scales(_block: &[u8]) -> [i32; 8] {
        [twice(1); 8]
    }

    #[inline(always)]
    fn levels<S: SimdOfEight>(simd: S, block: &[u8], _run: usize) -> S::Dwords {
        const LEVELS: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];
        simd.look_up(&LEVELS, &block[2..18].as_chunks().0[0])
    }
}

struct Q8_0;

impl SignedFormat for Q8_0 {
    const TYPE: DataType = DataType::Q8_0;

    #[inline(always)]
    fn scales(_block: &[u8]) -> [i32; 8] {
        [twice(1); 8]
    }

    #[inline(always)]
    fn levels<S: SimdOfEight>(simd: S, block: &[u8], _run: usize) -> S::Dwords {
        simd.load_bytes(&block[2..34].as_chunks().0[0])
    }
}

struct Iq4Nl;

impl SignedFormat for Iq4Nl {
    const TYPE: DataType = DataType::IQ4_NL;

    #[inline(always)]
    fn scales(_block: &[u8]) -> [i32; 8] {
        [twice(1); 8]
    }

    #[inline(always)]
    fn levels<S: SimdOfEight>(simd: S, block: &[u8], _run: usize) -> S::Dwords {
        simd.look_up(&nonlinear::LEVELS, &block[2..18].as_chunks().0[0])
    }
}

struct Iq4Xs;

impl SignedFormat for Iq4Xs {
    const TYPE: DataType = DataType::IQ4_XS;

    #[inline(always)]
    fn scales(block: &[u8]) -> [i32; 8] {
        let high = u32::from(u16::from_le_bytes([block[2], block[3]]));
        let low = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
        let mut scales = [0; 8];
        for (run, scale) in scales.iter_mut().enumerate() {
            let own = low >> (4 * run) & 15 | (high >> (2 * run) & 3) << 4;
            *scale = twice(own as i16 - 32);
        }
        scales
    }

    #[inline(always)]
    fn levels<S: SimdOfEight>(simd: S, block: &[u8], run: usize) -> S::Dwords {
        simd.look_up(&nonlinear::LEVELS, &block[8..136].as_chunks().0[run])
    }
}

#[inline(always)]
fn dot_signed<S: SimdOfEight, F: SignedFormat, const COUNT: usize>(
    simd: S,
    tokens: &Tokens<'_>,
    bytes: &[u8],
) -> Products {
    let mut totals = [simd.zero(); COUNT];
    for (block, bytes) in bytes.chunks_exact(F::BYTES).enumerate() {
        prefetch_behind(bytes);
        let unit = simd.half([bytes[0], bytes[1]]);
        let mut integers = [simd.zero_groups(); COUNT];
        let scales = F::scales(bytes);
        for (run, scale) in scales.into_iter().enumerate().take(F::RUNS) {
            let weights = F::levels(simd, bytes, run);
            let scale = simd.splat_group(scale);
            for (token, integers) in integers.iter_mut().enumerate() {
                let levels = tokens.levels(token, (block * F::RUNS + run) * 32, 32);
                let levels = simd.load_levels(&levels.as_chunks().0[0]).with_signs_of(weights);
                let products = weights.magnitudes().multiply_bytes(levels);
                *integers = integers.add(products.multiply_pairs(scale));
            }
        }
        for token in 0..COUNT {
            let factor = simd.splat(unit * tokens.scale(token, block));
            totals[token] = totals[token].add_product(integers[token].to_floats(), factor);
        }
    }
    let mut products = [0.0; FEW];
    for token in 0..COUNT {
        products[token] = totals[token].sum();
    }
    products
}

fn of_words(
    instructions: Instructions,
    split: &Split,
    matrix: &Matrix,
    tokens: &Tokens<'_>,
    bytes: &[u8],
    scratch: &mut Scratch,
) -> Products {
    let mut integers = vec![0; matrix.columns];
    let mut units = vec![0.0; matrix.columns / split.length];
    split.row(matrix.codec, bytes, scratch, &mut integers, &mut units);
    products_of_words(instructions, split, tokens, &integers, &units)
}

for_instructions! {
    eight lanes:
    fn products_of_words(
        split: &Split,
        tokens: &Tokens<'_>,
        integers: &[i16],
        units: &[f32],
    ) -> Products = dot_words;
}

#[inline(always)]
fn dot_words<S: SimdOfEight>(
    simd: S,
    split: &Split,
    tokens: &Tokens<'_>,
    integers: &[i16],
    units: &[f32],
) -> Products {
    let mut products = [0.0; FEW];
    for (token, product) in products.iter_mut().enumerate().take(tokens.quantized.tokens) {
        let mut total = simd.zero();
        let runs = integers.chunks_exact(split.length).zip(units).enumerate();
        for (run, (integers, unit)) in runs {
            let first = run * split.length;
            let levels = tokens.words(token, first, split.length).as_chunks::<16>().0;
            let mut sums = simd.zero_groups();
            for (integers, levels) in integers.as_chunks().0.iter().zip(levels) {
                let product = simd.load_words(integers).multiply_pairs(simd.load_words(levels));
                sums = sums.add(product);
            }
            let scale = tokens.scale(token, first / tokens.quantized.block);
            total = total.add_product(sums.to_floats(), simd.splat(unit * scale));
        }
        *product = total.sum();
    }
    products
}
