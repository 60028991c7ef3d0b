//! Products of weights with f32 activations: a tile of rows is decoded and multiplied
//! with all tokens; rows of float types with few tokens from where they lie.

use std::ops::Range;

use qz_tensor::DataType;
use rayon::prelude::*;

use super::matmul::{Matrix, kernel_of, rows_of_a_task};
use super::tiles::{self, ROWS};
use crate::gemm::{DEPTH, Destination, OwnBlock, Panels, View, ViewMut, transposed};
use crate::stop;
use crate::vector::{Instructions, Simd, Vector, for_instructions};

/// Rows of weights that a task decodes. With [`DEPTH`] columns they stay in a core's
/// second cache.
const TASK_ROWS: usize = 16 * ROWS;

/// Weights of a task with few tokens.
const TASK: usize = 64 * 1024;

/// All products; runs on the current pool's threads. `out` has a row for each token. `few`
/// means at most [`super::integers::FEW`] tokens, whose rows are read as they lie.
pub(super) fn multiply(
    instructions: Instructions,
    few: bool,
    activations: &[f32],
    matrix: &Matrix,
    out: &mut [f32],
) {
    match Float::of(matrix.codec.spec().data_type) {
        Some(float) if few => multiply_few(instructions, float, activations, matrix, out),
        _ => multiply_many(instructions, activations, matrix, out),
    }
}

/// Lanes are tokens: these are interleaved once, and weights need no more than to be
/// decoded, since each is broadcast to all lanes.
fn multiply_many(
    instructions: Instructions,
    activations: &[f32],
    matrix: &Matrix,
    out: &mut [f32],
) {
    let (width, columns) = (tiles::width(instructions), matrix.columns);
    let tokens = activations.len() / columns;
    let activations = View::dense(activations, tokens, columns);
    let runs = (0..columns).step_by(DEPTH).map(|first| first..columns.min(first + DEPTH));
    let runs: Vec<_> = runs
        .map(|run| {
            let own = activations.block(0..tokens, run.clone());
            (run, Panels::pack_on_all_threads(own, width))
        })
        .collect();
    let data_type = matrix.codec.spec().data_type;
    let stored = |columns: usize| columns / data_type.block_elements() * data_type.block_bytes();
    let row_bytes = stored(columns);
    let mut all = ViewMut::dense(out, tokens, matrix.rows);
    let destination = Destination::new(&mut all);
    let tasks = matrix.bytes.par_chunks((TASK_ROWS * row_bytes).max(1)).enumerate();
    tasks.for_each_init(Default::default, |(weights, sums): &mut (Vec<f32>, Vec<f32>), task| {
        let (number, bytes) = task;
        if stop::is_requested() {
            return;
        }
        let rows = bytes.len() / row_bytes;
        let first_row = number * TASK_ROWS;
        // SAFETY: no other task has these rows of the matrix.
        let mut block = unsafe { destination.block(0..tokens, first_row..first_row + rows) };
        // With one run a panel's sums are done at once, and stay in the first cache.
        let of_panel = width * rows.next_multiple_of(ROWS);
        let kept = if runs.len() == 1 { 1 } else { tokens.div_ceil(width) };
        sums.resize(of_panel * kept, 0.0);
        for (position, (run, panels)) in runs.iter().enumerate() {
            // Rows that fill up the last register tile are zeros.
            weights.resize(rows.next_multiple_of(ROWS) * run.len(), 0.0);
            weights[rows * run.len()..].fill(0.0);
            let to = weights.chunks_exact_mut(run.len());
            for (bytes, to) in bytes.chunks_exact(row_bytes).zip(to) {
                matrix.codec.decode(&bytes[stored(run.start)..stored(run.end)], to);
            }
            let panels = panels.numbers().chunks_exact(width * run.len());
            for (panel, numbers) in panels.enumerate() {
                let sums = &mut sums[panel % kept * of_panel..][..of_panel];
                if position == 0 {
                    sums.fill(0.0);
                }
                tiles::add(instructions, numbers, weights, run.len(), sums);
                if position + 1 == runs.len() {
                    let own = panel * width..tokens.min((panel + 1) * width);
                    store(sums, rows, own, &mut block);
                }
            }
        }
    });
}

/// Stores a panel's sums, whose lanes are `tokens`: each token's are beside each other in
/// `out`. Squares of four by four are turned at a time.
fn store(sums: &[f32], rows: usize, tokens: Range<usize>, out: &mut OwnBlock<'_>) {
    const SIDE: usize = 4;
    let width = sums.len() / rows.next_multiple_of(ROWS).max(1);
    let whole = rows / SIDE * SIDE;
    for (square, sums) in sums.chunks_exact(SIDE * width).take(whole / SIDE).enumerate() {
        for first in (0..tokens.len()).step_by(SIDE) {
            let side = |row: usize| -> [f32; SIDE] {
                std::array::from_fn(|lane| sums[row * width + first + lane])
            };
            let turned = transposed(std::array::from_fn(side));
            for (token, own) in (tokens.start + first..tokens.end).zip(turned) {
                out.elements(token, square * SIDE, SIDE).copy_from_slice(&own);
            }
        }
    }
    for row in whole..rows {
        for (token, sum) in tokens.clone().zip(&sums[row * width..][..width]) {
            out.set(token, row, *sum);
        }
    }
}

/// Types whose weights stand alone.
#[derive(Clone, Copy)]
enum Float {
    Single,
    Half,
    Brain,
}

impl Float {
    fn of(data_type: DataType) -> Option<Self> {
        let kernels =
            [(Single::TYPE, Float::Single), (Half::TYPE, Float::Half), (Brain::TYPE, Float::Brain)];
        kernel_of(&kernels, data_type)
    }
}

fn multiply_few(
    instructions: Instructions,
    float: Float,
    activations: &[f32],
    matrix: &Matrix,
    out: &mut [f32],
) {
    let columns = matrix.columns;
    let tokens = activations.len() / columns;
    let row_bytes = matrix.bytes.len() / matrix.rows.max(1);
    let rows = rows_of_a_task(matrix, TASK);
    let mut all = ViewMut::dense(out, tokens, matrix.rows);
    let destination = Destination::new(&mut all);
    let tasks = matrix.bytes.par_chunks((rows * row_bytes).max(1)).enumerate();
    tasks.for_each(|(number, bytes)| {
        if stop::is_requested() {
            return;
        }
        let first = number * rows;
        // SAFETY: no other task has these rows of the matrix.
        let mut own =
            unsafe { destination.block(0..tokens, first..first + bytes.len() / row_bytes) };
        for (group, bytes) in bytes.chunks(TOGETHER * row_bytes).enumerate() {
            let mut products = [0.0; TOGETHER];
            let products = &mut products[..bytes.len() / row_bytes];
            for (token, activations) in activations.chunks_exact(columns).enumerate() {
                dots(instructions, float, activations, bytes, products);
                for (row, product) in products.iter().enumerate() {
                    own.set(token, group * TOGETHER + row, *product);
                }
            }
        }
    });
}

for_instructions! {
    /// The products of a token with rows that lie behind each other.
    fn dots(float: Float, activations: &[f32], bytes: &[u8], products: &mut [f32]) = dots_any;
}

#[inline(always)]
fn dots_any<S: Simd>(
    simd: S,
    float: Float,
    activations: &[f32],
    bytes: &[u8],
    products: &mut [f32],
) {
    match float {
        Float::Single => dots_stored::<S, Single>(simd, activations, bytes, products),
        Float::Half => dots_stored::<S, Half>(simd, activations, bytes, products),
        Float::Brain => dots_stored::<S, Brain>(simd, activations, bytes, products),
    }
}

/// How a float type's numbers are read.
trait Stored {
    const TYPE: DataType;
    const BYTES: usize = Self::TYPE.block_bytes();
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> S::Floats;
}

struct Single;
struct Half;
struct Brain;

impl Stored for Single {
    const TYPE: DataType = DataType::F32;

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> S::Floats {
        simd.load_singles(bytes)
    }
}

impl Stored for Half {
    const TYPE: DataType = DataType::F16;

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> S::Floats {
        simd.load_halves(bytes)
    }
}

impl Stored for Brain {
    const TYPE: DataType = DataType::BF16;

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> S::Floats {
        simd.load_brains(bytes)
    }
}

/// Rows that are multiplied together: long rows of activations come from the second cache,
/// once for all of them.
const TOGETHER: usize = 4;

/// Columns up to which activations stay in the first cache beside a row, which is then
/// better read alone: of short rows beside each other the processor reads less ahead.
const SHORT: usize = 4096;

#[inline(always)]
fn dots_stored<S: Simd, N: Stored>(
    simd: S,
    activations: &[f32],
    bytes: &[u8],
    products: &mut [f32],
) {
    let short = activations.len() <= SHORT;
    if let Ok(products) = <&mut [f32; TOGETHER]>::try_from(&mut *products)
        && !short
    {
        *products = dots_of::<S, N, TOGETHER, 2>(simd, activations, bytes);
        return;
    }
    let rows = bytes.chunks_exact(activations.len() * N::BYTES);
    for (product, bytes) in products.iter_mut().zip(rows) {
        [*product] = if short {
            dots_of::<S, N, 1, 4>(simd, activations, bytes)
        } else {
            dots_of::<S, N, 1, 2>(simd, activations, bytes)
        };
    }
}

/// A row has so many sums that are kept apart, since an addition has to wait for the one
/// before it. The order in which they are added up does not depend on how many rows there
/// are.
#[inline(always)]
fn dots_of<S: Simd, N: Stored, const ROWS: usize, const SUMS: usize>(
    simd: S,
    activations: &[f32],
    bytes: &[u8],
) -> [f32; ROWS] {
    let step = SUMS * S::LANES;
    let row_bytes = activations.len() * N::BYTES;
    let mut rows = [bytes; ROWS];
    for (row, own) in rows.iter_mut().enumerate() {
        *own = &bytes[row * row_bytes..][..row_bytes];
    }
    let mut sums = [[simd.zero(); SUMS]; ROWS];
    let (runs, rest) = activations.split_at(activations.len() / step * step);
    for (run, activations) in runs.chunks_exact(step).enumerate() {
        let at = run * step * N::BYTES;
        for (sums, row) in sums.iter_mut().zip(rows) {
            add_run::<S, N>(simd, sums, activations, &row[at..at + step * N::BYTES]);
        }
    }
    if !rest.is_empty() {
        // What is left over fills a run with zeros.
        let (mut last, mut last_bytes) = ([0.0; 4 * 16], [0; 4 * 16 * 4]);
        last[..rest.len()].copy_from_slice(rest);
        for (sums, row) in sums.iter_mut().zip(rows) {
            last_bytes[..rest.len() * N::BYTES].copy_from_slice(&row[runs.len() * N::BYTES..]);
            add_run::<S, N>(simd, sums, &last, &last_bytes);
        }
    }
    let mut products = [0.0; ROWS];
    for (product, sums) in products.iter_mut().zip(sums) {
        let mut total = sums[0];
        for sum in &sums[1..] {
            total = total.add_product(*sum, simd.splat(1.0));
        }
        *product = total.sum();
    }
    products
}

#[inline(always)]
fn add_run<S: Simd, N: Stored>(simd: S, sums: &mut [S::Floats], activations: &[f32], bytes: &[u8]) {
    for (position, sum) in sums.iter_mut().enumerate() {
        let first = position * S::LANES;
        let weights = N::load(simd, &bytes[first * N::BYTES..]);
        *sum = sum.add_product(simd.load(&activations[first..]), weights);
    }
}

/// [`crate::backend::reference::rms_norm`], with squares summed side by side: one sum
/// would have to wait for each addition.
pub(super) fn rms_norm(row: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    let mut sums = [0.0f64; 8];
    let (wholes, rest) = row.as_chunks::<8>();
    for values in wholes {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += f64::from(value * value);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += f64::from(value * value);
    }
    let mean = (sums.iter().sum::<f64>() / row.len() as f64) as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    for (out, (value, weight)) in out.iter_mut().zip(row.iter().zip(weights)) {
        *out = value * scale * weight;
    }
}
