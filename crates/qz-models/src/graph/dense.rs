//! Decoders and encoders with attention and a network in each layer, and what families decide
//! about these.

use qz_kernels::backend::{Activation, RotaryPairs, Router};

use super::decoder::{self, SelfAttention, Sizes};
use super::{
    Around, ExpertForm, ExpertKind, Keys, LayerBuilder, LayerGraph, ModelGraph, NormKind, Register,
    Rotary,
};
use crate::error::Error;
use crate::rules::Role;

/// Where norms stand, and what attention and network read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wiring {
    /// A norm before each.
    Before,
    /// A norm before and behind each.
    Around,
    /// A norm behind each.
    Behind,
    /// One norm before both, which read the same.
    Beside,
    /// The same; attention has a norm of its own if the model has its weights.
    BesidePossiblyApart,
    /// A norm before each; both read the layer's input.
    BesideApart,
    /// A norm of the sum of each and its input.
    OfSums,
    /// A norm before the network alone.
    BeforeNetwork,
}

/// The network of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Network {
    /// A gate times up.
    Gated(Activation),
    /// The same, both products of one matrix.
    GatedTogether(Activation),
    /// No gate.
    Plain(Activation),
    /// Experts without gates.
    PlainExperts(Router, Activation),
}

/// What a family's layers have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dense {
    pub(super) sizes: Sizes,
    pub(super) norms: NormKind,
    pub(super) wiring: Wiring,
    pub(super) network: Network,
    /// How many times what attention and network give is added.
    pub(super) residual: f32,
}

impl Dense {
    /// Llama's layers.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, Error> {
        Self::with_norms(keys, NormKind::RootMeanSquare)
    }

    /// The same with norms of another kind.
    pub(super) fn with_norms(keys: &Keys<'_>, norms: NormKind) -> Result<Self, Error> {
        Ok(Self {
            sizes: Sizes::read_with(keys, norms)?,
            norms,
            wiring: Wiring::Before,
            network: Network::Gated(Activation::Silu),
            residual: 1.0,
        })
    }

    /// Attention whose queries and keys turn by the model's first rotary embedding.
    pub(super) fn attention(
        &self,
        keys: &Keys<'_>,
        pairs: RotaryPairs,
    ) -> Result<SelfAttention, Error> {
        let rotation = self.sizes.rotation(self.sizes.rotated(keys)?, pairs);
        Ok(SelfAttention { rotary: Some((0, rotation)), ..SelfAttention::plain(&self.sizes) })
    }

    /// The model's rotary embedding.
    pub(super) fn rotary(&self, keys: &Keys<'_>) -> Result<Rotary, Error> {
        Rotary::read(keys, self.sizes.rotated(keys)?)
    }

    /// A model whose layers are all alike.
    pub(super) fn alike(
        &self,
        attention: &SelfAttention,
        rotaries: Vec<Rotary>,
        around: Around,
    ) -> ModelGraph {
        self.model(|_| *attention, rotaries, around)
    }

    /// A model of these layers, with the attention of each.
    pub(super) fn model(
        &self,
        attention: impl Fn(usize) -> SelfAttention,
        rotaries: Vec<Rotary>,
        around: Around,
    ) -> ModelGraph {
        let layers = (0..self.sizes.layers).map(|layer| self.layer(&attention(layer))).collect();
        let around = Around { norm: self.norms, ..around };
        ModelGraph { hidden: self.sizes.hidden, layers, rotaries, around }
    }

    /// What is before and behind the layers: a norm, and no more.
    pub(super) fn around(&self) -> Around {
        Around::plain(self.sizes.epsilon)
    }

    /// A layer.
    pub(super) fn layer(&self, attention: &SelfAttention) -> LayerGraph {
        let Self { sizes, residual, .. } = *self;
        let mut layer = LayerBuilder::new(sizes.hidden);
        let hidden = Register::HIDDEN;
        match self.wiring {
            Wiring::Before | Wiring::Around | Wiring::Behind | Wiring::BeforeNetwork => {
                let input = match self.wiring {
                    Wiring::Behind | Wiring::BeforeNetwork => hidden,
                    _ => self.norm(&mut layer, hidden, Role::AttentionNorm),
                };
                let has_norms_behind = matches!(self.wiring, Wiring::Around | Wiring::Behind);
                let mut attended = attention.add_to(&mut layer, input);
                if has_norms_behind {
                    attended = self.norm(&mut layer, attended, Role::PostAttentionNorm);
                }
                layer.add_times(attended, residual);
                let input = match self.wiring {
                    Wiring::Behind => hidden,
                    _ => self.norm(&mut layer, hidden, Role::FeedForwardNorm),
                };
                let mut fed = self.feed(&mut layer, input);
                if has_norms_behind {
                    fed = self.norm(&mut layer, fed, Role::PostFeedForwardNorm);
                }
                layer.add_times(fed, residual);
            }
            Wiring::OfSums => {
                let attended = attention.add_to(&mut layer, hidden);
                layer.add_times(attended, residual);
                layer.layer_norm(hidden, Role::AttentionSumNorm, sizes.epsilon);
                let fed = self.feed(&mut layer, hidden);
                layer.add_times(fed, residual);
                layer.layer_norm(hidden, Role::FeedForwardSumNorm, sizes.epsilon);
            }
            Wiring::Beside | Wiring::BesidePossiblyApart | Wiring::BesideApart => {
                let normed = self.norm(&mut layer, hidden, Role::AttentionNorm);
                let mut input = normed;
                if self.wiring == Wiring::BesidePossiblyApart {
                    input = layer.columns(normed, 0..sizes.hidden);
                    layer.replace_by_layer_norm(input, Role::AttentionOwnNorm, sizes.epsilon);
                }
                let attended = attention.add_to(&mut layer, input);
                let input = match self.wiring {
                    Wiring::BesideApart => self.norm(&mut layer, hidden, Role::FeedForwardNorm),
                    _ => normed,
                };
                let fed = self.feed(&mut layer, input);
                layer.add_times(attended, residual);
                layer.add_times(fed, residual);
            }
        }
        layer.finish()
    }

    fn norm(&self, layer: &mut LayerBuilder, from: Register, role: Role) -> Register {
        layer.norm_of(self.norms, from, role, self.sizes.epsilon)
    }

    /// The products of the network's last matrix.
    fn feed(&self, layer: &mut LayerBuilder, input: Register) -> Register {
        let width = self.sizes.intermediate;
        let rows = match self.network {
            Network::Gated(activation) => {
                return decoder::gated(layer, input, width, activation);
            }
            Network::GatedTogether(activation) => {
                let both = layer.product(input, Role::FeedForwardGateUp, 2 * width);
                let gate = layer.columns(both, 0..width);
                let up = layer.columns(both, width..2 * width);
                layer.activate(activation, gate, up);
                gate
            }
            Network::PlainExperts(routing, activation) => {
                let form = ExpertForm::Plain;
                let kind = ExpertKind { routing, bias: None, scale: None, width, activation, form };
                return layer.experts_of(input, input, kind);
            }
            Network::Plain(activation) => {
                let rows = layer.product(input, Role::FeedForwardUp, width);
                layer.activate_alone(activation, rows);
                rows
            }
        };
        layer.product(rows, Role::FeedForwardDown, layer.hidden())
    }
}
