//! The run through all layers with stops in between: the inputs of each product are
//! shown to a visitor, and weights can be replaced before the layer goes on with them.

mod results;

use std::ops::Range;

use qz_kernels::backend::{Backend, reference};
use qz_tensor::DataType;

use super::capture::{LinearGroup, Routing, Stage};
use super::chunks::Chunks;
use super::layer::{FeedForward, Layer, Pass};
use super::logits::Logits;
use super::run::Forward;
use super::states::States;
use super::visitor::{Visit, VisitorTap};
use super::weights::{Linear, StoredTensor, WeightSource};
use crate::error::Error;
use crate::rules::{LayerIndex, Role};

/// What is called with rows of numbers; an error ends the run.
pub type VisitRows<'v, E> = dyn FnMut(&[f32]) -> Result<(), E> + 'v;

/// A text's hidden states on their way through a model's layers.
///
/// One layer is loaded at a time ([`Self::load_next`]). All batches are shown at one of
/// its stages, any number of times ([`Self::visit`]); then weights of that stage may be
/// replaced ([`Self::replace`]), and the next stage is visited, which runs the layer on
/// with the new weights. [`Self::advance`] finishes the layer. Each hidden state that a
/// stage needs is computed once. So are the inputs of down in a layer without experts, if
/// all that is kept fits half of `max_memory`; else they are computed for each visit and
/// once more when the layer is finished.
///
/// Invariant: once a batch is past the attention (stage [`Stage::FeedForward`] was
/// visited), weights before it are fixed until the layer is finished.
///
/// Hidden states, and what the heads attended to, stay in memory up to a quarter of
/// `max_memory` each, and in a file past that.
pub struct LayerStream<'a, B: Backend, W: WeightSource> {
    forward: &'a Forward<'a, B, W>,
    chunks: Chunks,
    states: States,
    attended: States,
    /// What down multiplies is kept: there are no experts, and there is room.
    keeps_gated: bool,
    /// Cosines and sines of each position.
    rotary: Vec<f32>,
    batches: Vec<Batch<B::Buffer>>,
    layer: Option<Layer<B>>,
    /// The layer that is loaded, or the next one.
    number: u32,
    routing: Routing,
}

/// Chunks that go through the layer together.
#[derive(Clone, Debug)]
struct Batch<Buffer> {
    chunks: Range<usize>,
    /// Their tokens.
    rows: Range<usize>,
    /// How far they are.
    reached: Reached,
    /// What down multiplies, if it is kept and known.
    gated: Option<Buffer>,
}

/// What is kept between stages.
#[derive(Clone, Copy)]
enum Kept {
    /// The hidden states.
    States,
    /// What the heads attended to.
    Attended,
}

/// How far a batch is in the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    /// The states are the layer's inputs.
    Inputs,
    /// What the heads attended to is kept, too.
    Attended,
    /// The states are those after the attention.
    FeedForward,
    /// The states are the layer's results.
    End,
}

impl<'a, B: Backend, W: WeightSource> Forward<'a, B, W> {
    /// The GGUF name of a layer's matrix, and how the source stores it.
    ///
    /// # Errors
    /// If the source does not have it.
    pub fn stored(
        &self,
        role: Role,
        layer: LayerIndex,
    ) -> Result<(String, StoredTensor), W::Error> {
        self.loader().required(role, Some(layer))
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
        let bytes = loader.bytes(name, &tensor, rows)?;
        let decoded = reference::decode(tensor.data_type, &bytes);
        decoded.map_err(|source| loader.failed(name, source).into())
    }

    /// The most bytes that a stream of a text keeps and computes with, without weights.
    pub fn stream_bytes(&self, chunks: &Chunks) -> u64 {
        let tokens = chunks.tokens().len() as u64;
        let most = self.options.max_memory / 4;
        let attended = self.shape.heads * self.shape.head_size;
        let kept = |width: usize| (tokens * width as u64 * 4).min(most);
        let gated = tokens * self.shape.intermediate as u64 * 4;
        let gated = if self.keeps_gated(chunks) { gated } else { 0 };
        let batch = self.batches(chunks).map(|(_, rows)| rows.len()).max().unwrap_or(0);
        kept(self.shape.hidden) + kept(attended) + gated + batch as u64 * self.token_bytes()
    }

    /// Whether what down multiplies is kept from stage to stage.
    fn keeps_gated(&self, chunks: &Chunks) -> bool {
        let shape = &self.shape;
        let kept = shape.hidden + shape.heads * shape.head_size + shape.intermediate;
        let bytes = chunks.tokens().len() as u64 * kept as u64 * 4;
        shape.experts.is_none() && bytes <= self.options.max_memory / 2
    }

    /// Begins a run with stops.
    ///
    /// # Errors
    /// If a tensor is missing or cannot be read, a token is not in the vocabulary, or
    /// hidden states cannot be kept.
    pub fn stream(&'a self, chunks: Chunks) -> Result<LayerStream<'a, B, W>, W::Error> {
        let states = self.embed(&chunks)?;
        let width = self.shape.heads * self.shape.head_size;
        let (limit, folder) = (self.options.max_memory / 4, &self.options.spill_folder);
        let tokens = chunks.tokens().len();
        let attended = self.on_disk(States::new(tokens, width, limit, folder))?;
        let batch = |(chunks, rows)| Batch { chunks, rows, reached: Reached::Inputs, gated: None };
        let keeps_gated = self.keeps_gated(&chunks);
        Ok(LayerStream {
            forward: self,
            rotary: self.rotary(chunks.length())?,
            batches: self.batches(&chunks).map(batch).collect(),
            chunks,
            states,
            attended,
            keeps_gated,
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
        if self.number >= self.forward.shape.layers {
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
        self.number + 1 >= self.forward.shape.layers
    }

    /// Shows the inputs of all groups of `stage`, batch by batch.
    ///
    /// # Errors
    /// If a result is no number, hidden states cannot be kept, or `visit` fails.
    ///
    /// # Panics
    /// As [`Self::visit_batch`].
    pub fn visit(&mut self, stage: Stage, visit: &mut Visit<'_, W::Error>) -> Result<(), W::Error> {
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
        visit: &mut Visit<'_, W::Error>,
    ) -> Result<(), W::Error> {
        let reached = self.batches[batch].reached;
        let fixed =
            if stage <= Stage::AttentionOutput { Reached::Attended } else { Reached::FeedForward };
        assert!(reached <= fixed, "batch {batch} is past {stage:?}");
        match stage {
            Stage::QueryKeyValue => {
                let normed = self.attention_inputs(batch)?;
                self.tap(batch, Some(stage), visit).show(LinearGroup::QueryKeyValue, &normed)
            }
            Stage::AttentionOutput => {
                let attended = self.attended(batch)?;
                self.tap(batch, Some(stage), visit).show(LinearGroup::AttentionOutput, &attended)
            }
            Stage::Down if self.keeps_gated => {
                let gated = self.gate_up(batch)?;
                let shown = self.tap(batch, Some(stage), visit).show(LinearGroup::Down, &gated);
                self.batches[batch].gated = Some(gated);
                shown
            }
            Stage::FeedForward | Stage::Down => {
                let hidden = self.after_attention(batch)?;
                self.feed(batch, Some(stage), &hidden, visit).map(|_| ())
            }
        }
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
            if self.batches[batch].reached != Reached::End {
                self.finish_batch(batch)?;
            }
            on_steps(self.batches[batch].chunks.len() as u64)?;
        }
        self.end_layer();
        Ok(())
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
        visit: &mut Visit<'_, W::Error>,
        on_steps: &mut dyn FnMut(u64) -> Result<(), W::Error>,
    ) -> Result<(), W::Error> {
        for batch in 0..self.batches.len() {
            for stage in [Stage::QueryKeyValue, Stage::AttentionOutput] {
                self.visit_batch(stage, batch, visit)?;
            }
            let hidden = self.after_attention(batch)?;
            self.feed_to_end(batch, hidden, visit)?;
            on_steps(self.batches[batch].chunks.len() as u64)?;
        }
        self.end_layer();
        Ok(())
    }

    fn end_layer(&mut self) {
        self.layer = None;
        self.number += 1;
        for batch in &mut self.batches {
            (batch.reached, batch.gated) = (Reached::Inputs, None);
        }
    }

    /// Shows what the output matrix multiplies: the normed results of the last layer,
    /// batch by batch.
    ///
    /// # Errors
    /// If the norm cannot be read, or `visit` fails.
    ///
    /// # Panics
    /// If not all layers are finished.
    pub fn visit_output(&mut self, visit: &mut VisitRows<'_, W::Error>) -> Result<(), W::Error> {
        assert!(self.number >= self.forward.shape.layers, "layers are left");
        let forward = self.forward;
        let (backend, width) = (forward.backend, forward.shape.hidden);
        let norm = forward.loader().vector(Role::OutputNorm, None, width)?;
        for batch in 0..self.batches.len() {
            let hidden = self.read(batch, Kept::States)?;
            let mut normed = backend.zeros(self.batches[batch].rows.len() * width);
            backend.rms_norm(&hidden, &norm, forward.shape.rms_epsilon, &mut normed);
            visit(&backend.numbers(&normed))?;
        }
        Ok(())
    }

    /// What follows after all layers.
    ///
    /// # Errors
    /// If the output's tensors are missing or cannot be read.
    ///
    /// # Panics
    /// If not all layers are finished.
    pub fn finish(self) -> Result<Logits<'a, B, W>, W::Error> {
        assert!(self.number >= self.forward.shape.layers, "layers are left");
        Logits::new(self.forward, &self.chunks, self.states)
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
        role: Role,
        expert: Option<usize>,
        data_type: DataType,
        bytes: Vec<u8>,
    ) -> Result<(), W::Error> {
        let group = LinearGroup::of(role).expect("a matrix of a layer");
        let attention = group.stage() <= Stage::AttentionOutput;
        let last = if attention { Reached::Attended } else { Reached::FeedForward };
        for batch in &mut self.batches {
            assert!(batch.reached <= last, "{role:?} was used already");
            match group {
                LinearGroup::QueryKeyValue => batch.reached = Reached::Inputs,
                LinearGroup::GateUp => batch.gated = None,
                _ => {}
            }
        }
        let loader = self.forward.loader();
        let rows_columns = self.forward.shape.matrix(role);
        let linear = self.linear_mut(role, expert);
        let (rows, columns) = rows_columns;
        let matrix = loader.backend.matrix(data_type, rows, columns, bytes);
        linear.matrix = matrix.map_err(|source| loader.failed(&linear.name, source))?;
        Ok(())
    }

    /// Numbers of a row of a group's inputs.
    pub fn width(&self, group: LinearGroup) -> usize {
        self.forward.shape.width(group)
    }

    /// The GGUF name of a matrix of the loaded layer, and how the source stores it.
    ///
    /// # Errors
    /// If the source does not have it.
    pub fn stored(&self, role: Role) -> Result<(String, StoredTensor), W::Error> {
        self.forward.stored(role, self.layer())
    }

    /// The source's weights of a matrix of the loaded layer, row by row.
    ///
    /// # Errors
    /// If they cannot be read, or their type has no codec.
    pub fn weights(&self, role: Role, expert: Option<usize>) -> Result<Vec<f32>, W::Error> {
        let (name, _) = self.stored(role)?;
        let (rows, _) = self.forward.shape.matrix(role);
        let first = (expert.unwrap_or(0) * rows) as u64;
        self.forward.numbers(&name, first..first + rows as u64)
    }

    fn linear_mut(&mut self, role: Role, expert: Option<usize>) -> &mut Linear<B> {
        let layer = self.layer.as_mut().expect("a layer is loaded");
        let gated = match (role, &mut layer.feed_forward) {
            (Role::AttentionQuery, _) => return &mut layer.query,
            (Role::AttentionKey, _) => return &mut layer.key,
            (Role::AttentionValue, _) => return &mut layer.value,
            (Role::AttentionOutput, _) => return &mut layer.attention_output,
            (Role::ExpertRouter, FeedForward::Experts { router, .. }) => return router,
            (_, FeedForward::Experts { experts, .. }) => {
                &mut experts[expert.expect("which expert")]
            }
            (_, FeedForward::Dense(gated)) => gated,
        };
        match role {
            Role::FeedForwardGate => &mut gated.gate,
            Role::FeedForwardUp => &mut gated.up,
            Role::FeedForwardDown => &mut gated.down,
            _ => panic!("the layer has no {role:?}"),
        }
    }

    /// Calls `work` with the loaded layer, and what it needs to compute.
    fn compute<T>(
        &self,
        batch: usize,
        work: impl FnOnce(&Pass<'_, B>, &Layer<B>, usize) -> Result<T, Error>,
    ) -> Result<T, W::Error> {
        let forward = self.forward;
        let Batch { chunks, rows, .. } = &self.batches[batch];
        let spans = self.chunks.spans(chunks.clone());
        let rotary = forward.rotary_rows(&self.rotary, &spans);
        let locate = |name: &str| forward.source.location(name);
        let pass = forward.pass(&spans, &rotary, &locate);
        let layer = self.layer.as_ref().expect("a layer is loaded");
        work(&pass, layer, rows.len())
            .map_err(|error| error.of_token(|token| rows.start + token).into())
    }

    fn kept(&mut self, kept: Kept) -> &mut States {
        match kept {
            Kept::States => &mut self.states,
            Kept::Attended => &mut self.attended,
        }
    }

    fn read(&mut self, batch: usize, kept: Kept) -> Result<B::Buffer, W::Error> {
        let (forward, rows) = (self.forward, self.batches[batch].rows.clone());
        forward.on_disk(self.kept(kept).with(rows, |numbers| forward.backend.buffer(numbers)))
    }

    fn write(
        &mut self,
        batch: usize,
        kept: Kept,
        reached: Reached,
        buffer: &B::Buffer,
    ) -> Result<(), W::Error> {
        let (forward, first) = (self.forward, self.batches[batch].rows.start);
        let numbers = forward.backend.numbers(buffer);
        forward.on_disk(self.kept(kept).write(first, &numbers))?;
        self.batches[batch].reached = reached;
        Ok(())
    }

    fn attention_inputs(&mut self, batch: usize) -> Result<B::Buffer, W::Error> {
        let hidden = self.read(batch, Kept::States)?;
        self.compute(batch, |pass, layer, tokens| {
            Ok(pass.normed(&hidden, &layer.attention_norm, tokens * pass.shape.hidden))
        })
    }

    fn attended(&mut self, batch: usize) -> Result<B::Buffer, W::Error> {
        if self.batches[batch].reached == Reached::Attended {
            return self.read(batch, Kept::Attended);
        }
        let normed = self.attention_inputs(batch)?;
        let attended = self.compute(batch, |pass, layer, tokens| {
            let mut cache = pass.cache(layer, self.chunks.length())?;
            pass.attend(layer, &mut cache, tokens, &normed)
        })?;
        self.write(batch, Kept::Attended, Reached::Attended, &attended)?;
        Ok(attended)
    }

    fn after_attention(&mut self, batch: usize) -> Result<B::Buffer, W::Error> {
        if self.batches[batch].reached == Reached::FeedForward {
            return self.read(batch, Kept::States);
        }
        let attended = self.attended(batch)?;
        let mut hidden = self.read(batch, Kept::States)?;
        let product = self.compute(batch, |pass, layer, tokens| {
            pass.product(&layer.attention_output, &attended, tokens)
        })?;
        self.forward.backend.add(&mut hidden, &product);
        self.write(batch, Kept::States, Reached::FeedForward, &hidden)?;
        Ok(hidden)
    }

    /// What down multiplies: what is kept of it, or computed.
    fn gate_up(&mut self, batch: usize) -> Result<B::Buffer, W::Error> {
        if let Some(gated) = self.batches[batch].gated.take() {
            return Ok(gated);
        }
        let hidden = self.after_attention(batch)?;
        self.compute(batch, |pass, layer, tokens| {
            let FeedForward::Dense(own) = &layer.feed_forward else {
                unreachable!("nothing is kept of experts")
            };
            let elements = tokens * pass.shape.hidden;
            pass.gate_up(own, &pass.normed(&hidden, &layer.feed_forward_norm, elements), tokens)
        })
    }

    /// Puts a batch through the rest of the layer.
    fn finish_batch(&mut self, batch: usize) -> Result<(), W::Error> {
        let mut hidden = self.after_attention(batch)?;
        let Some(gated) = self.batches[batch].gated.take() else {
            return self.feed_to_end(batch, hidden, &mut |_| Ok(()));
        };
        let fed = self.compute(batch, |pass, layer, tokens| match &layer.feed_forward {
            FeedForward::Dense(own) => pass.product(&own.down, &gated, tokens),
            FeedForward::Experts { .. } => unreachable!("nothing is kept of experts"),
        })?;
        self.forward.backend.add(&mut hidden, &fed);
        self.write(batch, Kept::States, Reached::End, &hidden)
    }

    fn feed_to_end(
        &mut self,
        batch: usize,
        mut hidden: B::Buffer,
        visit: &mut Visit<'_, W::Error>,
    ) -> Result<(), W::Error> {
        if let Some(fed) = self.feed(batch, None, &hidden, visit)? {
            self.forward.backend.add(&mut hidden, &fed);
        }
        self.write(batch, Kept::States, Reached::End, &hidden)
    }

    fn feed(
        &self,
        batch: usize,
        last: Option<Stage>,
        hidden: &B::Buffer,
        visit: &mut Visit<'_, W::Error>,
    ) -> Result<Option<B::Buffer>, W::Error> {
        let mut tap = self.tap(batch, last, visit);
        let fed =
            self.compute(batch, |pass, layer, tokens| pass.feed(layer, tokens, hidden, &mut tap))?;
        tap.end()?;
        Ok(fed)
    }

    fn tap<'t, 'v>(
        &'t self,
        batch: usize,
        last: Option<Stage>,
        visit: &'t mut Visit<'v, W::Error>,
    ) -> VisitorTap<'t, 'v, B, W::Error> {
        let (backend, shape) = (self.forward.backend, &self.forward.shape);
        let (layer, rows, routing) = (self.layer(), &self.batches[batch].rows, self.routing);
        VisitorTap { backend, shape, layer, rows, last, routing, visit, failure: None }
    }
}
