//! Operations on each row by itself beside their definition.

use super::super::Backend;
use super::super::rowwise::Rowwise;
use super::{Checked, compare_buffer, made_up};

/// Every kind, with rows of so many numbers, and another input's of so many.
pub(super) fn check<B: Backend>(backend: &B) -> Checked {
    one(backend, Rowwise::Project { count: 3, rows: 5, columns: 37 }, 37, 0)?;
    one(backend, Rowwise::Project { count: 3, rows: 5, columns: 7 }, 21, 0)?;
    one(backend, Rowwise::Combine { size: 6 }, 24, 24)?;
    one(backend, Rowwise::Combine { size: 6 }, 24, 6)?;
    one(backend, Rowwise::Times, 19, 0)?;
    one(backend, Rowwise::Match, 24, 8)?;
    one(backend, Rowwise::Exceed { deviations: 0.4 }, 100, 0)
}

fn one<B: Backend>(backend: &B, operation: Rowwise, width: usize, other: usize) -> Checked {
    const ROWS: usize = 11;
    let (inputs, out_width) = operation.widths(width, other);
    let made = |(at, (width, is_vector)): (usize, &(usize, bool))| {
        made_up(width * if *is_vector { 1 } else { ROWS }, 50 + at as u32)
    };
    let numbers: Vec<Vec<f32>> = inputs.iter().enumerate().map(made).collect();
    let mut expected = vec![0.0; ROWS * out_width];
    for (row, out) in expected.chunks_exact_mut(out_width).enumerate() {
        let own = |(numbers, (width, is_vector)): (&Vec<f32>, &(usize, bool))| {
            let row = if *is_vector { 0 } else { row };
            numbers[row * width..(row + 1) * width].to_vec()
        };
        let own: Vec<Vec<f32>> = numbers.iter().zip(&inputs).map(own).collect();
        let own: Vec<&[f32]> = own.iter().map(Vec::as_slice).collect();
        operation.of_row(&own, out);
    }
    let there = numbers.iter().zip(&inputs).map(|(own, (width, _))| backend.buffer(*width, own));
    let there = there.collect::<Result<Vec<_>, _>>()?;
    let there: Vec<&B::Buffer> = there.iter().collect();
    let found = backend.rowwise(&operation, &there)?;
    compare_buffer(backend, &format!("{operation:?}"), &found, out_width, &expected)
}
