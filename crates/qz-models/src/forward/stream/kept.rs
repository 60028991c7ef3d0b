//! What a stream keeps between the stages of a layer beside the hidden states.
//!
//! What tokens have seen of each other is dear: it is always kept, in memory up to a
//! quarter of `max_memory` and in a file past that, as hidden states are. Everything else
//! is kept in memory, where half of `max_memory` holds all that is kept, and computed again
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
    Memory(Vec<(Register, Buffer)>),
    /// In the stream's `stored`, one register behind the other.
    Stored(Vec<Register>),
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
        let place = if stop.is_dear {
            self.store(batch, stop, &registers)?;
            Place::Stored(stop.kept.clone())
        } else {
            let take = |register: &Register| (*register, registers.take(*register));
            Place::Memory(stop.kept.iter().map(take).collect())
        };
        self.batches[batch].kept = Some(Kept { step: stop.step, place });
        Ok(())
    }

    fn store(
        &mut self,
        batch: usize,
        stop: &Stop,
        registers: &Registers<B>,
    ) -> Result<(), W::Error> {
        let is_there = |kept: &Kept<B::Buffer>| kept.step == stop.step;
        if self.batches[batch].kept.as_ref().is_some_and(is_there) {
            return Ok(());
        }
        let (forward, rows) = (self.forward, &self.batches[batch].rows);
        let mut first = rows.start * self.room.dear_width;
        for register in &stop.kept {
            let numbers = forward.backend.numbers(registers.get(*register))?;
            forward.on_disk(self.stored.write_numbers(first, &numbers))?;
            first += numbers.len();
        }
        Ok(())
    }

    /// What is kept of a batch before a step, in registers. What stood in memory is taken
    /// from there.
    pub(super) fn registers(
        &mut self,
        batch: usize,
        step: usize,
    ) -> Result<Registers<B>, W::Error> {
        let hidden = self.hidden_states(batch)?;
        let layer = self.layer.as_ref().expect("a layer is loaded");
        let mut registers = Registers::new(layer, hidden);
        let (forward, Batch { rows, kept, .. }) = (self.forward, &mut self.batches[batch]);
        let Some(own) = kept.as_mut().filter(|kept| kept.step == step) else {
            return Ok(registers);
        };
        match &mut own.place {
            Place::Memory(own) => {
                own.drain(..).for_each(|(register, buffer)| registers.set(register, buffer));
                *kept = None;
            }
            Place::Stored(own) => {
                let mut first = rows.start * self.room.dear_width;
                for register in own {
                    let numbers = first..first + rows.len() * layer.graph.width(*register);
                    first = numbers.end;
                    let buffer =
                        self.stored.with_numbers(numbers, |own| forward.backend.buffer(own));
                    registers.set(*register, forward.on_disk(buffer)??);
                }
            }
        }
        Ok(registers)
    }

    /// The hidden states that are kept.
    pub(super) fn hidden_states(&mut self, batch: usize) -> Result<B::Buffer, W::Error> {
        let (forward, rows) = (self.forward, self.batches[batch].rows.clone());
        Ok(forward.on_disk(self.states.with(rows, |numbers| forward.backend.buffer(numbers)))??)
    }

    /// Keeps the hidden states of a batch before a step at which there is nothing else.
    pub(super) fn write_states(
        &mut self,
        batch: usize,
        step: usize,
        registers: &Registers<B>,
    ) -> Result<(), W::Error> {
        let (forward, first) = (self.forward, self.batches[batch].rows.start);
        let numbers = forward.backend.numbers(registers.get(Register::HIDDEN))?;
        forward.on_disk(self.states.write(first, &numbers))?;
        let own = &mut self.batches[batch];
        (own.base, own.kept) = (step, None);
        Ok(())
    }
}
