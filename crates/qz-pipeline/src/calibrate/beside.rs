//! A quantized model that computes beside the full one.

use qz_kernels::backend::Backend;
use qz_models::forward::{Forward, ForwardOptions, WeightSource};
use qz_models::graph::{LayerGraph, MatrixIndex};
use qz_tensor::DataType;

use super::layout::Group;
use crate::error::Error;
use crate::model::{Model, to_usize};
use crate::model_weights::ModelWeights;
use crate::statistics::{Stream, Streams};

/// A quantized model that computes the same as the full one.
pub(super) struct Quantized<'a, B: Backend> {
    /// The full model's weights, and its own.
    weights: [&'a ModelWeights<'a>; 2],
    pub(super) forward: Forward<'a, B, ModelWeights<'a>>,
}

impl<'a, B: Backend> Quantized<'a, B> {
    /// # Errors
    /// If it has another vocabulary or other layers than the full model.
    pub(super) fn open(
        backend: &'a B,
        model: &'a Model,
        weights: [&'a ModelWeights<'a>; 2],
        share: ForwardOptions,
        (full_model, full): (&Model, &Forward<'_, B, ModelWeights<'_>>),
    ) -> Result<Self, Error> {
        let forward = model.forward(backend, weights[1], share)?;
        let path = model.path.clone();
        let (found, expected) = (forward.vocabulary()?, full.vocabulary()?);
        if found != expected {
            return Err(Error::Vocabulary { path, found, expected });
        }
        if Group::of_model(&forward, false)? != Group::of_model(full, false)? {
            return Err(Error::OtherLayers { path, full: full_model.path.clone() });
        }
        Ok(Self { weights, forward })
    }

    /// Puts back the full model's matrices of a group whose products are added to hidden
    /// states. What becomes of those has to make up for everything else that was lost, so the
    /// hidden states are told apart as they are with the full model's.
    pub(super) fn take_full(
        &self,
        streams: &mut Streams<'_, B>,
        group: &Group,
    ) -> Result<(), Error> {
        self.replace(streams, group, self.weights[0])
    }

    /// The quantized model's matrices again.
    pub(super) fn take_own(
        &self,
        streams: &mut Streams<'_, B>,
        group: &Group,
    ) -> Result<(), Error> {
        self.replace(streams, group, self.weights[1])
    }

    fn replace(
        &self,
        streams: &mut Streams<'_, B>,
        group: &Group,
        weights: &ModelWeights<'_>,
    ) -> Result<(), Error> {
        let Some((index, _)) = group.linear.as_ref().filter(|(_, linear)| linear.is_added) else {
            return Ok(());
        };
        let graph = streams.quantized.graph();
        for matrix in graph.matrices(*index) {
            for expert in group.experts() {
                let stored = stored(graph, weights, &streams.quantized, matrix, expert)?;
                streams.quantized.replace(matrix, expert, stored.0, stored.1)?;
            }
        }
        Ok(())
    }
}

/// A matrix of the layer that is loaded, as one of the models stores it.
fn stored<B: Backend>(
    graph: &LayerGraph,
    weights: &ModelWeights<'_>,
    stream: &Stream<'_, B>,
    matrix: MatrixIndex,
    expert: Option<usize>,
) -> Result<(DataType, Vec<u8>), Error> {
    let (name, of_stream) = stream.stored(matrix)?;
    let stored = weights.find(&name).unwrap_or(of_stream);
    let rows = graph.member(matrix).rows as u64;
    let first = expert.unwrap_or(0) as u64 * rows;
    let row_bytes = stored.shape.row_bytes(stored.data_type).unwrap_or(0);
    let mut bytes = vec![0; to_usize(rows * row_bytes)];
    weights.read(&name, first..first + rows, &mut bytes)?;
    Ok((stored.data_type, bytes))
}
