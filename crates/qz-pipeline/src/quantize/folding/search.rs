//! The factors of one fold for AWQ.

use std::borrow::Cow;

use qz_codec::grid::Rows;
use qz_kernels::backend::Backend;
use qz_linalg::{Gram, Symmetric};
use qz_methods::{Channels, FoundFactors, Needs, ScaledMatrix, search_factors};
use qz_models::graph::{Fold, FoldColumns};

use super::super::layers::{Layers, Matrix};
use super::super::storage::Storage;
use super::readers::Readers;
use crate::error::Error;
use crate::statistics::{Stream, Sums};
use crate::stream::check_cancelled;

/// Rows that stand for all that read a fold's channels.
const ROWS: usize = 128;
/// Rows of one matrix, at least.
const LEAST_ROWS: usize = 8;

/// Experts that stand for all that read the same channels.
const EXPERTS: usize = 8;

/// Searches factors of a fold's channels, or of those of one expert.
pub(super) fn of_fold<B: Backend>(
    (layers, stream): (&Layers<'_, B>, &Stream<'_, B>),
    readers: &Readers,
    fold: &Fold,
    expert: Option<usize>,
    sums: Sums<B>,
) -> Result<Option<FoundFactors>, Error> {
    let step = readers.experts().div_ceil(EXPERTS);
    let mut weights = Vec::new();
    for (index, matrix) in readers.of_expert(expert) {
        if expert.is_some() || matrix.expert.is_none_or(|own| own.is_multiple_of(step)) {
            weights.push((matrix, stream.weights(index, matrix.expert)?));
        }
    }
    let own: Vec<(&Matrix, &[f32])> =
        weights.iter().map(|(matrix, weights)| (*matrix, weights.as_slice())).collect();
    search(layers, &own, fold.channels, fold.columns, sums)
}

/// Searches factors of what the output matrix reads.
pub(super) fn of_output<B: Backend>(
    layers: &Layers<'_, B>,
    position: usize,
    sums: Sums<B>,
) -> Result<Option<FoundFactors>, Error> {
    let whole = layers.matrix(position, None);
    // Some rows are a matrix of their own: output matrices are never packed.
    let count = ROWS.min(whole.rows);
    let mut weights = Vec::with_capacity(count * whole.columns);
    for number in 0..count {
        weights.extend(layers.read_rows(position, (number * whole.rows / count) as u64, 1)?);
    }
    let sample = Matrix { rows: count, ..whole };
    search(layers, &[(&sample, &weights)], whole.columns, FoldColumns::SAME, sums)
}

fn search<B: Backend>(
    layers: &Layers<'_, B>,
    matrices: &[(&Matrix, &[f32])],
    channels: usize,
    columns: FoldColumns,
    mut sums: Sums<B>,
) -> Result<Option<FoundFactors>, Error> {
    let gram =
        sums.take::<Gram<B::Buffer>>().map(|gram| gram.finish(layers.backend)).transpose()?;
    let Some(gram) = gram.filter(Symmetric::is_finite) else {
        return Ok(None);
    };
    let diagonal = gram.diagonal();
    let is_told = layers.options.method.needs() != Needs::Nothing;
    let (mut energies, mut of_weights) = (vec![0.0; channels], vec![0.0; channels]);
    for (column, energy) in diagonal.iter().enumerate() {
        energies[columns.channel(column)] += f64::from(*energy);
    }
    for (_, weights) in matrices {
        for (at, weight) in weights.iter().enumerate() {
            of_weights[columns.channel(at % diagonal.len())] +=
                f64::from(*weight) * f64::from(*weight);
        }
    }
    let each = (ROWS / matrices.len()).max(LEAST_ROWS);
    let mut readers: Vec<Reader<'_>> = matrices
        .iter()
        .map(|(matrix, weights)| Reader::new(layers, matrix, weights, each))
        .collect();
    let known = Channels { energies: &energies, weights: &of_weights };
    search_factors(known, &mut |factors| {
        check_cancelled(layers.cancel)?;
        let factors: Vec<f32> =
            (0..diagonal.len()).map(|column| factors[columns.channel(column)]).collect();
        let importance = is_told.then_some(&diagonal[..]);
        let mut lost = 0.0;
        for reader in &mut readers {
            lost += layers.workers.install(|| reader.loss(&gram, importance, &factors))?;
        }
        Ok(lost)
    })
}

/// A matrix as it is written.
struct Reader<'a> {
    storage: Box<dyn Storage + 'a>,
    /// Its weights, in the order in which they are written.
    ordered: Cow<'a, [f32]>,
    /// Rows that stand for all.
    rows: Vec<usize>,
    /// For how many each of them stands.
    weight: f64,
    name: &'static str,
}

impl<'a> Reader<'a> {
    fn new<B: Backend>(
        layers: &'a Layers<'_, B>,
        matrix: &Matrix,
        weights: &'a [f32],
        most: usize,
    ) -> Self {
        let storage = layers.storage(matrix);
        let ordered = Cow::Owned(storage.in_order(weights).into_owned());
        let count = most.min(matrix.rows).max(1);
        let rows = (0..count).map(|number| number * matrix.rows / count).collect();
        let weight = matrix.rows as f64 / count as f64;
        Self { storage, ordered, rows, weight, name: matrix.data_type.name() }
    }

    fn loss(
        &mut self,
        gram: &Symmetric,
        importance: Option<&[f32]>,
        factors: &[f32],
    ) -> Result<f64, Error> {
        let scaled: Vec<f32> = self
            .ordered
            .chunks(factors.len())
            .flat_map(|row| row.iter().zip(factors).map(|(weight, factor)| weight * factor))
            .collect();
        self.storage.remeasure(&scaled);
        let mut grid = None;
        let target = self
            .storage
            .target(&scaled, &mut grid)
            .ok_or_else(|| Error::MethodFormat { target: self.name.to_owned() })?;
        let weights = Rows::dense(&self.ordered, factors.len());
        let matrix = ScaledMatrix { weights, rows: &self.rows, importance, gram };
        Ok(self.weight * matrix.loss(target, factors))
    }
}
