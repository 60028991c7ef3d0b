//! What is computed once for a layer's inputs and a grid.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use qz_kernels::{Error, stop};
use qz_linalg::{Factor, FactorError, Feedback, Symmetric};

use super::GptqOptions;
use super::order::{Visits, block_columns};
use super::regression::{self, Correction};
use crate::method::Problem;
use crate::report::Fallback;

/// A layer's matrix and its factor: all that matrices with the same inputs can share.
/// Memory: `columns²` times eight bytes, four more with cross statistics, and four for each
/// weight with what results lack.
#[derive(Debug)]
pub struct Factored {
    options: GptqOptions,
    /// What the loss is measured with: the given matrix, a little damped.
    pub(super) objective: Symmetric,
    /// The diagonal that fits are weighed with.
    pub(super) importance: Vec<f32>,
    pub(super) visits: Visits,
    /// The factor of the damped matrix in the order of visits.
    pub(super) feedback: Feedback,
    /// How targets differ from weights, turned: `target_j = w_j + Σ_i w_i move_ji`.
    pub(super) moves: Option<Vec<f32>>,
    /// What is added to targets, row by row: [`additions`].
    pub(super) additions: Option<Vec<f32>>,
    damping: f64,
    correction: Option<Correction>,
}

/// Keeps what is computed of a layer's inputs from one matrix with these inputs to the
/// next.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Option<Arc<Factored>>>);

/// The layer's matrix, ready for any number of rows of any matrix with these inputs.
#[derive(Debug)]
pub struct Prepared {
    pub(super) factored: Arc<Factored>,
    /// Of each lane of several columns, in the order of visits: its part of the factor
    /// times its transpose.
    pub(super) lane_blocks: Vec<f32>,
    /// Of each lane of several columns: the inverse of its block of the objective.
    pub(super) lane_inverses: Vec<f32>,
    pub(super) block: usize,
    pub(super) dead_columns: usize,
}

impl Deref for Prepared {
    type Target = Factored;

    fn deref(&self) -> &Factored {
        &self.factored
    }
}

/// Columns whose input was always zero.
pub(super) fn dead_columns(gram: &Symmetric) -> usize {
    gram.diagonal().iter().filter(|entry| **entry == 0.0).count()
}

impl Factored {
    fn new(gram: &Symmetric, problem: &Problem<'_>, visits: Visits) -> Result<Self, Unprepared> {
        let (statistics, options) = (&problem.statistics, &problem.options.gptq);
        let mean = gram.mean_diagonal();
        let propagates = options.propagation != 0.0;
        let [cross, missing] =
            [statistics.cross, statistics.missing].map(|sums| sums.filter(|_| propagates));
        let mut sums = cross.into_iter().chain(missing).flat_map(|sums| &sums.mean);
        if !gram.is_finite() || !mean.is_finite() || !sums.all(|entry| entry.is_finite()) {
            return Err(Fallback::NonFinite.into());
        }
        if mean <= 0.0 {
            return Err(Fallback::NoInput.into());
        }
        let (mut moves, mut additions, mut correction) = (None, None, None);
        if let Some(sums) = missing.or(cross) {
            let own = match options.propagation_damping {
                Some(damping) => Correction { damping, strength: 1.0 },
                None => regression::correction(problem.device, gram, &visits, sums, 1.0)?,
            };
            let part = own.strength * options.propagation;
            correction = Some(Correction { strength: part, ..own });
            let (solver, _) = factor(problem.device, gram, &visits, own.damping)?;
            moves = cross.map(|cross| self::moves(&cross.mean, &visits, &solver, part));
            let missing = missing.map(|missing| &missing.mean);
            additions = missing.map(|missing| self::additions(missing, &visits, &solver, part));
        }
        let (feedback, damping) = factor(problem.device, gram, &visits, options.damping)?;
        let mut objective = gram.clone();
        objective.add_to_diagonal((mean * options.descent_damping) as f32);
        let importance = objective.diagonal();
        let options = options.clone();
        Ok(Self {
            options,
            objective,
            importance,
            visits,
            feedback,
            moves,
            additions,
            damping,
            correction,
        })
    }

    /// What the user asked for.
    pub(super) fn options(&self) -> &GptqOptions {
        &self.options
    }

    /// How what was lost before is made up for.
    pub(crate) fn correction(&self) -> Option<Correction> {
        self.correction
    }

    /// What was added to the diagonal, in parts of its mean.
    pub(crate) fn damping(&self) -> f64 {
        self.damping
    }
}

/// Why nothing can be fed back.
#[derive(Debug)]
pub enum Unprepared {
    /// The matrix does not allow it: rows are rounded with importance.
    Fallback(Fallback),
    /// The device has failed.
    Device(Error),
}

impl From<Fallback> for Unprepared {
    fn from(fallback: Fallback) -> Self {
        Self::Fallback(fallback)
    }
}

impl Prepared {
    /// Prepares for the units of a problem's target; takes what an earlier matrix left in the
    /// statistics' share, if that fits.
    ///
    /// # Errors
    /// If nothing can be fed back by this matrix.
    pub fn new(gram: &Symmetric, problem: &Problem<'_>) -> Result<Self, Unprepared> {
        let (statistics, options) = (&problem.statistics, &problem.options.gptq);
        let spec = problem.target.grid().spec();
        let visits = Visits::new(options.order, spec, &gram.diagonal());
        let mut share = statistics.shared.map(|shared| shared.0.lock().expect("no panic"));
        let fits = |known: &&Arc<Factored>| known.visits == visits && known.options == *options;
        let known = share.as_ref().and_then(|share| share.as_ref().filter(fits).cloned());
        let factored = match known {
            Some(known) => known,
            None => Arc::new(Factored::new(gram, problem, visits)?),
        };
        if let Some(share) = &mut share {
            **share = Some(Arc::clone(&factored));
        }
        let (lane_blocks, lane_inverses) = match spec.lane_columns {
            1 => (Vec::new(), Vec::new()),
            lane => {
                (lane_blocks(&factored.feedback, lane), lane_inverses(&factored.objective, lane))
            }
        };
        let (block, dead_columns) = (block_columns(spec), dead_columns(gram));
        Ok(Self { factored, lane_blocks, lane_inverses, block, dead_columns })
    }
}

/// Factors with the least damping that lets it: twice as much each time, up to the mean
/// itself.
pub(super) fn factor(
    device: &dyn Factor,
    gram: &Symmetric,
    visits: &Visits,
    least: f64,
) -> Result<(Feedback, f64), Unprepared> {
    let mean = gram.mean_diagonal();
    let mut damping = least;
    loop {
        let mut damped =
            if visits.is_natural() { gram.clone() } else { gram.reordered(&visits.columns) };
        damped.add_to_diagonal((mean * damping) as f32);
        match Feedback::of(device, damped) {
            Ok(feedback) => return Ok((feedback, damping)),
            Err(FactorError::Device(error)) => return Err(Unprepared::Device(error)),
            Err(FactorError::NotPositive { .. }) => {}
        }
        if damping >= 1.0 || stop::is_requested() {
            return Err(Fallback::NoFactor.into());
        }
        damping = (damping * 2.0).clamp(1e-4, 1.0);
    }
}

/// Rows times the inverse of the damped matrix; the results' columns are in the order of
/// visits.
pub(super) fn solved(rows: &[f32], visits: &Visits, solver: &Feedback) -> Vec<f32> {
    let mut solved = visits.of_rows(rows);
    solver.solve_rows(&mut solved);
    solved
}

/// What the matrix adds to make up for what results lack: `E[(ỹ − y) xᵀ] H⁻¹`, the regression
/// of that on the quantized model's inputs. With the hidden states that a product is added to
/// in ỹ and y this is the target of LoaQ (arXiv 2509.06297).
fn additions(missing: &[f32], visits: &Visits, solver: &Feedback, part: f64) -> Vec<f32> {
    let size = solver.size();
    let mut additions = vec![0.0; missing.len()];
    let rows = solved(missing, visits, solver);
    for (own, row) in additions.chunks_mut(size).zip(rows.chunks(size)) {
        for (visit, value) in visits.columns.iter().zip(row) {
            own[*visit] = (f64::from(*value) * part) as f32;
        }
    }
    additions
}

/// Where the full model's output `W x̃` is best met on the quantized model's inputs:
/// `W (I + E[(x̃ − x) xᵀ] H⁻¹)` (GPTAQ, arXiv 2504.02692, as one move of the weights).
fn moves(cross: &[f32], visits: &Visits, solver: &Feedback, part: f64) -> Vec<f32> {
    let size = solver.size();
    let rows = solved(cross, visits, solver);
    let mut turned = vec![0.0; cross.len()];
    for (i, row) in rows.chunks(size).enumerate() {
        for (visit, value) in visits.columns.iter().zip(row) {
            turned[visit * size + i] = (f64::from(*value) * part) as f32;
        }
    }
    turned
}

fn lane_blocks(feedback: &Feedback, lane: usize) -> Vec<f32> {
    let mut blocks = Vec::with_capacity(feedback.size() * lane);
    for first in (0..feedback.size()).step_by(lane) {
        for i in first..first + lane {
            for j in first..first + lane {
                let later = i.max(j)..first + lane;
                let product = |k| f64::from(feedback.entry(i, k)) * f64::from(feedback.entry(j, k));
                blocks.push(later.map(product).sum::<f64>() as f32);
            }
        }
    }
    blocks
}

fn lane_inverses(objective: &Symmetric, lane: usize) -> Vec<f32> {
    let mut inverses = Vec::with_capacity(objective.size() * lane);
    for first in (0..objective.size()).step_by(lane) {
        for unit in 0..lane {
            let block = objective.block(first..first + lane, first..first + lane);
            let mut matrix: Vec<f64> = block.iter().flatten().copied().map(f64::from).collect();
            let mut column = vec![0.0; lane];
            column[unit] = 1.0;
            if !qz_linalg::solve(&mut matrix, &mut column) {
                column.fill(0.0);
            }
            inverses.extend(column.into_iter().map(|value| value as f32));
        }
    }
    inverses
}
