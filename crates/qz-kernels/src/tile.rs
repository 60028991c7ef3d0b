//! What goes on inside one block of columns when errors are fed back: sixteen rows stand
//! side by side, so that a step takes one column of all of them.

use crate::isa::Isa;

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
    #[cfg(target_arch = "x86_64")]
    if Isa::chosen() >= Isa::Avx2 && is_x86_feature_detected!("fma") {
        // SAFETY: the machine has AVX2.
        unsafe { add_avx2(columns, sources, weights, stride) };
        return;
    }
    add(columns, sources, weights, stride);
}

/// The body, compiled for more instructions. No multiplication is fused with an addition:
/// the result is the same bit for bit.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_avx2(columns: &mut [TileColumn], sources: &[TileColumn], weights: &[f32], stride: usize) {
    add(columns, sources, weights, stride);
}

#[inline(always)]
fn add(columns: &mut [TileColumn], sources: &[TileColumn], weights: &[f32], stride: usize) {
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
    #[cfg(target_arch = "x86_64")]
    if Isa::chosen() >= Isa::Avx2 {
        // SAFETY: the machine has AVX2.
        unsafe { subtract_row_avx2(from, row, factor) };
        return;
    }
    subtract(from, row, factor);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn subtract_row_avx2(from: &mut [f32], row: &[f32], factor: f32) {
    subtract(from, row, factor);
}

#[inline(always)]
fn subtract(from: &mut [f32], row: &[f32], factor: f32) {
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
