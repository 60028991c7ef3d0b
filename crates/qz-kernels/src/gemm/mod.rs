//! Products of f32 matrices.
//!
//! | function | computes |
//! |---|---|
//! | [`multiply`] | `C = α·A·B` or `C += α·A·B`, `m × n` from `m × k` and `k × n` |
//! | [`add_row_products`] | `C += A·Bᵀ`, `m × n` from rows of one length, on the calling thread |
//! | [`add_row_products_in_runs`] | the same, with the runs' sums added up in f64 |
//! | [`add_gram`] | `C += α·Aᵀ·A` in the triangle above the diagonal, `n × n` from `m × n` |
//! | [`mirror_upper`] | copies that triangle to the one below |
//!
//! Any operand may be [transposed](View::transposed) or a [block](View::block) of a larger
//! matrix. Work runs on the current rayon pool's threads where nothing else is said.
//!
//! Invariant: an element of C is summed in one order: along `k` in runs of [`DEPTH`], each
//! run one chain of fused multiplications and additions (of separate ones where the
//! machine has no fused ones), the runs' sums times α added to C one after the other. It
//! depends neither on the number of threads nor on which other elements are computed; in
//! the last bits it depends on the instruction set.
//!
//! The method is that of Goto and van de Geijn ("Anatomy of high-performance matrix
//! multiplication", 2008): both operands are copied into panels that a register tile of
//! `6 × 2 vectors` reads from one end to the other.

mod blocks;
mod panels;
#[cfg(test)]
mod tests;
mod view;

use qz_codec::grid::Rows;
use rayon::prelude::*;

use crate::stop;
use crate::vector::Instructions;

pub(crate) use blocks::{Destination, OwnBlock};
use blocks::{Kernel, Tile};
pub(crate) use panels::{Panels, transposed};
pub use view::{View, ViewMut};

/// Products that are summed before they are added to C.
pub const DEPTH: usize = 256;

/// Rows of A that a task copies: with [`DEPTH`] they fill part of a core's second cache.
const ROWS: usize = 96;

/// Columns of a task, a multiple of every panel's width.
const COLUMNS: usize = 512;

/// Columns of B that are copied at a time, for all tasks.
const SHARED_COLUMNS: usize = 8 * COLUMNS;

/// What becomes of C's former content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// It is overwritten.
    Set,
    /// It is added to.
    Add,
}

/// `C = α·A·B` or `C += α·A·B`; A is `m × k`, B is `k × n`, C is `m × n`. With α = -1 and
/// [`Into::Add`] it subtracts.
///
/// # Panics
/// If the shapes contradict each other.
pub fn multiply(into: Into, alpha: f32, a: View<'_>, b: View<'_>, c: ViewMut<'_>) {
    multiply_with(Instructions::best(), into, alpha, a, b, c);
}

fn multiply_with(
    instructions: Instructions,
    into: Into,
    alpha: f32,
    a: View<'_>,
    b: View<'_>,
    mut c: ViewMut<'_>,
) {
    let (rows, depth, columns) = (a.rows(), a.columns(), b.columns());
    assert_eq!(b.rows(), depth, "columns of A and rows of B");
    assert_eq!((c.rows(), c.columns()), (rows, columns), "shape of C");
    if depth == 0 && into == Into::Set {
        c.fill(0.0);
    }
    let kernel = Kernel(instructions);
    Product { kernel, alpha, a, b, upper: false, is_shared: true }.run(into, c);
}

/// Adds `a bᵀ` to `out`: as many rows as `a` has, a column for each row of `b`. For callers
/// that share their work out to threads themselves.
///
/// # Panics
/// If rows are not of one length, or `out` has not their products' size.
pub fn add_row_products(a: Rows<'_>, b: Rows<'_>, out: &mut [f32]) {
    row_products(Into::Add, a, b, out);
}

/// [`add_row_products`] with runs of [`DEPTH`] products summed in `f32`, and these sums in
/// `f64`: an element's error is at most `256 · 2⁻²⁴ · Σ|a_k b_k|`, and in practice a few
/// times `2⁻²⁴` of it, however many products there are.
///
/// # Panics
/// As [`add_row_products`].
pub fn add_row_products_in_runs(a: Rows<'_>, b: Rows<'_>, out: &mut [f64]) {
    let columns = a.columns();
    let mut sums = vec![0.0; out.len()];
    for first in (0..columns).step_by(DEPTH) {
        let run = DEPTH.min(columns - first);
        row_products(Into::Set, a.slice(first, run), b.slice(first, run), &mut sums);
        for (total, sum) in out.iter_mut().zip(&sums) {
            *total += f64::from(*sum);
        }
    }
}

fn row_products(into: Into, a: Rows<'_>, b: Rows<'_>, out: &mut [f32]) {
    let (rows, columns) = (a.count(), b.count());
    assert_eq!(a.columns(), b.columns(), "rows of one length");
    assert_eq!(out.len(), rows * columns, "room for the products");
    let kernel = Kernel(Instructions::best());
    let (a, b) = (View::from(a), View::from(b).transposed());
    let product = Product { kernel, alpha: 1.0, a, b, upper: false, is_shared: false };
    product.run(into, ViewMut::dense(out, rows, columns));
}

/// `C += α·Aᵀ·A` for the elements on and above the diagonal; A is `m × n`, C is `n × n`.
/// Some elements below the diagonal are written, too, so that [`mirror_upper`] has to
/// follow before anything reads them; any number of calls may come first.
///
/// # Panics
/// If the shapes contradict each other.
pub fn add_gram(alpha: f32, a: View<'_>, c: ViewMut<'_>) {
    add_gram_with(Instructions::best(), alpha, a, c);
}

fn add_gram_with(instructions: Instructions, alpha: f32, a: View<'_>, c: ViewMut<'_>) {
    let size = a.columns();
    assert_eq!((c.rows(), c.columns()), (size, size), "shape of C");
    let (kernel, a, b) = (Kernel(instructions), a.transposed(), a);
    Product { kernel, alpha, a, b, upper: true, is_shared: true }.run(Into::Add, c);
}

/// Makes a matrix symmetric: what is below its diagonal becomes what is above.
///
/// # Panics
/// If it is not square.
pub fn mirror_upper(c: ViewMut<'_>) {
    /// Rows and columns that are copied together: they stay in the first cache.
    const SIDE: usize = 32;
    let size = c.rows();
    assert_eq!(c.columns(), size, "a square matrix");
    let (numbers, stride) = c.into_parts();
    for first in (0..size).step_by(SIDE) {
        let rows = first..size.min(first + SIDE);
        for left in (0..=first).step_by(SIDE) {
            for row in rows.clone() {
                let (above, own) = numbers.split_at_mut(row * stride);
                for column in left..row.min(left + SIDE) {
                    own[column] = above[column * stride + row];
                }
            }
        }
    }
}

/// One product, and what is left out of it.
struct Product<'a> {
    kernel: Kernel,
    alpha: f32,
    a: View<'a>,
    b: View<'a>,
    /// Only elements on and above the diagonal are wanted.
    upper: bool,
    /// The pool's threads share the work.
    is_shared: bool,
}

impl Product<'_> {
    fn run(&self, into: Into, mut c: ViewMut<'_>) {
        let depth = self.a.columns();
        let destination = Destination::new(&mut c);
        for left in (0..self.b.columns()).step_by(SHARED_COLUMNS) {
            let columns = left..self.b.columns().min(left + SHARED_COLUMNS);
            for first in (0..depth).step_by(DEPTH) {
                if stop::is_requested() {
                    return;
                }
                let run = first..depth.min(first + DEPTH);
                let right = self.b.block(run.clone(), columns.clone()).transposed();
                let width = self.kernel.width();
                let right = match self.is_shared {
                    true => Panels::pack_on_all_threads(right, width),
                    false => Panels::packed(right, width),
                };
                let into = if first == 0 { into } else { Into::Add };
                self.add_run(into, self.a.block(0..self.a.rows(), run), &right, left, destination);
            }
        }
    }

    /// Adds the products of one run to the columns from `left` on.
    fn add_run(
        &self,
        into: Into,
        a: View<'_>,
        right: &Panels,
        left: usize,
        destination: Destination<'_>,
    ) {
        let tops = (0..a.rows()).step_by(ROWS);
        let tasks = tops
            .flat_map(|top| (0..right.count()).step_by(COLUMNS).map(move |offset| (top, offset)));
        let is_wanted = |(top, offset): &(usize, usize)| {
            !self.upper || left + right.count().min(offset + COLUMNS) > *top
        };
        let tasks: Vec<(usize, usize)> = tasks.filter(is_wanted).collect();
        let task = |packed: &mut Panels, (top, offset): (usize, usize)| {
            if stop::is_requested() {
                return;
            }
            let rows = top..a.rows().min(top + ROWS);
            let columns = offset..right.count().min(offset + COLUMNS);
            packed.pack(a.block(rows.clone(), 0..a.columns()), Kernel::ROWS);
            let tile = Tile {
                rows: packed,
                columns: right,
                first_column: columns.start,
                column_count: columns.len(),
                into,
                alpha: self.alpha,
                diagonal: self.upper.then_some((top, left + offset)),
            };
            let columns = left + columns.start..left + columns.end;
            // SAFETY: no other task has both one of these rows and one of these columns.
            let mut own = unsafe { destination.block(rows, columns) };
            self.kernel.add(&tile, &mut own);
        };
        if self.is_shared {
            tasks.into_par_iter().for_each_init(Panels::default, task);
        } else {
            let mut packed = Panels::default();
            tasks.into_iter().for_each(|own| task(&mut packed, own));
        }
    }
}
