//! How much work the layers are, for whoever waits: counted in products of two numbers.

use qz_kernels::backend::Backend;
use qz_methods::Needs;
use qz_models::LayerIndex;
use qz_models::forward::{Chunks, Forward};

use super::QuantizeOptions;
use super::layers::Layers;
use crate::error::Error;
use crate::event::{Event, Observer, Shares};
use crate::model_weights::ModelWeights;
use crate::sinks::Sinks;

/// What fitting and rounding a weight once takes beside its products.
const CHOICE: f64 = 300.0;

/// The work of all layers, and how much of it is done.
pub(super) struct Effort {
    shares: Shares,
    tokens: f64,
    gram: bool,
    cycles: f64,
}

impl Effort {
    /// Of a run in which the outputs have what `sinks` says.
    pub(super) fn of<B: Backend>(
        layers: &Layers<'_, B>,
        forward: &Forward<'_, B, ModelWeights<'_>>,
        chunks: &Chunks,
        sinks: &Sinks,
    ) -> Result<Self, Error> {
        let mut effort = Self::empty(layers.options, chunks);
        let (mut whole, mut weights) = (0.0, 0);
        for layer in (0..forward.graph().layer_count()).map(LayerIndex) {
            let graph = forward.graph().layer(layer);
            for (index, group) in graph.numbered().filter(|(_, group)| !group.is_router) {
                let mut is_open = false;
                for matrix in graph.matrices(index) {
                    let (name, stored) = forward.stored(layer, matrix)?;
                    let elements = stored.shape.elements();
                    whole += effort.of_pass(elements);
                    let position = layers.chosen.position(&name);
                    if position.is_some_and(|position| !sinks.is_done(0, position)) {
                        is_open = true;
                        weights += elements;
                        whole += effort.of_matrix(elements, stored.shape.columns());
                    }
                }
                if is_open {
                    whole += effort.of_inputs(group.columns);
                }
            }
        }
        effort.shares = Shares::new(weights, whole);
        Ok(effort)
    }

    fn empty(options: &QuantizeOptions, chunks: &Chunks) -> Self {
        Self {
            shares: Shares::new(0, 0.0),
            tokens: chunks.tokens().len() as f64,
            gram: options.method.needs() == Needs::Gram,
            cycles: options.options.gptq.cycles as f64,
        }
    }

    /// Showing a group's inputs, and summing them.
    pub(super) fn of_inputs(&self, width: usize) -> f64 {
        let width = width as f64;
        let products = self.tokens * width * width / 2.0 + width * width * width / 3.0;
        if self.gram { products } else { self.tokens * width }
    }

    /// Choosing the values of a matrix.
    pub(super) fn of_matrix(&self, weights: u64, columns: u64) -> f64 {
        let per_weight = match self.gram {
            true => columns as f64 * (0.5 + self.cycles) + CHOICE * (1.0 + self.cycles),
            false => CHOICE,
        };
        weights as f64 * per_weight
    }

    /// Putting the text through so many weights: for what is seen, and on to the next layer.
    pub(super) fn of_pass(&self, weights: u64) -> f64 {
        2.0 * self.tokens * weights as f64
    }

    /// Tells of work that is done.
    pub(super) fn advance(&mut self, work: f64, observer: &mut dyn Observer) {
        observer.observe(Event::Advanced { weights: self.shares.advance(work) });
    }
}
