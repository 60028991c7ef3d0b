//! The factors of one fold for SmoothQuant.

use qz_kernels::backend::Backend;
use qz_methods::{Channels, smoothing_factors};
use qz_models::graph::Fold;

use super::super::layers::Layers;
use super::readers::Readers;
use crate::error::Error;
use crate::statistics::{Maxima, Stream};
use crate::stream::check_cancelled;

/// Factors of a fold's channels, or of those of one expert, whose inputs were no larger than
/// `maxima`; none if nobody knows.
pub(super) fn of_fold<B: Backend>(
    (layers, stream): (&Layers<'_, B>, &Stream<'_, B>),
    readers: &Readers,
    fold: &Fold,
    expert: Option<usize>,
    maxima: Option<&Maxima>,
    strength: f64,
) -> Result<Option<Vec<f32>>, Error> {
    let Some(maxima) = maxima.map(Maxima::columns) else { return Ok(None) };
    // The one that a channel has in all columns that read it.
    let largest = |channels: &mut [f64], numbers: &[f32]| {
        for (column, number) in numbers.iter().enumerate() {
            let own = &mut channels[fold.columns.channel(column)];
            *own = own.max(f64::from(*number) * f64::from(*number));
        }
    };
    let (mut inputs, mut weights) = (vec![0.0; fold.channels], vec![0.0; fold.channels]);
    largest(&mut inputs, maxima);
    for (index, matrix) in readers.of_expert(expert) {
        check_cancelled(layers.cancel)?;
        let numbers = stream.weights(index, matrix.expert)?;
        numbers.chunks(maxima.len()).for_each(|row| largest(&mut weights, row));
    }
    let is_known = inputs.iter().all(|input| input.is_finite());
    let channels = Channels { energies: &inputs, weights: &weights };
    Ok(is_known.then(|| smoothing_factors(channels, strength)))
}
