//! Sums of products over rows, and factors of symmetric matrices.

use std::ops::Range;

use super::{Checked, compare, compare_buffer, made_up};
use crate::backend::Backend;
use crate::backend::reference::ReferenceBackend;

/// Rows and columns that fill no tile, one that a device may take whole, and none.
pub(super) fn check<B: Backend>(backend: &B) -> Checked {
    for (count, rows, left, right) in
        [(1, 0..1, 1, 1), (600, 0..512, 20, 33), (300, 7..300, 130, 5), (4, 2..2, 3, 4)]
    {
        products(backend, count, rows.clone(), left, right)?;
        gram(backend, count, rows.clone(), left, 0..left)?;
        gram(backend, count, rows, right, right / 3..right / 2 + 1)?;
    }
    [1, 2, 127, 130, 300].into_iter().try_for_each(|size| factor(backend, size))?;
    for (entries, column) in [
        (vec![-1.0], 0),
        (vec![f32::NAN], 0),
        (vec![1.0, 1.0, 1.0, 1.0], 0),
        (vec![1.0, 0.0, 0.0, 0.0], 1),
    ] {
        let found = backend.factor(entries.len().isqrt(), entries.clone())?;
        if found != Err(column) {
            return Err(format!("factor of {entries:?}: {found:?}, expected {column}").into());
        }
    }
    Ok(())
}

fn products<B: Backend>(
    backend: &B,
    count: usize,
    rows: Range<usize>,
    left: usize,
    right: usize,
) -> Checked {
    let what = format!("products over {rows:?} of {left} and {right} columns");
    let (a, b) = (made_up(count * left, 30), made_up(count * right, 31));
    let sums = made_up(left * right, 32);
    let expected = products_on(&ReferenceBackend, &a, &b, &sums, rows.clone(), [left, right])?;
    let found = products_on(backend, &a, &b, &sums, rows, [left, right])?;
    compare(&what, &found, &expected)
}

fn products_on<B: Backend>(
    backend: &B,
    left: &[f32],
    right: &[f32],
    sums: &[f32],
    rows: Range<usize>,
    [height, width]: [usize; 2],
) -> Checked<Vec<f32>> {
    let (left, right) = (backend.buffer(height, left)?, backend.buffer(width, right)?);
    let mut sums = backend.buffer(width, sums)?;
    backend.add_products(&mut sums, &left, &right, rows)?;
    Ok(backend.take_numbers(sums)?)
}

/// Some columns of a Gram matrix, of two calls.
fn gram<B: Backend>(
    backend: &B,
    count: usize,
    rows: Range<usize>,
    columns: usize,
    of: Range<usize>,
) -> Checked {
    let (inputs, width) = (made_up(count * columns, 33), columns - of.start);
    let there = backend.buffer(columns, &inputs)?;
    let mut sums = backend.zeros(of.len(), width)?;
    let half = rows.start + rows.len() / 2;
    backend.add_gram(&mut sums, &there, of.start, rows.start..half)?;
    backend.add_gram(&mut sums, &there, of.start, half..rows.end)?;
    let mut found = backend.take_numbers(sums)?;
    let reference = ReferenceBackend;
    let mut sums = reference.zeros(of.len(), width)?;
    reference.add_gram(&mut sums, &reference.buffer(columns, &inputs)?, of.start, rows)?;
    let mut expected = reference.take_numbers(sums)?;
    for below in [&mut found, &mut expected] {
        below.chunks_mut(width.max(1)).enumerate().for_each(|(row, own)| own[..row].fill(0.0));
    }
    compare(&format!("columns {of:?} of a Gram matrix of {columns}"), &found, &expected)
}

/// The factor of a Gram matrix, with what is above the diagonal alone.
fn factor<B: Backend>(backend: &B, size: usize) -> Checked {
    let reference = ReferenceBackend;
    let inputs = reference.buffer(size, &made_up(size * (size + 20), 34))?;
    let mut gram = reference.zeros(size, size)?;
    reference.add_gram(&mut gram, &inputs, 0, 0..size + 20)?;
    let gram = reference.take_numbers(gram)?;
    let upper = |found: Result<Vec<f32>, usize>| -> Checked<Vec<f32>> {
        let mut entries = found.map_err(|column| format!("no factor of {size}: {column}"))?;
        entries.chunks_mut(size).enumerate().for_each(|(row, own)| own[..row].fill(0.0));
        Ok(entries)
    };
    let expected = upper(reference.factor(size, gram.clone())?)?;
    let found = backend.buffer(size, &upper(backend.factor(size, gram)?)?)?;
    compare_buffer(backend, &format!("factor of {size} columns"), &found, size, &expected)
}
