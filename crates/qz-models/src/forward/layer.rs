//! One decoder layer: its weights on the backend, and what it makes of hidden states.

use qz_kernels::backend::{Attention, Backend, ExpertLoad, Rounding};
use qz_tensor::{DataType, Location};

use super::capture::{InputsOnly, LinearGroup, Routing, Stage, Tap, Untapped};
use super::chunks::Span;
use super::shape::DecoderShape;
use super::weights::{Linear, Loader, WeightSource};
use crate::error::Error;
use crate::rules::{LayerIndex, Part, Role};

/// A layer's weights.
pub(super) struct Layer<B: Backend> {
    pub(super) attention_norm: B::Buffer,
    pub(super) query: Linear<B>,
    pub(super) key: Linear<B>,
    pub(super) value: Linear<B>,
    pub(super) query_norm: Option<B::Buffer>,
    pub(super) key_norm: Option<B::Buffer>,
    pub(super) attention_output: Linear<B>,
    pub(super) feed_forward_norm: B::Buffer,
    pub(super) feed_forward: FeedForward<B>,
}

pub(super) enum FeedForward<B: Backend> {
    Dense(Gated<B>),
    Experts { router: Linear<B>, used: usize, experts: Vec<Gated<B>> },
}

/// The three matrices of a gated network.
pub(super) struct Gated<B: Backend> {
    pub(super) gate: Linear<B>,
    pub(super) up: Linear<B>,
    pub(super) down: Linear<B>,
}

impl<B: Backend> Layer<B> {
    pub(super) fn load<W: WeightSource>(
        loader: &Loader<'_, B, W>,
        layer: LayerIndex,
    ) -> Result<Self, W::Error> {
        let shape = loader.shape;
        let linear = |role| loader.linear(role, layer, shape.matrix(role));
        let norm = |role| loader.vector(role, Some(layer), shape.hidden);
        let head_norm =
            |role| loader.optional_vector(role, Part::Weight, Some(layer), shape.head_size);
        Ok(Self {
            attention_norm: norm(Role::AttentionNorm)?,
            query: linear(Role::AttentionQuery)?,
            key: linear(Role::AttentionKey)?,
            value: linear(Role::AttentionValue)?,
            query_norm: head_norm(Role::AttentionQueryNorm)?,
            key_norm: head_norm(Role::AttentionKeyNorm)?,
            attention_output: linear(Role::AttentionOutput)?,
            feed_forward_norm: norm(Role::FeedForwardNorm)?,
            feed_forward: FeedForward::load(loader, layer)?,
        })
    }
}

impl<B: Backend> FeedForward<B> {
    fn load<W: WeightSource>(
        loader: &Loader<'_, B, W>,
        layer: LayerIndex,
    ) -> Result<Self, W::Error> {
        let shape = loader.shape;
        let linear = |role| loader.linear(role, layer, shape.matrix(role));
        let Some((experts, used)) = shape.experts else {
            return Ok(Self::Dense(Gated {
                gate: linear(Role::FeedForwardGate)?,
                up: linear(Role::FeedForwardUp)?,
                down: linear(Role::FeedForwardDown)?,
            }));
        };
        let router = linear(Role::ExpertRouter)?;
        let load = |expert: usize| {
            let own = |role| loader.expert(role, layer, (expert, experts), shape.matrix(role));
            Ok(Gated {
                gate: own(Role::FeedForwardGate)?,
                up: own(Role::FeedForwardUp)?,
                down: own(Role::FeedForwardDown)?,
            })
        };
        let experts = (0..experts).map(load).collect::<Result<_, W::Error>>()?;
        Ok(Self::Experts { router, used, experts })
    }
}

/// What all layers share while a batch goes through them.
pub(super) struct Pass<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) shape: &'a DecoderShape,
    pub(super) rounding: Rounding,
    pub(super) cache_type: DataType,
    /// Cosines and sines of each row's position; past its end they begin again.
    pub(super) rotary: &'a B::Buffer,
    /// Which rows belong together, in order, from the first row on.
    pub(super) spans: &'a [Span],
    /// Where a tensor is, for messages.
    pub(super) locate: &'a dyn Fn(&str) -> Location,
}

impl<B: Backend> Pass<'_, B> {
    pub(super) fn attention(&self) -> Attention {
        let shape = self.shape;
        Attention {
            heads: shape.heads,
            key_value_heads: shape.key_value_heads,
            head_size: shape.head_size,
            scale: 1.0 / (shape.head_size as f32).sqrt(),
            window: shape.window,
        }
    }

    /// Room for a layer's keys and values of so many positions.
    pub(super) fn cache(&self, layer: &Layer<B>, capacity: usize) -> Result<B::Cache, Error> {
        let cache = self.backend.cache(&self.attention(), capacity, self.cache_type);
        cache.map_err(|source| Error::Backend { location: (self.locate)(&layer.key.name), source })
    }

    /// Puts all spans' tokens through a layer. `cache` has the keys and values of
    /// positions before the first span, and gets those of the spans.
    pub(super) fn run(
        &self,
        layer: &Layer<B>,
        cache: &mut B::Cache,
        hidden: &mut B::Buffer,
    ) -> Result<(), Error> {
        let tokens = self.spans.last().map_or(0, |span| span.rows.end);
        let normed = self.normed(hidden, &layer.attention_norm, tokens * self.shape.hidden);
        let attended = self.attend(layer, cache, tokens, &normed)?;
        self.backend.add(hidden, &self.product(&layer.attention_output, &attended, tokens)?);
        if let Some(fed) = self.feed(layer, tokens, hidden, &mut Untapped)? {
            self.backend.add(hidden, &fed);
        }
        Ok(())
    }

    /// What the feed-forward network makes of hidden states; nothing where the tap wants
    /// no result.
    pub(super) fn feed(
        &self,
        layer: &Layer<B>,
        tokens: usize,
        hidden: &B::Buffer,
        tap: &mut dyn Tap<B>,
    ) -> Result<Option<B::Buffer>, Error> {
        let normed = self.normed(hidden, &layer.feed_forward_norm, tokens * self.shape.hidden);
        match &layer.feed_forward {
            FeedForward::Dense(gated) => self.gated(gated, &normed, None, tokens, tap),
            FeedForward::Experts { router, used, experts } => {
                self.experts(router, *used, experts, &normed, tokens, tap)
            }
        }
    }

    pub(super) fn normed(
        &self,
        input: &B::Buffer,
        weights: &B::Buffer,
        elements: usize,
    ) -> B::Buffer {
        let mut out = self.backend.zeros(elements);
        self.backend.rms_norm(input, weights, self.shape.rms_epsilon, &mut out);
        out
    }

    /// A product with its bias; it is checked, because a number that overflowed here
    /// would be found nowhere else.
    pub(super) fn product(
        &self,
        linear: &Linear<B>,
        input: &B::Buffer,
        tokens: usize,
    ) -> Result<B::Buffer, Error> {
        let rows = self.backend.rows(&linear.matrix);
        let mut out = self.backend.zeros(tokens * rows);
        self.backend.matmul(self.rounding, input, &linear.matrix, &mut out);
        if let Some(bias) = &linear.bias {
            self.backend.add_bias(&mut out, bias);
        }
        match self.backend.first_non_finite(&out) {
            None => Ok(out),
            Some(position) => Err(Error::NonFiniteActivation {
                location: (self.locate)(&linear.name),
                token: position / rows,
            }),
        }
    }

    /// Queries or keys: normed for each head, if the model does that, and turned.
    fn turned(
        &self,
        linear: &Linear<B>,
        norm: Option<&B::Buffer>,
        (tokens, width): (usize, usize),
        normed: &B::Buffer,
    ) -> Result<B::Buffer, Error> {
        let mut rows = self.product(linear, normed, tokens)?;
        if let Some(norm) = norm {
            rows = self.normed(&rows, norm, tokens * width);
        }
        let (size, pairs) = (self.shape.head_size, self.shape.architecture.rotary_pairs());
        self.backend.rotate(&mut rows, width, size, pairs, self.rotary);
        Ok(rows)
    }

    pub(super) fn attend(
        &self,
        layer: &Layer<B>,
        cache: &mut B::Cache,
        tokens: usize,
        normed: &B::Buffer,
    ) -> Result<B::Buffer, Error> {
        let attention = self.attention();
        let (query_width, width) = (attention.query_width(), attention.key_value_width());
        let queries =
            self.turned(&layer.query, layer.query_norm.as_ref(), (tokens, query_width), normed)?;
        let keys = self.turned(&layer.key, layer.key_norm.as_ref(), (tokens, width), normed)?;
        let values = self.product(&layer.value, normed, tokens)?;
        let mut out = self.backend.zeros(tokens * attention.query_width());
        for Span { rows, position } in self.spans {
            self.backend.store(cache, *position, &keys, &values, rows.clone());
            self.backend.attend(&attention, cache, *position, &queries, rows.clone(), &mut out);
        }
        Ok(out)
    }

    /// The gated product of gate and up: what down multiplies.
    pub(super) fn gate_up(
        &self,
        gated: &Gated<B>,
        input: &B::Buffer,
        tokens: usize,
    ) -> Result<B::Buffer, Error> {
        let mut gate = self.product(&gated.gate, input, tokens)?;
        let up = self.product(&gated.up, input, tokens)?;
        self.backend.silu_times(&mut gate, &up);
        Ok(gate)
    }

    fn gated(
        &self,
        gated: &Gated<B>,
        input: &B::Buffer,
        expert: Option<(usize, &ExpertLoad)>,
        tokens: usize,
        tap: &mut dyn Tap<B>,
    ) -> Result<Option<B::Buffer>, Error> {
        tap.see(LinearGroup::GateUp, input, expert);
        if tap.last() == Some(Stage::FeedForward) {
            return Ok(None);
        }
        let gate = self.gate_up(gated, input, tokens)?;
        tap.see(LinearGroup::Down, &gate, expert);
        if tap.last() == Some(Stage::Down) {
            return Ok(None);
        }
        self.product(&gated.down, &gate, tokens).map(Some)
    }

    fn experts(
        &self,
        router: &Linear<B>,
        used: usize,
        experts: &[Gated<B>],
        input: &B::Buffer,
        tokens: usize,
        tap: &mut dyn Tap<B>,
    ) -> Result<Option<B::Buffer>, Error> {
        tap.see(LinearGroup::Router, input, None);
        let scores = self.product(router, input, tokens)?;
        let width = self.shape.hidden;
        let mut sum = self.backend.zeros(tokens * width);
        let loads = self.backend.route(&scores, experts.len(), used);
        for (number, (expert, load)) in experts.iter().zip(&loads).enumerate() {
            if tap.routing() == Routing::All {
                let everyone = self.everyone(load, tokens);
                let expert_load = Some((number, &everyone));
                self.gated(expert, input, expert_load, tokens, &mut InputsOnly(tap))?;
            }
            if load.tokens.is_empty() {
                continue;
            }
            let own = self.backend.gather(input, width, &load.tokens);
            let count = load.tokens.len();
            let answer = match (tap.routing(), tap.last()) {
                (Routing::Chosen, _) => self.gated(expert, &own, Some((number, load)), count, tap),
                (Routing::All, None) => self.gated(expert, &own, None, count, &mut Untapped),
                (Routing::All, Some(_)) => Ok(None),
            };
            let answer = answer.map_err(|error| error.of_token(|own| load.tokens[own]))?;
            if let Some(answer) = answer {
                self.backend.scatter_add(&mut sum, width, load, &answer);
            }
        }
        Ok(tap.last().is_none().then_some(sum))
    }

    /// All tokens of a batch; those that were given to others have no weight.
    fn everyone(&self, load: &ExpertLoad, tokens: usize) -> ExpertLoad {
        let mut weights = vec![0.0; tokens];
        for (token, weight) in load.tokens.iter().zip(&load.weights) {
            weights[*token] = *weight;
        }
        ExpertLoad { tokens: (0..tokens).collect(), weights }
    }
}
