//! Whether error feedback pays on inputs that it was not made of.
//!
//! With few tokens a Gram matrix says of many directions what chance has said. So some inputs
//! are taken out of it, and some rows are quantized with the rest, both ways: feedback has to
//! lose less than rounding on the inputs that were taken out.

use std::ops::Range;

use qz_codec::grid::Rows;
use qz_kernels::gemm::add_row_products;
use qz_kernels::tile::TILE_ROWS;
use qz_linalg::Symmetric;
use rayon::prelude::*;

use super::{GptqOptions, Prepared, Unprepared};
use crate::method::{Options, Problem};
use crate::report::Fallback;
use crate::rounding::{differences, round_rows};
use crate::statistics::Statistics;

/// Strips of rows that are tried.
const STRIPS: usize = 4;

/// Fewer inputs say nothing.
const LEAST_INPUTS: usize = 16;

/// True if too little was held out, or feedback loses less than rounding on what was.
pub(super) fn is_worth_it(gram: &Symmetric, problem: &Problem<'_>) -> Result<bool, Unprepared> {
    let enough = LEAST_INPUTS * gram.size();
    let held_out = problem.statistics.held_out.filter(|own| own.inputs.len() >= enough);
    let Some(held_out) = held_out else { return Ok(true) };
    let Some(rest) = gram.without(held_out.tokens, held_out.inputs) else { return Ok(true) };
    let options = GptqOptions { propagation: 0.0, ..problem.options.gptq.clone() };
    let shared = Some(held_out.shared);
    let problem = Problem {
        statistics: Statistics { gram: Some(&rest), shared, ..Statistics::default() },
        options: &Options { gptq: options },
        ..*problem
    };
    let prepared = match Prepared::new(&rest, &problem) {
        Ok(prepared) => prepared,
        Err(Unprepared::Fallback(Fallback::NoFactor)) => return Ok(false),
        Err(unprepared) => return Err(unprepared),
    };
    let importance = problem.statistics.importance();
    let losses = strips(problem.weights.count()).into_par_iter().map(|rows| {
        let tile = prepared.quantize_rows(&problem, rows.clone());
        let weights: Vec<f32> =
            rows.clone().flat_map(|row| problem.weights.row(row)).copied().collect();
        let own = Rows::dense(&weights, problem.weights.columns());
        let rounded = round_rows(problem.target, own, rows.start, importance.as_deref());
        [tile.batch, rounded].map(|batch| {
            let errors =
                (0..rows.len()).flat_map(|row| differences(own.row(row), batch.values(row)));
            loss(&errors.collect::<Vec<_>>(), held_out.inputs, own.columns())
        })
    });
    let [fed, rounded] =
        losses.reduce(|| [0.0; 2], |one, other| [one[0] + other[0], one[1] + other[1]]);
    Ok(fed < rounded)
}

/// Strips of rows, spread evenly.
fn strips(rows: usize) -> Vec<Range<usize>> {
    let count = rows.div_ceil(TILE_ROWS).min(STRIPS);
    let first = |number: usize| number * rows / count.max(1);
    (0..count)
        .map(|number| first(number)..rows.min(first(number) + TILE_ROWS).min(first(number + 1)))
        .collect()
}

/// The squares of what rows of errors make of inputs, summed.
fn loss(errors: &[f32], inputs: &[f32], columns: usize) -> f64 {
    let (errors, inputs) = (Rows::dense(errors, columns), Rows::dense(inputs, columns));
    let mut results = vec![0.0; errors.count() * inputs.count()];
    add_row_products(errors, inputs, &mut results);
    results.iter().map(|result| f64::from(*result).powi(2)).sum()
}
