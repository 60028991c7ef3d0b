//! What a stream keeps between the stages of a layer beside the hidden states.
//!
//! What tokens have seen of each other is dear: it is always kept, on the device up to a
//! quarter of `max_memory` and in a file past that, as hidden states are. Everything else
//! is kept on the device, where half of `max_memory` holds all that is kept, and computed again
//! where it does not.

use qz_kernels::backend::Backend;

use super::super::execute::Registers;
use super::super::weights::WeightSource;
use super::{Batch, LayerStream};
use crate::graph::{LayerGraph, ModelGraph, Register, Stage, Stop};

/// What is kept of one batch.
pub(super) struct Kept<Buffer> {
    /// The step before which it is known.
    pub(super) step: usize,
    place: Place<Buffer>,
}

enum Place<Buffer> {
    /// What is dear stays there when it is looked at, all else is taken.
    Device { own: Vec<(Register, Buffer)>, is_dear: bool },
    /// In the stream's `spilled`, one register behind the other.
    File(Vec<Register>),
}

/// How much can be kept.
pub(super) struct Room {
    /// The widest that is dear: numbers of a token.
    pub(super) dear_width: usize,
    /// Numbers of a token that there is room for beside the hidden states and what is dear.
    cheap_width: usize,
}

impl Room {
    /// Of so many tokens in so many bytes.
    pub(super) fn new(graph: &ModelGraph, tokens: usize, bytes: u64) -> Self {
        let dear = stops(graph).filter(|(_, stop)| stop.is_dear);
        let dear_width = dear.map(|(layer, stop)| width(layer, stop)).max().unwrap_or(0);
        let all = bytes / 4 / (tokens as u64).max(1);
        let others = graph.hidden + dear_width;
        let cheap_width = usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(others);
        Self { dear_width, cheap_width }
    }

    /// Numbers of a token that are kept in memory at most.
    pub(super) fn cheap_width(&self, graph: &ModelGraph) -> usize {
        let cheap = stops(graph).filter(|(_, stop)| !stop.is_dear);
        let widths = cheap.map(|(layer, stop)| width(layer, stop));
        widths.filter(|width| *width <= self.cheap_width).max().unwrap_or(0)
    }
}

fn stops(graph: &ModelGraph) -> impl Iterator<Item = (&LayerGraph, &Stop)> {
    graph.layers.iter().flat_map(|layer| layer.stops().iter().map(move |stop| (layer, stop)))
}

/// Numbers of a token that are kept at a stop.
fn width(layer: &LayerGraph, stop: &Stop) -> usize {
    stop.kept.iter().map(|register| layer.width(*register)).sum()
}

impl<B: Backend, W: WeightSource> LayerStream<'_, B, W> {
    /// Keeps what a batch has at a stage, if it is worth it and there is room.
    pub(super) fn keep(
        &mut self,
        stage: Stage,
        batch: usize,
        mut registers: Registers<B>,
    ) -> Result<(), W::Error> {
        let graph = self.graph();
        let stop = graph.stop(stage);
        let width = width(graph, stop);
        if stop.kept.is_empty() || (!stop.is_dear && width > self.room.cheap_width) {
            return Ok(());
        }
        if stop.is_dear && self.has(batch, stop.step) {
            return Ok(());
        }
        let place = match &mut self.spilled {
            Some(spilled) if stop.is_dear => {
                let backend = self.forward.backend;
                let mut first = self.batches[batch].rows.start * self.room.dear_width;
                for register in &stop.kept {
                    let numbers = backend.numbers(registers.get(*register))?;
                    spilled.write(first, &numbers)?;
                    first += numbers.len();
                }
                Place::File(stop.kept.clone())
            }
            _ => {
                let take = |register: &Register| (*register, registers.take(*register));
                let own = stop.kept.iter().map(take).collect();
                Place::Device { own, is_dear: stop.is_dear }
            }
        };
        self.batches[batch].kept = Some(Kept { step: stop.step, place });
        Ok(())
    }

    /// True if something is kept of a batch before a step.
    fn has(&self, batch: usize, step: usize) -> bool {
        self.batches[batch].kept.as_ref().is_some_and(|kept| kept.step == step)
    }

    /// What is kept of a batch before a step, in registers.
    pub(super) fn registers(
        &mut self,
        batch: usize,
        step: usize,
    ) -> Result<Registers<B>, W::Error> {
        let backend = self.forward.backend;
        let layer = self.layer.as_ref().expect("a layer is loaded");
        let mut registers = Registers::new(layer, self.states.copy(backend, batch)?);
        let Batch { rows, kept, .. } = &mut self.batches[batch];
        let Some(own) = kept.as_mut().filter(|kept| kept.step == step) else {
            return Ok(registers);
        };
        match &mut own.place {
            Place::Device { own, is_dear: true } => {
                for (register, buffer) in own {
                    registers.set(*register, backend.copy(buffer)?);
                }
            }
            Place::Device { own, is_dear: false } => {
                own.drain(..).for_each(|(register, buffer)| registers.set(register, buffer));
                *kept = None;
            }
            Place::File(own) => {
                let spilled = self.spilled.as_mut().expect("a file");
                let mut first = rows.start * self.room.dear_width;
                for register in own {
                    let width = layer.graph.width(*register);
                    let buffer = spilled.read_from(backend, first, rows.len(), width)?;
                    registers.set(*register, buffer);
                    first += rows.len() * width;
                }
            }
        }
        Ok(registers)
    }

    /// Keeps the hidden states of a batch before a step at which there is nothing else.
    pub(super) fn keep_states(
        &mut self,
        batch: usize,
        step: usize,
        registers: &Registers<B>,
    ) -> Result<(), W::Error> {
        let backend = self.forward.backend;
        self.states.forget(batch);
        let hidden = backend.copy(registers.get(Register::HIDDEN))?;
        self.states.put(backend, batch, hidden)?;
        let own = &mut self.batches[batch];
        (own.base, own.kept) = (step, None);
        Ok(())
    }
}
