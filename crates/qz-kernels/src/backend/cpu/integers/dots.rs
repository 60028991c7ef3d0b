//! Few tokens: each block of weights is unpacked into a core's first cache and multiplied
//! with all of them, so that the memory that holds the weights sets the speed.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256i;

use qz_codec::search::nonlinear;
use qz_tensor::DataType;
use rayon::prelude::*;

use super::dwords::{EightDwords, Plain};
use super::formats::{self, Format, Layout, Minimums, Unpacked, twice, with_format};
use super::panels::Kind;
use super::quantized::Quantized;
#[cfg(target_arch = "x86_64")]
use super::single::{self, Single, Token};
use super::split::{Scratch, Split};
use crate::backend::cpu::matmul::{Matrix, rows_of_a_task};
use crate::gemm::{Destination, ViewMut};
use crate::vector::{Instructions, Vector, prefetch_behind};

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
    kind: Kind,
    quantized: &Quantized,
    matrix: &Matrix,
    out: &mut [f32],
) {
    let count = quantized.tokens;
    let last = count.saturating_sub(1);
    let sums = match kind {
        Kind::Levels(layout) => with_format!(layout, sums, quantized),
        Kind::Words(_) => Vec::new(),
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
                Way::Single(single) => of_single(single, &tokens, bytes),
                Way::Levels(layout) => levels(instructions, layout, &tokens, bytes),
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
fn of_single(single: Single, tokens: &Tokens<'_>, bytes: &[u8]) -> Products {
    let Quantized { levels, scales, .. } = tokens.quantized;
    let token = Token { levels, scales, sums: &tokens.sums };
    // SAFETY: this way is taken only if the machine has AVX2, FMA and F16C.
    [unsafe { single::dot(single, token, bytes) }, 0.0, 0.0, 0.0]
}

/// How a row of a type is multiplied.
#[derive(Clone, Copy)]
enum Way {
    #[cfg(target_arch = "x86_64")]
    Single(Single),
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
    fn of(instructions: Instructions, kind: Kind, data_type: DataType, tokens: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if tokens == 1
            && instructions != Instructions::Portable
            && let Some(single) = Single::of(data_type)
        {
            return Self::Single(single);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (instructions, tokens);
        match (kind, data_type.name()) {
            (_, "Q4_0") => Self::Signed(Signed::Q4_0),
            (Kind::Levels(layout), _) => Self::Levels(layout),
            (_, "Q8_0") => Self::Signed(Signed::Q8_0),
            (_, "IQ4_NL") => Self::Signed(Signed::Iq4Nl),
            (_, "IQ4_XS") => Self::Signed(Signed::Iq4Xs),
            (Kind::Words(split), _) => Self::Words(split),
        }
    }
}

fn levels(
    instructions: Instructions,
    layout: Layout,
    tokens: &Tokens<'_>,
    bytes: &[u8],
) -> Products {
    match instructions {
        Instructions::Portable => with_format!(layout, levels_portable, tokens, bytes),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: there were no such value if the machine had no AVX2.
        Instructions::Avx2 | Instructions::Avx512 => unsafe {
            with_format!(layout, levels_avx2, tokens, bytes)
        },
    }
}

fn levels_portable<F: Format>(tokens: &Tokens<'_>, bytes: &[u8]) -> Products {
    any_count_of_levels::<Plain, F>(tokens, bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn levels_avx2<F: Format>(tokens: &Tokens<'_>, bytes: &[u8]) -> Products {
    any_count_of_levels::<__m256i, F>(tokens, bytes)
}

#[inline(always)]
fn any_count_of_levels<V: EightDwords, F: Format>(tokens: &Tokens<'_>, bytes: &[u8]) -> Products {
    if tokens.quantized.tokens == 1 {
        dot_levels::<V, F, 1>(tokens, bytes)
    } else {
        dot_levels::<V, F, FEW>(tokens, bytes)
    }
}

#[inline(always)]
fn dot_levels<V: EightDwords, F: Format, const COUNT: usize>(
    tokens: &Tokens<'_>,
    bytes: &[u8],
) -> Products {
    let sub_blocks = F::BLOCK / F::SUB_BLOCK;
    let mut totals = [V::Floats::zero(); COUNT];
    let mut minimums = [0.0; COUNT];
    let mut unpacked = Unpacked::new();
    for (block, bytes) in bytes.chunks_exact(F::BYTES).enumerate() {
        F::unpack::<V>(bytes, &mut unpacked);
        for token in 0..COUNT {
            let levels = tokens.levels(token, block * F::BLOCK, F::BLOCK);
            let sums = tokens.sums(token, F::SUB_BLOCK, block * sub_blocks, sub_blocks);
            let scale = tokens.scale(token, block);
            let mut of_minimums = 0;
            for (sum, minimum) in sums.iter().zip(&unpacked.minimums) {
                of_minimums += i32::from(*sum) * i32::from(*minimum);
            }
            let mut integers = V::zero();
            if F::MINIMUMS == Minimums::OfUnit {
                integers = V::load(&[-of_minimums, 0, 0, 0, 0, 0, 0, 0]);
            } else {
                minimums[token] += of_minimums as f32 * (unpacked.minimum_unit * scale);
            }
            let runs = levels.as_chunks::<32>().0.iter().zip(unpacked.levels.as_chunks().0);
            for (run, (levels, weights)) in runs.enumerate() {
                let products = V::load_bytes(weights).multiply_bytes(V::load_levels(levels));
                let scales = if F::SUB_BLOCK == 32 {
                    V::splat(unpacked.scales[run])
                } else {
                    V::halves(unpacked.scales[2 * run], unpacked.scales[2 * run + 1])
                };
                integers = integers.add(products.multiply_pairs(scales));
            }
            let factor = V::Floats::splat(unpacked.unit * scale);
            totals[token] = totals[token].add_product(integers.to_floats(), factor);
        }
    }
    let mut products = [0.0; FEW];
    for token in 0..COUNT {
        products[token] = totals[token].sum() - minimums[token];
    }
    products
}

fn of_signed(
    instructions: Instructions,
    signed: Signed,
    tokens: &Tokens<'_>,
    bytes: &[u8],
) -> Products {
    match instructions {
        Instructions::Portable => any_signed::<Plain>(signed, tokens, bytes),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: there were no such value if the machine had no AVX2.
        Instructions::Avx2 | Instructions::Avx512 => unsafe {
            any_signed_avx2(signed, tokens, bytes)
        },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn any_signed_avx2(signed: Signed, tokens: &Tokens<'_>, bytes: &[u8]) -> Products {
    any_signed::<__m256i>(signed, tokens, bytes)
}

#[inline(always)]
fn any_signed<V: EightDwords>(signed: Signed, tokens: &Tokens<'_>, bytes: &[u8]) -> Products {
    match (signed, tokens.quantized.tokens) {
        (Signed::Q4_0, 1) => dot_signed::<V, Q4_0, 1>(tokens, bytes),
        (Signed::Q4_0, _) => dot_signed::<V, Q4_0, FEW>(tokens, bytes),
        (Signed::Q8_0, 1) => dot_signed::<V, Q8_0, 1>(tokens, bytes),
        (Signed::Q8_0, _) => dot_signed::<V, Q8_0, FEW>(tokens, bytes),
        (Signed::Iq4Nl, 1) => dot_signed::<V, Iq4Nl, 1>(tokens, bytes),
        (Signed::Iq4Nl, _) => dot_signed::<V, Iq4Nl, FEW>(tokens, bytes),
        (Signed::Iq4Xs, 1) => dot_signed::<V, Iq4Xs, 1>(tokens, bytes),
        (Signed::Iq4Xs, _) => dot_signed::<V, Iq4Xs, FEW>(tokens, bytes),
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
    fn levels<V: EightDwords>(block: &[u8], run: usize) -> V;
}

struct Q4_0;

impl SignedFormat for Q4_0 {
    const TYPE: DataType = DataType::Q4_0;

    #[inline(always)]
    fn scales(_block: &[u8]) -> [i32; 8] {
        [twice(1); 8]
    }

    #[inline(always)]
    fn levels<V: EightDwords>(block: &[u8], _run: usize) -> V {
        const LEVELS: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];
        V::look_up(&LEVELS, &block[2..18].as_chunks().0[0])
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
    fn levels<V: EightDwords>(block: &[u8], _run: usize) -> V {
        V::load_bytes(&block[2..34].as_chunks().0[0])
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
    fn levels<V: EightDwords>(block: &[u8], _run: usize) -> V {
        V::look_up(&nonlinear::LEVELS, &block[2..18].as_chunks().0[0])
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
    fn levels<V: EightDwords>(block: &[u8], run: usize) -> V {
        V::look_up(&nonlinear::LEVELS, &block[8..136].as_chunks().0[run])
    }
}

#[inline(always)]
fn dot_signed<V: EightDwords, S: SignedFormat, const COUNT: usize>(
    tokens: &Tokens<'_>,
    bytes: &[u8],
) -> Products {
    let mut totals = [V::Floats::zero(); COUNT];
    for (block, bytes) in bytes.chunks_exact(S::BYTES).enumerate() {
        prefetch_behind(bytes);
        let unit = V::half([bytes[0], bytes[1]]);
        let mut integers = [V::zero(); COUNT];
        let scales = S::scales(bytes);
        for (run, scale) in scales.into_iter().enumerate().take(S::RUNS) {
            let weights = S::levels::<V>(bytes, run);
            let scale = V::splat(scale);
            for (token, integers) in integers.iter_mut().enumerate() {
                let levels = tokens.levels(token, (block * S::RUNS + run) * 32, 32);
                let levels = V::load_levels(&levels.as_chunks().0[0]).with_signs_of(weights);
                let products = weights.magnitudes().multiply_bytes(levels);
                *integers = integers.add(products.multiply_pairs(scale));
            }
        }
        for token in 0..COUNT {
            let factor = V::Floats::splat(unit * tokens.scale(token, block));
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
    match instructions {
        Instructions::Portable => dot_words::<Plain>(split, tokens, &integers, &units),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: there were no such value if the machine had no AVX2.
        Instructions::Avx2 | Instructions::Avx512 => unsafe {
            dot_words_avx2(split, tokens, &integers, &units)
        },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_words_avx2(split: &Split, tokens: &Tokens<'_>, integers: &[i16], units: &[f32]) -> Products {
    dot_words::<__m256i>(split, tokens, integers, units)
}

#[inline(always)]
fn dot_words<V: EightDwords>(
    split: &Split,
    tokens: &Tokens<'_>,
    integers: &[i16],
    units: &[f32],
) -> Products {
    let mut products = [0.0; FEW];
    for (token, product) in products.iter_mut().enumerate().take(tokens.quantized.tokens) {
        let mut total = V::Floats::zero();
        let runs = integers.chunks_exact(split.length).zip(units).enumerate();
        for (run, (integers, unit)) in runs {
            let first = run * split.length;
            let levels = tokens.words(token, first, split.length).as_chunks::<16>().0;
            let mut sums = V::zero();
            for (integers, levels) in integers.as_chunks().0.iter().zip(levels) {
                let product = V::load_words(integers).multiply_pairs(V::load_words(levels));
                sums = sums.add(product);
            }
            let scale = tokens.scale(token, first / tokens.quantized.block);
            total = total.add_product(sums.to_floats(), V::Floats::splat(unit * scale));
        }
        *product = total.sum();
    }
    products
}
