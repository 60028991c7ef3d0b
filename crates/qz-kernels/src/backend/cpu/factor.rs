//! The factor of a symmetric matrix, a panel of columns at a time.

use qz_codec::grid::Rows;
use rayon::prelude::*;

use crate::backend::reference::LEAST_REST;
use crate::gemm::add_row_products_in_runs;
use crate::stop;

/// Columns that are factored at a time.
const PANEL: usize = 128;
/// Rows that one thread works on at a time.
const TILE: usize = 128;

/// R, in the matrix's own place, on the current pool's threads. Runs of 256 products are summed
/// in `f32`, these sums in `f64`, and the result is stored in `f32`: so the factor is that of a
/// matrix whose entries differ from the given ones by a few times 1e-7 of `sqrt(H_ii H_jj)`, as
/// those of the sums over tokens do, however many there are.
///
/// Work that is to stop finds no factor.
pub(super) fn factor(size: usize, mut entries: Vec<f32>) -> Result<Vec<f32>, usize> {
    for end in (1..=size).rev().step_by(PANEL) {
        if stop::is_requested() {
            return Err(0);
        }
        factor_panel(&mut entries, size, end.saturating_sub(PANEL), end)?;
    }
    Ok(entries)
}

/// Columns `first..end` of R in rows `..end`, later columns being there.
fn factor_panel(entries: &mut [f32], size: usize, first: usize, end: usize) -> Result<(), usize> {
    let width = end - first;
    let later = size - end;
    let own: Vec<f32> = entries[first * size..end * size]
        .chunks(size)
        .flat_map(|row| row[end..].to_vec())
        .collect();
    let mut corner = rest(&entries[first * size..end * size], size, first, width, &own);
    factor_corner(&mut corner, width).map_err(|column| first + column)?;
    for (row, corner) in
        entries[first * size..end * size].chunks_mut(size).zip(corner.chunks(width))
    {
        for (entry, value) in row[first..end].iter_mut().zip(corner) {
            *entry = *value as f32;
        }
    }
    // Columns of the corner as rows.
    let mut turned = vec![0.0; width * width];
    for row in 0..width {
        for column in row..width {
            turned[column * width + row] = corner[row * width + column];
        }
    }
    debug_assert_eq!(own.len(), width * later);
    entries[..first * size].par_chunks_mut(TILE * size).for_each(|rows| {
        if stop::is_requested() {
            return;
        }
        let mut rest = rest(rows, size, first, width, &own);
        for (row, rest) in rows.chunks_mut(size).zip(rest.chunks_mut(width)) {
            for column in (0..width).rev() {
                let factors = &turned[column * width..][..column + 1];
                rest[column] /= factors[column];
                let value = rest[column];
                for (earlier, factor) in rest[..column].iter_mut().zip(factors) {
                    *earlier -= value * factor;
                }
            }
            for (entry, value) in row[first..end].iter_mut().zip(rest) {
                *entry = *value as f32;
            }
        }
    });
    Ok(())
}

/// `H_ij - Σ_k R_ik R_jk` over the later columns `k`, for the panel's columns `j`, whose
/// later parts are `own`.
fn rest(rows: &[f32], size: usize, first: usize, width: usize, own: &[f32]) -> Vec<f64> {
    let count = rows.len() / size;
    let later = own.len() / width;
    let mut rest = vec![0.0; count * width];
    if later > 0 {
        let rows = Rows::dense(rows, size).slice(first + width, later);
        add_row_products_in_runs(rows, Rows::dense(own, later), &mut rest);
    }
    for (rest, row) in rest.chunks_mut(width).zip(rows.chunks(size)) {
        for (rest, entry) in rest.iter_mut().zip(&row[first..]) {
            *rest = f64::from(*entry) - *rest;
        }
    }
    rest
}

/// The upper factor of a small matrix in its upper half; `Err` names a column.
fn factor_corner(corner: &mut [f64], width: usize) -> Result<(), usize> {
    for column in (0..width).rev() {
        let whole = corner[column * width + column];
        let later = &corner[column * width..][column + 1..width];
        let rest = whole - later.iter().map(|entry| entry * entry).sum::<f64>();
        if rest.is_nan() || rest <= whole.abs() * LEAST_REST || !rest.is_finite() {
            return Err(column);
        }
        let root = rest.sqrt();
        for row in 0..column {
            let products: f64 = (column + 1..width)
                .map(|k| corner[row * width + k] * corner[column * width + k])
                .sum();
            corner[row * width + column] = (corner[row * width + column] - products) / root;
        }
        corner[column * width + column] = root;
    }
    Ok(())
}
