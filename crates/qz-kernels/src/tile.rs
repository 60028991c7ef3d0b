//! What goes on inside one block of columns when errors are fed back: sixteen rows stand
//! side by side, so that a step takes one column of all of them.

use crate::vector::{Instructions, Simd, for_instructions};

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;

/// One column of a tile.
pub type TileColumn = [f32; TILE_ROWS];

/// Adds to each column a weighted sum of `sources`. The weights of column `k` are
/// `weights[k * stride..]`, one for each source; sums are formed in the sources' order,
/// in `f32`.
///
/// # Panics
/// If there are too few weights.
pub fn add_weighted_columns(
    columns: &mut [TileColumn],
    sources: &[TileColumn],
    weights: &[f32],
    stride: usize,
) {
    add_with(Instructions::best(), columns, sources, weights, stride);
}

for_instructions! {
    eight lanes:
    fn add_with(
        columns: &mut [TileColumn],
        sources: &[TileColumn],
        weights: &[f32],
        stride: usize,
    ) = add;
}

/// The compiler finds the vectors by itself. No multiplication is fused with an addition: the
/// result is the same bit for bit, whatever it is compiled for.
#[inline(always)]
fn add<S: Simd>(
    _simd: S,
    columns: &mut [TileColumn],
    sources: &[TileColumn],
    weights: &[f32],
    stride: usize,
) {
    for (position, column) in columns.iter_mut().enumerate() {
        let weights = &weights[position * stride..][..sources.len()];
        let mut sum = *column;
        for (source, weight) in sources.iter().zip(weights) {
            for (sum, value) in sum.iter_mut().zip(source) {
                *sum += weight * value;
            }
        }
        *column = sum;
    }
}

/// Subtracts `factor` times `row` from `from`, the shorter one's length of them.
pub fn subtract_row(from: &mut [f32], row: &[f32], factor: f32) {
    subtract_with(Instructions::best(), from, row, factor);
}

for_instructions! {
    eight lanes:
    fn subtract_with(from: &mut [f32], row: &[f32], factor: f32) = subtract;
}

#[inline(always)]
fn subtract<S: Simd>(_simd: S, from: &mut [f32], row: &[f32], factor: f32) {
    for (value, entry) in from.iter_mut().zip(row) {
        *value -= factor * entry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_take_weighted_sums() {
        let mut columns = [[1.0; TILE_ROWS], [2.0; TILE_ROWS]];
        let sources = [[1.0; TILE_ROWS], [10.0; TILE_ROWS], [100.0; TILE_ROWS]];
        let weights = [1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0];
        add_weighted_columns(&mut columns, &sources, &weights, 4);
        assert_eq!(columns, [[322.0; TILE_ROWS], [656.0; TILE_ROWS]]);
    }

    #[test]
    fn rows_are_subtracted() {
        let mut from = [1.0; 19];
        subtract_row(&mut from[..18], &[0.5; 18], 4.0);
        assert_eq!((from[0], from[17], from[18]), (-1.0, -1.0, 1.0));
    }
}
