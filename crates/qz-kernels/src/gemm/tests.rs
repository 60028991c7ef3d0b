//! Every product beside one of f64 sums.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::backend::conformance::made_up;

/// `C + α·A·B` in f64.
fn expected(into: Into, alpha: f32, a: View<'_>, b: View<'_>, c: &[f32]) -> Vec<f64> {
    let element = |position: usize| {
        let (row, column) = (position / b.columns(), position % b.columns());
        let products =
            (0..a.columns()).map(|k| f64::from(a.at(row, k)) * f64::from(b.at(k, column)));
        let before = if into == Into::Add { f64::from(c[position]) } else { 0.0 };
        before + f64::from(alpha) * products.sum::<f64>()
    };
    (0..a.rows() * b.columns()).map(element).collect()
}

fn is_near(found: f32, expected: f64, depth: usize) -> bool {
    (f64::from(found) - expected).abs() <= 1e-6 * (4.0 + depth as f64).sqrt() * 4.0
}

fn check(
    into: Into,
    alpha: f32,
    (rows, depth, columns): (usize, usize, usize),
    (a_turned, b_turned): (bool, bool),
) {
    // Rows are three numbers apart from each other.
    let lie = |turned: bool, rows, columns| if turned { (columns, rows) } else { (rows, columns) };
    let (a_shape, b_shape) = (lie(a_turned, rows, depth), lie(b_turned, depth, columns));
    let a = made_up(a_shape.0 * (a_shape.1 + 3), 1);
    let b = made_up(b_shape.0 * (b_shape.1 + 3), 2);
    let turn = |view: View<'static>, turned: bool| if turned { view.transposed() } else { view };
    let view = |numbers: Vec<f32>, (rows, columns): (usize, usize), turned| {
        turn(View::new(numbers.leak(), rows, columns, columns + 3), turned)
    };
    let (a, b) = (view(a, a_shape, a_turned), view(b, b_shape, b_turned));
    let before = made_up(rows * columns, 3);
    let expected = expected(into, alpha, a, b, &before);
    for instructions in Instructions::available() {
        let mut c = vec![7.0; rows * (columns + 5)];
        for (row, before) in before.chunks(columns.max(1)).enumerate() {
            c[row * (columns + 5)..][..columns].copy_from_slice(before);
        }
        let to = ViewMut::new(&mut c, rows, columns, columns + 5);
        multiply_with(instructions, into, alpha, a, b, to);
        for (position, expected) in expected.iter().enumerate() {
            let found = c[position / columns * (columns + 5) + position % columns];
            assert!(
                is_near(found, *expected, depth),
                "{instructions:?} {into:?} {alpha} {rows} x {depth} x {columns} {a_turned} \
                 {b_turned}: element {position} is {found}, expected {expected}"
            );
        }
        let between = c.chunks(columns + 5).flat_map(|row| &row[columns..]);
        assert!(between.copied().all(|number| number == 7.0), "wrote beside C");
    }
}

#[test]
fn products_of_every_shape() {
    let sizes = [1, 2, 5, 6, 7, 16, 17, 33];
    for rows in sizes {
        for columns in sizes {
            for depth in [1, 3, 64] {
                check(Into::Set, 1.0, (rows, depth, columns), (false, false));
            }
        }
    }
    check(Into::Set, 1.0, (0, 5, 7), (false, false));
    check(Into::Set, 1.0, (5, 0, 7), (false, false));
    check(Into::Add, 1.0, (5, 7, 0), (false, false));
}

#[test]
fn products_past_a_task() {
    check(Into::Set, 1.0, (ROWS + 3, DEPTH + 1, COLUMNS + 9), (false, true));
    check(Into::Add, -1.0, (2 * ROWS + 1, 7, SHARED_COLUMNS + 17), (true, false));
}

#[test]
fn products_of_rows_as_they_lie() {
    let check = |rows: usize, others: usize, columns: usize, stride: usize| {
        let (a, b) = (made_up(rows * stride, 1), made_up(others * stride, 2));
        let (a, b) = (Rows::new(&a, stride, columns), Rows::new(&b, stride, columns));
        let before = made_up(rows * others, 3);
        let expected = expected(Into::Add, 1.0, View::from(a), View::from(b).transposed(), &before);
        let mut sums = before.clone();
        add_row_products(a, b, &mut sums);
        let mut totals: Vec<f64> = before.iter().map(|number| f64::from(*number)).collect();
        add_row_products_in_runs(a, b, &mut totals);
        for ((expected, sum), total) in expected.iter().zip(sums).zip(totals) {
            assert!(is_near(sum, *expected, columns), "{rows}x{others}x{columns}");
            // The error does not grow with the runs.
            assert!((total - expected).abs() < 2e-5, "{rows}x{others}x{columns}");
        }
    };
    check(1, 1, 1, 1);
    check(5, 7, 13, 20);
    check(ROWS + 1, 40, 3 * DEPTH + 9, 3 * DEPTH + 9);
    check(3, 8, 20 * DEPTH, 20 * DEPTH + 5);
}

#[test]
fn transposed_operands_and_factors() {
    for turned in [(false, false), (false, true), (true, false), (true, true)] {
        for (into, alpha) in [(Into::Set, 0.5), (Into::Add, 1.0), (Into::Add, -1.0)] {
            check(into, alpha, (13, 2 * DEPTH + 5, 37), turned);
        }
    }
}

#[test]
fn a_block_is_the_same_as_its_elements() {
    // An element's bits do not depend on what else is computed.
    let (rows, depth, columns) = (23, 300, 41);
    let (a, b) = (made_up(rows * depth, 1), made_up(depth * columns, 2));
    let (a, b) = (View::dense(&a, rows, depth), View::dense(&b, depth, columns));
    let mut whole = vec![0.0; rows * columns];
    multiply(Into::Set, -0.3, a, b, ViewMut::dense(&mut whole, rows, columns));
    let mut part = vec![0.0; 5 * 9];
    let (own_rows, own_columns) = (a.block(7..12, 0..depth), b.block(0..depth, 30..39));
    multiply(Into::Set, -0.3, own_rows, own_columns, ViewMut::dense(&mut part, 5, 9));
    for (position, number) in part.iter().enumerate() {
        assert_eq!(*number, whole[(7 + position / 9) * columns + 30 + position % 9]);
    }
}

#[test]
fn grams_are_symmetric_products() {
    for (tokens, size) in [(1, 1), (3, 7), (300, 45), (10, ROWS + COLUMNS + 1)] {
        let a = made_up(tokens * size, 4);
        let a = View::dense(&a, tokens, size);
        for instructions in Instructions::available() {
            let mut c = vec![0.0; size * size];
            add_gram_with(instructions, 0.5, a, ViewMut::dense(&mut c, size, size));
            add_gram_with(instructions, 0.5, a, ViewMut::dense(&mut c, size, size));
            mirror_upper(ViewMut::dense(&mut c, size, size));
            let expected = expected(Into::Set, 1.0, a.transposed(), a, &[]);
            for (position, expected) in expected.iter().enumerate() {
                let (row, column) = (position / size, position % size);
                assert!(is_near(c[position], *expected, tokens), "{row} {column}");
                assert_eq!(c[position], c[column * size + row]);
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let (rows, depth, columns) = (2 * ROWS + 5, DEPTH + 9, COLUMNS + 3);
    let (a, b) = (made_up(rows * depth, 1), made_up(depth * columns, 2));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let mut c = vec![0.0; rows * columns];
        let mut gram = vec![0.0; columns * columns];
        pool.install(|| {
            let (a, b) = (View::dense(&a, rows, depth), View::dense(&b, depth, columns));
            multiply(Into::Set, 1.0, a, b, ViewMut::dense(&mut c, rows, columns));
            add_gram(1.0, b, ViewMut::dense(&mut gram, columns, columns));
            mirror_upper(ViewMut::dense(&mut gram, columns, columns));
        });
        (c, gram)
    };
    let one = run(1);
    assert!(run(2) == one);
    assert!(run(5) == one);
}

#[test]
#[should_panic(expected = "columns of A and rows of B")]
fn shapes_that_contradict_each_other() {
    let numbers = [0.0; 12];
    let (a, b) = (View::dense(&numbers, 3, 4), View::dense(&numbers, 3, 4));
    multiply(Into::Set, 1.0, a, b, ViewMut::dense(&mut [0.0; 12], 3, 4));
}

/// The block of a matrix of three rows of four elements, five apart, that begins in the second
/// row and column.
#[test]
fn nothing_is_written_beside_a_block() {
    let check = |row, column, count, is_within: bool| {
        let mut numbers = [0.0; 3 * 5];
        let mut c = ViewMut::new(&mut numbers, 3, 4, 5);
        // SAFETY: there is no other block.
        let mut own = unsafe { Destination::new(&mut c).block(1..3, 1..4) };
        let write = || own.elements(row, column, count).fill(1.0);
        let written = catch_unwind(AssertUnwindSafe(write)).is_ok();
        assert_eq!(written, is_within, "{count} from {row} {column} on");
        let ones = numbers.iter().filter(|number| **number == 1.0).count();
        assert_eq!(ones, if is_within { count } else { 0 });
    };
    check(0, 0, 3, true);
    check(1, 2, 1, true);
    check(1, 3, 0, true);
    check(0, 0, 4, false);
    check(2, 0, 1, false);
    check(0, 4, 0, false);
    check(0, usize::MAX, 2, false);
    check(usize::MAX, 0, 1, false);
}

#[test]
fn a_block_is_within_its_matrix() {
    let check = |rows: Range<usize>, columns: Range<usize>, is_within: bool| {
        let mut numbers = [0.0; 3 * 5];
        let mut c = ViewMut::new(&mut numbers, 3, 4, 5);
        let destination = Destination::new(&mut c);
        // SAFETY: there is no other block.
        let take = || unsafe { destination.block(rows.clone(), columns.clone()) };
        let taken = catch_unwind(AssertUnwindSafe(|| _ = take())).is_ok();
        assert_eq!(taken, is_within, "{rows:?} {columns:?}");
    };
    check(0..3, 0..4, true);
    check(3..3, 4..4, true);
    check(0..4, 0..4, false);
    check(0..3, 0..5, false);
    check(3..usize::MAX, 0..1, false);
}
