//! The run through all layers with stops in between: the inputs of each product are
//! shown to a visitor, and weights can be replaced before the layer goes on with them.

mod kept;
mod results;

use std::ops::Range;

use qz_kernels::backend::Backend;
use qz_tensor::DataType;

use super::beside::{Beside, Slots};
use super::capture::{Routing, Tap, Untapped};
use super::chunks::Chunks;
use super::execute::{Pass, Registers};
use super::hidden::HiddenStates;
use super::layer::Layer;
use super::logits::Logits;
use super::run::Forward;
use super::states::{Spill, States};
use super::visitor::{Visit, VisitCached, VisitorTap};
use super::weights::{StoredTensor, WeightSource};
use crate::error::Error;
use crate::graph::{GroupIndex, LayerGraph, MatrixIndex, Register, Stage, Step};
use crate::rules::LayerIndex;
use kept::{Kept, Room};

/// What is called with rows of numbers; an error ends the run.
pub type VisitRows<'v, E> = dyn FnMut(&[f32]) -> Result<(), E> + 'v;

/// A text's hidden states on their way through a model's layers.
///
/// One layer is loaded at a time ([`Self::load_next`]). All batches are shown at one of
/// its stages, any number of times ([`Self::visit`]); then weights of that stage may be
/// replaced ([`Self::replace`]), and the next stage is visited, which runs the layer on
/// with the new weights. [`Self::advance`] finishes the layer.
///
/// Between stages the hidden states are kept as they were when there was nothing else, and
/// beside them what products have made since. The latter is computed again where there is
/// no room for it, and where a matrix before it is replaced.
///
/// Invariant: weights before the place of the hidden states that are kept are fixed until
/// the layer is finished.
pub struct LayerStream<'a, B: Backend, W: WeightSource> {
    forward: &'a Forward<'a, B, W>,
    chunks: Chunks,
    states: States<B>,
    /// The hidden states before the output, once layers behind it have others.
    before_output: Option<States<B>>,
    /// What layers have left for later ones.
    slots: Slots<B>,
    /// What is dear, beside the hidden states, where the device has no room for it.
    spilled: Option<Spill>,
    room: Room,
    /// Of each rotary embedding cosines and sines of each position.
    rotaries: Vec<Vec<f32>>,
    batches: Vec<Batch<B::Buffer>>,
    layer: Option<Layer<'a, B>>,
    /// The layer that is loaded, or the next one.
    number: u32,
    routing: Routing,
}

/// Chunks that go through the layer together.
struct Batch<Buffer> {
    chunks: Range<usize>,
    /// Their tokens.
    rows: Range<usize>,
    /// The step before which the hidden states are those that are kept.
    base: usize,
    /// What is kept beside them, before a later step.
    kept: Option<Kept<Buffer>>,
}

impl<'a, B: Backend, W: WeightSource> Forward<'a, B, W> {
    /// The GGUF name of a layer's matrix, and how the source stores it.
    ///
    /// # Errors
    /// If the source does not have it.
    pub fn stored(
        &self,
        layer: LayerIndex,
        matrix: MatrixIndex,
    ) -> Result<(String, StoredTensor), W::Error> {
        self.loader().required(self.graph.layer(layer).member(matrix).role, Some(layer))
    }

    /// True if the output matrix is the token embedding, too.
    ///
    /// # Errors
    /// If the source has neither.
    pub fn is_output_tied(&self) -> Result<bool, W::Error> {
        Ok(self.loader().embedding()?.0 == self.loader().output()?.0)
    }

    /// The GGUF name of the token embedding, and how the source stores it.
    ///
    /// # Errors
    /// If the source has none.
    pub fn stored_embedding(&self) -> Result<(String, StoredTensor), W::Error> {
        self.loader().embedding()
    }

    /// The GGUF name of the output matrix, and how the source stores it: the token
    /// embedding where there is none of its own.
    ///
    /// # Errors
    /// If the source has neither.
    pub fn stored_output(&self) -> Result<(String, StoredTensor), W::Error> {
        self.loader().output()
    }

    /// Rows of one of the source's matrices, by its GGUF name.
    ///
    /// # Errors
    /// If there is no such matrix, it cannot be read, or its type has no codec.
    pub fn numbers(&self, name: &str, rows: Range<u64>) -> Result<Vec<f32>, W::Error> {
        let loader = self.loader();
        let Some(tensor) = self.source.find(name) else {
            return Err(Error::MissingWeight { location: self.source.location(name) }.into());
        };
        let matrix = loader.rows(name, &tensor, rows)?;
        Ok(self.backend.take_numbers(self.backend.decode(&matrix)?)?)
    }

    /// The most bytes that a stream of a text keeps and computes with, without weights.
    pub fn stream_bytes(&self, chunks: &Chunks) -> u64 {
        let tokens = chunks.tokens().len() as u64;
        let most = self.options.max_memory / 4;
        let kept = |width: usize| (tokens * width as u64 * 4).min(most);
        let room = self.room(chunks);
        let cheap = tokens * room.cheap_width(&self.graph) as u64 * 4;
        let batch = self.batches(chunks).map(|(_, rows)| rows.len()).max().unwrap_or(0);
        let is_kept = self.graph.layers_to_output() < self.graph.layer_count();
        let before_output = if is_kept { kept(self.graph.hidden) } else { 0 };
        let slots = kept(self.graph.slots().iter().sum());
        let states = kept(self.graph.hidden) + before_output + kept(room.dear_width) + slots;
        states + cheap + batch as u64 * self.token_bytes()
    }

    fn room(&self, chunks: &Chunks) -> Room {
        Room::new(&self.graph, chunks.tokens().len(), self.options.max_memory / 2)
    }

    /// Begins a run with stops.
    ///
    /// # Errors
    /// If a tensor is missing or cannot be read, a token is not in the vocabulary, or
    /// hidden states cannot be kept.
    pub fn stream(&'a self, chunks: Chunks) -> Result<LayerStream<'a, B, W>, W::Error> {
        let states = self.embed(&chunks)?;
        let room = self.room(&chunks);
        let (limit, folder) = (self.options.max_memory / 4, &self.options.spill_folder);
        let tokens = chunks.tokens().len();
        let is_needed = Spill::is_needed(tokens, room.dear_width, limit);
        let spilled = is_needed.then(|| Spill::new(folder)).transpose()?;
        let batch = |(chunks, rows)| Batch { chunks, rows, base: 0, kept: None };
        let rows: Vec<_> = self.batches(&chunks).map(|(_, rows)| rows).collect();
        Ok(LayerStream {
            forward: self,
            slots: self.slots(&rows)?,
            rotaries: self.rotaries(chunks.length())?,
            batches: self.batches(&chunks).map(batch).collect(),
            chunks,
            states,
            before_output: None,
            spilled,
            room,
            layer: None,
            number: 0,
            routing: Routing::Chosen,
        })
    }
}

impl<'a, B: Backend, W: WeightSource> LayerStream<'a, B, W> {
    /// The text.
    pub fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// How many batches the text is cut into.
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// A batch's tokens, counted over all chunks.
    ///
    /// # Panics
    /// If there is no such batch.
    pub fn tokens_of(&self, batch: usize) -> Range<usize> {
        self.batches[batch].rows.clone()
    }

    /// Which tokens of experts are seen from here on.
    pub fn set_routing(&mut self, routing: Routing) {
        self.routing = routing;
    }

    /// Reads the next layer's weights; false after the last one.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape than the metadata says, or cannot be
    /// read.
    ///
    /// # Panics
    /// If a layer is loaded that [`Self::advance`] has not finished.
    pub fn load_next(&mut self) -> Result<bool, W::Error> {
        assert!(self.layer.is_none(), "a layer is loaded that is not finished");
        if self.number >= self.layer_count() {
            return Ok(false);
        }
        let layer = Layer::load(&self.forward.loader(), LayerIndex(self.number))?;
        self.layer = Some(layer);
        Ok(true)
    }

    /// The layer that is loaded, or will be next.
    pub fn layer(&self) -> LayerIndex {
        LayerIndex(self.number)
    }

    /// True if no layer comes after the one that is loaded, or will be next.
    pub fn is_at_last_layer(&self) -> bool {
        self.number + 1 >= self.layer_count()
    }

    /// Shows the inputs of all groups of `stage`, batch by batch.
    ///
    /// # Errors
    /// If a result is no number, hidden states cannot be kept, or `visit` fails.
    ///
    /// # Panics
    /// As [`Self::visit_batch`].
    pub fn visit(
        &mut self,
        stage: Stage,
        visit: &mut Visit<'_, B, W::Error>,
    ) -> Result<(), W::Error> {
        (0..self.batches.len()).try_for_each(|batch| self.visit_batch(stage, batch, visit))
    }

    /// Shows the inputs of all groups of `stage` in one batch: two streams of the same
    /// text, one with replaced weights, can be seen side by side.
    ///
    /// # Errors
    /// As [`Self::visit`].
    ///
    /// # Panics
    /// If no layer is loaded, the batch is past `stage`, or there is no such batch.
    pub fn visit_batch(
        &mut self,
        stage: Stage,
        batch: usize,
        visit: &mut Visit<'_, B, W::Error>,
    ) -> Result<(), W::Error> {
        let registers = self.run_to(stage, batch)?;
        self.show(stage, batch, &registers, visit)?;
        self.keep(stage, batch, registers)
    }

    /// Puts all batches through the rest of the layer, and drops its weights.
    /// `on_steps` hears of each batch how many chunks are through, and may end the run
    /// with an error.
    ///
    /// # Errors
    /// If a result is no number, hidden states cannot be kept, or `on_steps` fails.
    ///
    /// # Panics
    /// If no layer is loaded.
    pub fn advance(
        &mut self,
        on_steps: &mut dyn FnMut(u64) -> Result<(), W::Error>,
    ) -> Result<(), W::Error> {
        for batch in 0..self.batches.len() {
            self.finish_batch(batch, &mut Untapped)?;
            on_steps(self.batches[batch].chunks.len() as u64)?;
        }
        self.end_layer()
    }

    /// Puts all batches through the whole layer, shows the inputs of all groups on the
    /// way, and drops the layer's weights: [`Self::visit`] of all stages and
    /// [`Self::advance`] at the cost of the last alone.
    ///
    /// # Errors
    /// As those.
    ///
    /// # Panics
    /// If no layer is loaded, or a stage of it was visited.
    pub fn visit_and_advance(
        &mut self,
        visit: &mut Visit<'_, B, W::Error>,
        on_steps: &mut dyn FnMut(u64) -> Result<(), W::Error>,
    ) -> Result<(), W::Error> {
        self.visit_all_and_advance(visit, &mut |_, _, _| Ok(()), on_steps)
    }

    /// The same, and shows keys and values before they are cached.
    ///
    /// # Errors
    /// As those.
    ///
    /// # Panics
    /// As those.
    pub fn visit_all_and_advance(
        &mut self,
        visit: &mut Visit<'_, B, W::Error>,
        cached: &mut VisitCached<'_, B, W::Error>,
        on_steps: &mut dyn FnMut(u64) -> Result<(), W::Error>,
    ) -> Result<(), W::Error> {
        for batch in 0..self.batches.len() {
            let Batch { base, kept, .. } = &self.batches[batch];
            assert!(*base == 0 && kept.is_none(), "batch {batch} is past a stage");
            let mut tap = VisitorTap {
                graph: self.graph(),
                layer: self.layer(),
                rows: self.batches[batch].rows.clone(),
                last: None,
                routing: self.routing,
                visit: &mut *visit,
                cached: Some(&mut *cached),
                failure: None,
            };
            self.finish_batch(batch, &mut tap)?;
            tap.end()?;
            on_steps(self.batches[batch].chunks.len() as u64)?;
        }
        self.end_layer()
    }

    fn end_layer(&mut self) -> Result<(), W::Error> {
        self.layer = None;
        self.number += 1;
        for batch in &mut self.batches {
            (batch.base, batch.kept) = (0, None);
        }
        let graph = &self.forward.graph;
        if self.number == graph.layers_to_output() && self.number < graph.layer_count() {
            let copy = self.states.copied(self.forward.backend, &self.forward.options.spill_folder);
            self.before_output = Some(copy?);
        }
        Ok(())
    }

    /// Shows what the output matrix multiplies: the normed results of the last layer,
    /// batch by batch.
    ///
    /// # Errors
    /// If the norm cannot be read, or `visit` fails.
    ///
    /// # Panics
    /// If not all layers before the output are finished.
    pub fn visit_output(&mut self, visit: &mut VisitRows<'_, W::Error>) -> Result<(), W::Error> {
        let backend = self.forward.backend;
        (0..self.batches.len()).try_for_each(|batch| {
            let rows = self.output_inputs(batch)?;
            visit(&backend.numbers(&rows)?)
        })
    }

    /// What the output matrix multiplies in one batch.
    ///
    /// # Errors
    /// If the norm cannot be read.
    ///
    /// # Panics
    /// If not all layers before the output are finished, or there is no such batch.
    pub fn output_inputs(&mut self, batch: usize) -> Result<B::Buffer, W::Error> {
        let forward = self.forward;
        assert!(self.number >= forward.graph.layers_to_output(), "layers are left");
        let backend = forward.backend;
        let states = self.before_output.as_mut().unwrap_or(&mut self.states);
        let hidden = states.copy(backend, batch)?;
        match forward.loader().output_norm()? {
            Some(norm) => Ok(norm.apply(backend, &hidden)?),
            None => Ok(hidden),
        }
    }

    /// What follows after all layers.
    ///
    /// # Errors
    /// If the output's tensors are missing or cannot be read.
    ///
    /// # Panics
    /// If not all layers before the output are finished.
    pub fn finish(self) -> Result<Logits<'a, B, W>, W::Error> {
        assert!(self.number >= self.forward.graph.layers_to_output(), "layers are left");
        let states = self.before_output.unwrap_or(self.states);
        HiddenStates::new(self.forward, &self.chunks, states).logits()
    }

    /// Gives a matrix of the loaded layer other weights, of any type and in GGUF's order
    /// of rows; `expert` says whose, where each expert has its own. What was computed with
    /// the old ones is computed again.
    ///
    /// # Errors
    /// If the type has no codec, or the bytes are not those of such a matrix.
    ///
    /// # Panics
    /// If the layer has no such matrix, or a batch has gone past it.
    pub fn replace(
        &mut self,
        matrix: MatrixIndex,
        expert: Option<usize>,
        data_type: DataType,
        bytes: Vec<u8>,
    ) -> Result<(), W::Error> {
        let graph = self.graph();
        let group = graph.group(matrix.group);
        let step = graph.stop(group.stage).step;
        for batch in &mut self.batches {
            assert!(batch.base <= step, "{matrix:?} was used already");
            if batch.kept.as_ref().is_some_and(|kept| kept.step > step) {
                batch.kept = None;
            }
        }
        let (rows, columns) = (group.members[matrix.member].rows, group.columns);
        let loader = self.forward.loader();
        let layer = self.layer.as_mut().expect("a layer is loaded");
        let linear = layer.matrix_mut(matrix, expert);
        let matrix = loader.backend.matrix(data_type, rows, columns, bytes);
        linear.matrix = matrix.map_err(|source| loader.failed(&linear.name, source))?;
        Ok(())
    }

    /// Layers of the model.
    pub fn layer_count(&self) -> u32 {
        self.forward.graph.layer_count()
    }

    /// What the layer that is loaded, or will be next, computes.
    ///
    /// # Panics
    /// After the last layer.
    pub fn graph(&self) -> &'a LayerGraph {
        self.forward.graph.layer(self.layer())
    }

    /// The GGUF name of a matrix of the loaded layer, and how the source stores it.
    ///
    /// # Errors
    /// If the source does not have it.
    pub fn stored(&self, matrix: MatrixIndex) -> Result<(String, StoredTensor), W::Error> {
        self.forward.stored(self.layer(), matrix)
    }

    /// The source's weights of a matrix of the loaded layer, row by row.
    ///
    /// # Errors
    /// If they cannot be read, or their type has no codec.
    pub fn weights(
        &self,
        matrix: MatrixIndex,
        expert: Option<usize>,
    ) -> Result<Vec<f32>, W::Error> {
        let (name, _) = self.stored(matrix)?;
        let rows = self.graph().member(matrix).rows;
        let first = (expert.unwrap_or(0) * rows) as u64;
        self.forward.numbers(&name, first..first + rows as u64)
    }

    /// The last step up to `step` before which something is kept of a batch.
    fn reached(&self, batch: usize, step: usize) -> usize {
        let Batch { base, kept, .. } = &self.batches[batch];
        let kept = kept.as_ref().map(|kept| kept.step).filter(|kept| *kept <= step);
        kept.unwrap_or(*base)
    }

    /// What a batch needs at a stage.
    fn run_to(&mut self, stage: Stage, batch: usize) -> Result<Registers<B>, W::Error> {
        let step = self.graph().stop(stage).step;
        self.run_until(step, batch, &mut Untapped)
    }

    /// Runs a batch up to a step. The hidden states are kept from the last step before it at
    /// which there is nothing else.
    fn run_until(
        &mut self,
        step: usize,
        batch: usize,
        tap: &mut dyn Tap<B>,
    ) -> Result<Registers<B>, W::Error> {
        let from = self.reached(batch, step);
        let mut registers = self.registers(batch, from)?;
        assert!(from <= step, "batch {batch} is past step {step}");
        let base = self.graph().base(step);
        if base > from {
            self.compute(batch, from..base, &mut registers, tap)?;
            self.keep_states(batch, base, &registers)?;
        }
        self.compute(batch, from.max(base)..step, &mut registers, tap)?;
        Ok(registers)
    }

    /// Runs some steps of the loaded layer.
    fn compute(
        &mut self,
        batch: usize,
        steps: Range<usize>,
        registers: &mut Registers<B>,
        tap: &mut dyn Tap<B>,
    ) -> Result<(), W::Error> {
        if steps.is_empty() {
            return Ok(());
        }
        let (forward, graph, index) = (self.forward, self.graph(), self.layer());
        let own = || (graph, steps.clone());
        let Batch { chunks, rows, .. } = &self.batches[batch];
        let (tokens, spans) =
            (&self.chunks.tokens()[rows.clone()], self.chunks.spans(chunks.clone()));
        let mut beside = Beside::default();
        forward.bring_tokens((index, steps.clone()), tokens, &spans, &mut beside)?;
        self.slots.bring(forward.backend, own(), batch, &mut beside)?;
        let mut beside = self.with_pass(batch, |pass, layer| {
            pass.beside.replace(beside);
            let mut caches = pass.caches(layer, steps.clone(), self.chunks.length())?;
            pass.run(layer, steps.clone(), &mut caches, registers, tap)?;
            Ok(pass.beside.take())
        })?;
        Ok(self.slots.keep(forward.backend, own(), batch, &mut beside)?)
    }

    /// Calls `work` with the loaded layer, and what it needs to compute.
    fn with_pass<T>(
        &self,
        batch: usize,
        work: impl FnOnce(&Pass<'_, B>, &Layer<'a, B>) -> Result<T, Error>,
    ) -> Result<T, W::Error> {
        let forward = self.forward;
        let Batch { chunks, rows, .. } = &self.batches[batch];
        let spans = self.chunks.spans(chunks.clone());
        let rotaries = forward.rotary_rows(&self.rotaries, &spans)?;
        let locate = |name: &str| forward.source.location(name);
        let pass = forward.pass(&spans, &rotaries, &locate);
        let layer = self.layer.as_ref().expect("a layer is loaded");
        work(&pass, layer).map_err(|error| error.of_token(|token| rows.start + token).into())
    }

    /// Shows the inputs of a stage's groups, which are known.
    fn show(
        &self,
        stage: Stage,
        batch: usize,
        registers: &Registers<B>,
        visit: &mut Visit<'_, B, W::Error>,
    ) -> Result<(), W::Error> {
        let graph = self.graph();
        let mut tap = VisitorTap {
            graph,
            layer: self.layer(),
            rows: self.batches[batch].rows.clone(),
            last: Some(stage),
            routing: self.routing,
            visit,
            cached: None,
            failure: None,
        };
        match &graph.steps()[graph.stop(stage).step] {
            Step::Linear { group, from, .. } => {
                let layer = self.layer.as_ref().expect("a layer is loaded");
                let rounding = layer.rounding(*group, None);
                let backend = self.forward.backend;
                let plain = registers.get(*from);
                let rounded = rounding.map(|own| backend.round_inputs(plain, &own)).transpose()?;
                Tap::<B>::see(&mut tap, *group, rounded.as_ref().unwrap_or(plain), None)?;
            }
            Step::Experts(own) => {
                self.with_pass(batch, |pass, layer| {
                    pass.experts(layer, own, registers, &mut tap)?;
                    pass.settle()
                })?;
            }
            Step::Heads { group, from, .. } => {
                let input = registers.get(from.rows);
                self.with_pass(batch, |pass, layer| {
                    pass.heads(layer, *group, from, input, &mut tap)?;
                    pass.settle()
                })?;
            }
            _ => unreachable!("stages are products"),
        }
        tap.end()
    }

    /// Puts a batch through the rest of the layer.
    fn finish_batch(&mut self, batch: usize, tap: &mut dyn Tap<B>) -> Result<(), W::Error> {
        let end = self.graph().steps().len();
        self.run_until(end, batch, tap).map(drop)
    }
}
