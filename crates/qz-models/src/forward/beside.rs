//! What a layer's steps use beside the hidden states: rows that earlier layers have left for
//! it, what the model has for each token in this layer, and tokens further on.

use std::ops::Range;

use qz_kernels::backend::{Backend, ExpertLoad};

use super::chunks::Span;
use super::run::Forward;
use super::states::States;
use super::weights::WeightSource;
use crate::error::Error;
use crate::graph::{LayerGraph, Slot, Step};
use crate::rules::{LayerIndex, Part, Role};

/// Of one batch, while it goes through a layer.
pub(super) struct Beside<B: Backend> {
    /// By slot: what was left.
    slots: Vec<Option<B::Buffer>>,
    /// What the model has for each token.
    of_token: Option<B::Buffer>,
    /// The embeddings of tokens further on.
    ahead: Option<B::Buffer>,
}

impl<B: Backend> Default for Beside<B> {
    fn default() -> Self {
        Self { slots: Vec::new(), of_token: None, ahead: None }
    }
}

impl<B: Backend> Beside<B> {
    pub(super) fn leave(&mut self, slot: Slot, rows: B::Buffer) {
        let most = self.slots.len().max(slot.0 + 1);
        self.slots.resize_with(most, || None);
        self.slots[slot.0] = Some(rows);
    }

    pub(super) fn recall(&self, slot: Slot) -> &B::Buffer {
        self.slots.get(slot.0).and_then(Option::as_ref).expect("an earlier layer has left it")
    }

    pub(super) fn take(&mut self, slot: Slot) -> Option<B::Buffer> {
        self.slots.get_mut(slot.0)?.take()
    }

    pub(super) fn of_token(&self) -> &B::Buffer {
        self.of_token.as_ref().expect("it was made before the steps")
    }

    pub(super) fn ahead(&self) -> &B::Buffer {
        self.ahead.as_ref().expect("it was read before the steps")
    }
}

/// What layers leave, of all batches.
pub(super) struct Slots<B: Backend>(Vec<States<B>>);

impl<B: Backend> Slots<B> {
    /// Puts what some steps use of it into `beside`.
    pub(super) fn bring(
        &mut self,
        backend: &B,
        (layer, steps): (&LayerGraph, Range<usize>),
        batch: usize,
        beside: &mut Beside<B>,
    ) -> Result<(), Error> {
        for step in &layer.steps()[steps] {
            if let Step::Recall { slot, .. } = step {
                beside.leave(*slot, self.0[slot.0].copy(backend, batch)?);
            }
        }
        Ok(())
    }

    /// Keeps what some steps have left in it.
    pub(super) fn keep(
        &mut self,
        backend: &B,
        (layer, steps): (&LayerGraph, Range<usize>),
        batch: usize,
        beside: &mut Beside<B>,
    ) -> Result<(), Error> {
        for step in &layer.steps()[steps] {
            if let Step::Leave { slot, .. } = step
                && let Some(rows) = beside.take(*slot)
            {
                self.0[slot.0].put(backend, batch, rows)?;
            }
        }
        Ok(())
    }
}

impl<B: Backend, W: WeightSource> Forward<'_, B, W> {
    /// Room for what layers leave, of batches with these rows.
    pub(super) fn slots(&self, batches: &[Range<usize>]) -> Result<Slots<B>, Error> {
        let widths = self.graph.slots();
        // Together they take no more than hidden states may.
        let limit = self.options.max_memory / 4 / (widths.len() as u64).max(1);
        let folder = &self.options.spill_folder;
        let slots = widths.iter().map(|width| States::new(batches.to_vec(), *width, limit, folder));
        Ok(Slots(slots.collect::<Result<_, _>>()?))
    }

    /// Puts what some steps of a layer use of a text's tokens into `beside`.
    pub(super) fn bring_tokens(
        &self,
        steps: (LayerIndex, Range<usize>),
        tokens: &[u32],
        spans: &[Span],
        beside: &mut Beside<B>,
    ) -> Result<(), W::Error> {
        beside.ahead = self.ahead(steps.clone(), tokens, spans)?;
        beside.of_token = self.of_token(steps, tokens, spans)?;
        Ok(())
    }

    /// The embeddings of tokens further on, if some of a layer's steps use them. Where a span
    /// has none, its first tokens follow: no other row sees what is computed of these.
    fn ahead(
        &self,
        (layer, steps): (LayerIndex, Range<usize>),
        tokens: &[u32],
        spans: &[Span],
    ) -> Result<Option<B::Buffer>, W::Error> {
        let graph = self.graph.layer(layer);
        let used = graph.steps()[steps].iter().find_map(|step| match step {
            Step::Ahead { tokens, .. } => Some(*tokens),
            _ => None,
        });
        let Some(distance) = used else { return Ok(None) };
        let mut further = tokens.to_vec();
        for Span { rows, .. } in spans {
            let span = &mut further[rows.clone()];
            span.rotate_left(distance % span.len().max(1));
        }
        let loader = self.loader();
        let (name, tensor) = match loader.has(Role::NextTokenEmbedding, layer) {
            true => loader.required(Role::NextTokenEmbedding, Some(layer))?,
            false => loader.embedding()?,
        };
        let embeddings = self.scaled_embeddings(&name, &tensor, &further)?;
        Ok(Some(self.backend.buffer(self.graph.hidden, &embeddings)?))
    }

    /// What the model has for each token in a layer, if some of its steps use that.
    ///
    /// Each token has a row with the numbers of all layers, and as many are made of its
    /// embedding. The latter are normed, and the mean of both, times the root of two, is what
    /// the layer gets (`project_per_layer_inputs` in transformers' modeling_gemma4.py).
    fn of_token(
        &self,
        (layer, steps): (LayerIndex, Range<usize>),
        tokens: &[u32],
        spans: &[Span],
    ) -> Result<Option<B::Buffer>, W::Error> {
        let graph = self.graph.layer(layer);
        let used = graph.steps()[steps].iter().find_map(|step| match step {
            Step::OfToken { to, epsilon } => Some((graph.width(*to), *epsilon)),
            _ => None,
        });
        let Some((width, epsilon)) = used else { return Ok(None) };
        let (backend, loader) = (self.backend, self.loader());
        let first = layer.0 as usize * width;
        let all = self.graph.layers.len() * width;

        let (name, tensor) = loader.required(Role::PerLayerEmbeddingProjection, None)?;
        loader.expect(&name, &tensor.shape, &[all, self.graph.hidden])?;
        let matrix = loader.rows(&name, &tensor, first as u64..(first + width) as u64)?;
        let embedded = self.embedded(tokens, spans)?;
        let made = backend.matmul(self.options.rounding, &embedded, &matrix)?;
        let weights = loader.vector(Role::PerLayerEmbeddingNorm, Part::Weight, None, width)?;
        // The products would be divided by the root of the embedding's width. A norm undoes
        // that, but for what is added in its root.
        let epsilon = epsilon * self.graph.hidden as f32;
        let made = backend.rms_norm(&made, &weights, 1, epsilon)?;

        let (name, tensor) = loader.required(Role::PerLayerEmbedding, None)?;
        let rows = usize::try_from(tensor.shape.rows()).unwrap_or(usize::MAX);
        loader.expect(&name, &tensor.shape, &[rows, all])?;
        let mut own = self.rows_of_tokens(&name, &tensor, tokens, first..first + width)?;
        let half = std::f32::consts::FRAC_1_SQRT_2;
        let scale = (width as f32).sqrt() * half;
        own.iter_mut().for_each(|number| *number *= scale);
        let mut sum = backend.buffer(width, &own)?;
        let weights = vec![half; tokens.len()];
        let load = ExpertLoad { tokens: (0..tokens.len()).collect(), weights };
        backend.scatter_add(&mut sum, &load, &made)?;
        Ok(Some(sum))
    }
}
