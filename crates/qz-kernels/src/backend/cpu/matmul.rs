//! Products of activations and weights: tiles of weight rows are decoded once and
//! multiplied with all tokens.

use qz_codec::Codec;
use rayon::prelude::*;

use super::products::{Products, TOGETHER};

/// Decoded numbers of a tile: they stay in a core's second cache.
const TILE_NUMBERS: usize = 128 * 1024;

/// A matrix in its own type.
pub struct Matrix {
    pub(super) codec: &'static dyn Codec,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) bytes: Vec<u8>,
}

impl Matrix {
    /// Rows of a tile: whole groups, and enough tiles for the threads.
    fn tile_rows(&self) -> usize {
        let fitting = TILE_NUMBERS / self.columns;
        let shared = self.rows.div_ceil(4 * rayon::current_num_threads());
        fitting.min(shared).next_multiple_of(TOGETHER)
    }
}

/// Every product; runs on the current pool's threads.
pub(super) fn multiply(products: Products, activations: &[f32], matrix: &Matrix, out: &mut [f32]) {
    let columns = matrix.columns;
    let tile_rows = matrix.tile_rows();
    let tile_bytes = tile_rows * (matrix.bytes.len() / matrix.rows.max(1));
    let tokens = activations.len() / columns;
    // Tiles are columns of the result, which lie apart; each is collected by itself.
    let tiles = matrix.bytes.par_chunks(tile_bytes.max(1)).map_init(Vec::new, |weights, bytes| {
        let rows = bytes.len() * matrix.rows / matrix.bytes.len();
        weights.resize(rows * columns, 0.0);
        matrix.codec.decode(bytes, weights);
        let mut tile = vec![0.0; tokens * rows];
        multiply_tile(products, activations, weights, columns, &mut tile);
        (rows, tile)
    });
    let tiles: Vec<(usize, Vec<f32>)> = tiles.collect();
    out.par_chunks_mut(matrix.rows).take(tokens).enumerate().for_each(|(token, out)| {
        let mut first = 0;
        for (rows, tile) in &tiles {
            out[first..first + rows].copy_from_slice(&tile[token * rows..][..*rows]);
            first += rows;
        }
    });
}

fn multiply_tile(
    products: Products,
    activations: &[f32],
    weights: &[f32],
    columns: usize,
    tile: &mut [f32],
) {
    let rows = weights.len() / columns;
    let tokens = activations.chunks(columns * TOGETHER).zip(tile.chunks_mut(rows * TOGETHER));
    for (tokens, tile) in tokens {
        let a = group(tokens, columns);
        for (number, weights) in weights.chunks(columns * TOGETHER).enumerate() {
            let dots = products.dots(a, group(weights, columns));
            for (dots, out) in dots.iter().zip(tile.chunks_mut(rows)) {
                let out = &mut out[number * TOGETHER..];
                out.iter_mut().zip(dots).for_each(|(out, dot)| *out = *dot);
            }
        }
    }
}

/// The rows of a group; where there are fewer, the last one again.
#[inline(always)]
pub(super) fn group(rows: &[f32], columns: usize) -> [&[f32]; TOGETHER] {
    let last = rows.len() / columns - 1;
    std::array::from_fn(|row| &rows[row.min(last) * columns..][..columns])
}
