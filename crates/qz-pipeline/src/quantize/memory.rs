//! How much memory the matrices of decoder layers take, known before the first is read.

use qz_kernels::backend::Backend;
use qz_methods::weights_under_way;
use qz_models::LayerIndex;
use qz_models::forward::{Chunks, Forward};

use super::layers::{Layers, Matrix, output_rows};
use crate::error::Error;
use crate::model::to_usize;
use crate::model_weights::ModelWeights;
use crate::statistics::WantedSums;

/// The program, its tables and threads, and what the allocator keeps of freed memory.
const PROGRAM: u64 = 64 << 20;

/// Bytes of each weight that a method is working on: targets, errors in two orders, codes
/// and values.
const WORKING: u64 = 20;

/// The most bytes that a text on its way through the full model takes.
pub(super) fn bound_reading<B: Backend>(
    forward: &Forward<'_, B, ModelWeights<'_>>,
    chunks: &Chunks,
) -> Result<u64, Error> {
    let mut most = 0;
    for layer in (0..forward.graph().layer_count()).map(LayerIndex) {
        let graph = forward.graph().layer(layer);
        let mut bytes = 0;
        for (index, _) in graph.numbered() {
            for matrix in graph.matrices(index) {
                let (_, stored) = forward.stored(layer, matrix)?;
                bytes += stored.shape.byte_size(stored.data_type).unwrap_or(u64::MAX);
            }
        }
        most = most.max(bytes);
    }
    Ok(PROGRAM + forward.stream_bytes(chunks) + most)
}

impl<B: Backend> Layers<'_, B> {
    /// The most bytes that [`Self::run`] takes with a text, or [`Self::run_known`] without:
    /// a layer as it is stored and as it becomes, what is kept of the text, and for one
    /// group of matrices what is known of its inputs.
    pub(super) fn memory_bound(
        &self,
        forward: &Forward<'_, B, ModelWeights<'_>>,
        chunks: Option<&Chunks>,
    ) -> Result<u64, Error> {
        let streams = if self.options.propagates() { 2 } else { 1 };
        let text = streams * chunks.map_or(0, |chunks| forward.stream_bytes(chunks));
        let (mut layer_most, mut group_most) = (0, 0);
        for layer in (0..forward.graph().layer_count()).map(LayerIndex) {
            let mut layer_bytes = 0;
            let mut stored_bytes = 0;
            let graph = forward.graph().layer(layer);
            for (index, group) in graph.numbered() {
                let mut matrix_most = 0;
                for matrix in graph.matrices(index) {
                    let Ok((name, stored)) = forward.stored(layer, matrix) else { continue };
                    let bytes = stored.shape.byte_size(stored.data_type).unwrap_or(u64::MAX);
                    stored_bytes += bytes;
                    let Some(position) = self.chosen.position(&name) else {
                        layer_bytes += bytes;
                        continue;
                    };
                    let place = self.plans[0].packed(position);
                    let result = match place {
                        Some(_) => stored.shape.elements() * 4,
                        None => {
                            let data_type = self.plans[0].assignments[position].data_type;
                            stored.shape.byte_size(data_type).unwrap_or(u64::MAX)
                        }
                    };
                    // What experts become waits until all of them are done.
                    layer_bytes += match group.experts {
                        Some(_) => bytes + result,
                        None => bytes.max(result),
                    };
                    matrix_most = matrix_most.max(self.matrix_bytes(position, place.is_some()));
                }
                if matrix_most > 0 {
                    let experts = group.experts.unwrap_or(1);
                    let wanted = self.collector().wanted(group, forward.graph().hidden);
                    let known = self.statistics_bytes(&wanted, experts);
                    group_most = group_most.max(matrix_most + known);
                }
            }
            // The full model's layer is beside it.
            let all_bytes = layer_bytes + (streams - 1) * stored_bytes;
            layer_most = layer_most.max(all_bytes);
        }
        // Without a text there is no layer, only the matrix.
        let layers = if chunks.is_some() { layer_most } else { 0 };
        Ok(PROGRAM + text + (layers + group_most).max(self.output_bytes()))
    }

    /// The most bytes that [`Self::run_alone`] takes: a matrix, or some rows of one.
    pub(super) fn bound_alone(&self) -> u64 {
        let bytes = |position: usize| {
            let matrix = self.matrix(position, None);
            let tensor = &self.model.tensors[position];
            let all = to_usize(tensor.rows_per_matrix()).min(matrix.rows);
            let rows = self.rows_alone(&Matrix { rows: all, ..matrix });
            let weights = (rows * matrix.columns) as u64;
            let out = match self.plans[0].packed(position) {
                Some(_) => weights * 9,
                None => 2 * (rows * matrix.row_bytes()) as u64,
            };
            let stored = (rows * tensor.row_bytes(tensor.source_type)) as u64;
            let working = weights_under_way(rows, matrix.columns, self.options.compute.threads);
            weights * 4 + stored + out + working as u64 * WORKING
        };
        PROGRAM + self.chosen.positions().map(bytes).max().unwrap_or(0)
    }

    /// Some rows of the output matrix, and what is known of its inputs.
    fn output_bytes(&self) -> u64 {
        let Some((position, _)) = self.chosen.output else { return 0 };
        let matrix = self.matrix(position, None);
        let rows = output_rows(&matrix);
        let working = weights_under_way(rows, matrix.columns, self.options.compute.threads);
        // As they are stored and as numbers, and the blocks.
        let weights = (rows * matrix.columns) as u64 * 8 + (rows * matrix.row_bytes()) as u64;
        let wanted = self.collector().wanted_of_output(matrix.columns);
        let known = self.statistics_bytes(&wanted, 1);
        weights + working as u64 * WORKING + known
    }

    /// A matrix as numbers, and on its way out.
    fn matrix_bytes(&self, position: usize, is_packed: bool) -> u64 {
        let matrix = self.matrix(position, None);
        let tensor = &self.model.tensors[position];
        let weights = tensor.rows_per_matrix() * matrix.columns as u64;
        let out = match is_packed {
            // In the output's order, packed, and as the values that this is.
            true => weights * 9,
            // The blocks, for the output and for the stream.
            false => 2 * tensor.rows_per_matrix() * matrix.row_bytes() as u64,
        };
        let threads = self.options.compute.threads;
        let rows = to_usize(tensor.rows_per_matrix());
        let working = weights_under_way(rows, matrix.columns, threads) as u64;
        weights * 4 + out + working * WORKING
    }

    /// Sums, those of all experts beside them, and what is prepared of one of them.
    fn statistics_bytes(&self, wanted: &WantedSums, experts: usize) -> u64 {
        let prepared = 2 * wanted.gram_bytes();
        // What the sums of what is lacking make of targets, in two orders.
        let targets = 2 * wanted.lacking_bytes();
        let is_mixed = self.collector().adds_mean(wanted);
        let of_all = if experts > 1 && is_mixed { wanted.of_mean().bytes() } else { 0 };
        let count = self.collector().experts_at_once(wanted).min(experts as u64);
        wanted.bytes() * count + of_all + prepared + targets
    }
}
