//! Error feedback on any grid (GPTQ, arXiv 2210.17323; block LDLQ for lanes of several
//! columns), then coordinate descent and refits of scales, each of which only lowers the
//! loss `tr(E H Eᵀ)`.
//!
//! All rows share the layer's matrix; [`prepare`] factors it once. Then [`tile`]s of rows
//! go through [`feed`] and [`descend`], alone and in parallel.

mod descend;
mod feed;
mod held_out;
mod order;
mod prepare;
mod refit;
mod regression;
mod steps;
#[cfg(test)]
mod tests;
mod tile;

use qz_codec::grid::Emphasis;
use qz_kernels::stop;
use qz_kernels::tile::TILE_ROWS;
use rayon::prelude::*;

pub use order::Order;
pub use prepare::{Prepared, Shared, Unprepared};
pub use regression::Correction;

use crate::error::Error;
use crate::method::{Method, Needs, Problem, RowSink, check};
use crate::report::{Fallback, Losses, TensorReport};
use crate::rounding::{differences, lost_parts, round_all, rounding_errors, sampled_rows};
use tile::Tile;

/// What a unit's fit counts a column's error for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Weighing {
    /// `E[x²]`.
    #[default]
    Importance,
    /// What is left of it once later columns have taken up what they can.
    Remaining,
}

/// How errors are fed back.
#[derive(Clone, Debug, PartialEq)]
pub struct GptqOptions {
    /// What is added to the diagonal for the feedback, in parts of its mean; more where
    /// that is not enough.
    pub damping: f64,
    /// The order of visits.
    pub order: Order,
    /// What a fit weighs errors with.
    pub weighing: Weighing,
    /// Whether a fit counts large weights for more.
    pub emphasis: Emphasis,
    /// Cycles of coordinate descent.
    pub cycles: usize,
    /// What is added to the diagonal for the descent, in parts of its mean.
    pub descent_damping: f64,
    /// Cycles after which units are fitted again, and steps of sub-scales are tried.
    pub refits: usize,
    /// How far the weights move to where they undo what earlier layers lost, if the
    /// statistics say what that is: 0 not at all, 1 as far as the regression is believed.
    pub propagation: f64,
    /// What is added to the diagonal for the regression that says where that is, in parts of
    /// its mean, and all of it is believed. The differences between two models are small and
    /// noisy beside their inputs, so it takes far more than the feedback. Nothing: as much, and
    /// believed as far, as the other half of the text asks for, for each matrix; 1 where
    /// statistics are not of two halves.
    pub propagation_damping: Option<f64>,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self {
            damping: 0.01,
            order: Order::Natural,
            weighing: Weighing::Importance,
            emphasis: Emphasis::Magnitude,
            cycles: 3,
            descent_damping: 0.001,
            refits: 2,
            propagation: 0.0,
            propagation_damping: Some(1.0),
        }
    }
}

/// `gptq`: error feedback, coordinate descent, refits.
pub(crate) struct Gptq;

impl Method for Gptq {
    fn name(&self) -> &'static str {
        "gptq"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn quantize(
        &self,
        problem: &Problem<'_>,
        out: &mut RowSink<'_>,
    ) -> Result<TensorReport, Error> {
        check(problem)?;
        let Some(gram) = problem.statistics.gram else {
            return Err(Error::Needs { method: self.name(), needs: "the inputs' Gram matrix" });
        };
        let prepared = match held_out::is_worth_it(gram, problem) {
            Ok(true) => Prepared::new(gram, problem),
            Ok(false) => Err(Fallback::HeldOut.into()),
            Err(unprepared) => Err(unprepared),
        };
        if stop::is_requested() {
            return Err(Error::Stopped);
        }
        match prepared {
            Ok(prepared) => prepared.quantize(problem, out),
            Err(Unprepared::Device(error)) => Err(error.into()),
            Err(Unprepared::Fallback(fallback)) => {
                let importance = problem.statistics.importance();
                let report = round_all(self.name(), problem, importance.as_deref(), out)?;
                let dead_columns = prepare::dead_columns(gram);
                Ok(TensorReport { fallback: Some(fallback), dead_columns, ..report })
            }
        }
    }
}

/// Weights that are under way at a time, or a tile for each thread where that is more.
const WEIGHTS_AT_ONCE: usize = 8 << 20;

/// Rows of a tile, whole strips. Each tile packs all of the factor and of the objective once
/// in a pass: with 256 rows that costs a tenth of the products. But each thread should have two.
fn tile_rows(rows: usize, columns: usize, threads: usize) -> usize {
    let fitting = WEIGHTS_AT_ONCE / (columns * threads);
    rows.div_ceil(2 * threads).min(fitting).clamp(64, 256) / TILE_ROWS * TILE_ROWS
}

/// Tiles that are under way at a time.
fn tiles_at_once(rows: usize, columns: usize, threads: usize) -> usize {
    let tile = tile_rows(rows, columns, threads) * columns;
    (WEIGHTS_AT_ONCE / tile).next_multiple_of(threads).max(threads)
}

/// The most weights of a matrix that `gptq` has under way at a time; each takes some twenty
/// bytes, and all of these are given to the receiver before the next ones begin.
pub fn weights_under_way(rows: usize, columns: usize, threads: usize) -> usize {
    let all_at_once = tiles_at_once(rows, columns, threads) * tile_rows(rows, columns, threads);
    rows.min(all_at_once) * columns
}

impl Prepared {
    /// Quantizes a matrix whose inputs this was prepared for, to the grid that it was
    /// prepared for.
    ///
    /// # Errors
    /// As [`Method::quantize`].
    pub fn quantize(
        &self,
        problem: &Problem<'_>,
        out: &mut RowSink<'_>,
    ) -> Result<TensorReport, Error> {
        check(problem)?;
        let (rows, columns) = (problem.weights.count(), problem.weights.columns());
        let sampled: Vec<usize> = sampled_rows(rows).collect();
        let mut errors = Vec::with_capacity(sampled.len() * columns);
        // How far targets are from weights.
        let mut moved = Vec::with_capacity(sampled.len() * columns);
        let threads = rayon::current_num_threads();
        let tile = tile_rows(rows, columns, threads);
        let at_once = tiles_at_once(rows, columns, threads) * tile;
        for first in (0..rows).step_by(at_once) {
            let end = rows.min(first + at_once);
            let starts: Vec<usize> = (first..end).step_by(tile).collect();
            let done: Vec<Tile<'_>> = starts
                .par_iter()
                .map(|start| self.quantize_rows(problem, *start..end.min(start + tile)))
                .collect();
            if stop::is_requested() {
                return Err(Error::Stopped);
            }
            for (start, tile) in starts.iter().zip(&done) {
                let range = *start..start + tile.batch.rows();
                for row in sampled.iter().filter(|row| range.contains(row)) {
                    let targets = &tile.targets[(row - start) * columns..][..columns];
                    errors.extend(differences(targets, tile.batch.values(row - start)));
                    moved.extend(differences(targets, problem.weights.row(*row)));
                }
                if out(range, &tile.batch).is_break() {
                    return Err(Error::Stopped);
                }
            }
        }
        let importance = problem.statistics.importance();
        let mut of_rounding = rounding_errors(problem, importance.as_deref());
        of_rounding.iter_mut().zip(&moved).for_each(|(error, moved)| *error += moved);
        let losses = lost_parts(problem, [&of_rounding, &errors]);
        if stop::is_requested() {
            return Err(Error::Stopped);
        }
        Ok(TensorReport {
            method: Gptq.name(),
            rows,
            columns,
            losses: losses.map(|[rounding, result]| Losses { rounding, result }),
            damping: Some(self.damping()),
            correction: self.correction(),
            fallback: None,
            dead_columns: self.dead_columns,
        })
    }

    fn quantize_rows<'a>(
        &'a self,
        problem: &'a Problem<'_>,
        rows: std::ops::Range<usize>,
    ) -> Tile<'a> {
        let mut tile = Tile::new(self, problem, rows);
        tile.feed();
        for cycle in 0..self.options().cycles {
            tile.descend(cycle < self.options().refits);
        }
        tile
    }
}
