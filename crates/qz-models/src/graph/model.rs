//! A model's graph: its layers, and what is before and behind them.

use super::{LayerGraph, NormKind, Rotary, Step};
use crate::rules::LayerIndex;

/// What a model computes.
#[derive(Clone, Debug)]
pub struct ModelGraph {
    /// Width of the hidden states.
    pub hidden: usize,
    /// The layers; those that only predict further tokens come last.
    pub layers: Vec<LayerGraph>,
    pub(crate) rotaries: Vec<Rotary>,
    pub(crate) around: Around,
}

/// What is before and behind the layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Around {
    /// What embeddings are multiplied with.
    pub(crate) embedding_scale: Option<f32>,
    /// Each position has a vector that is added to the token's.
    pub(crate) adds_positions: bool,
    /// The vector of a text's first kind of token is added to all of them.
    pub(crate) adds_kind: bool,
    /// Epsilon of the norm of what the layers begin with, if there is one.
    pub(crate) first_epsilon: Option<f32>,
    /// Epsilon of the norm behind the layers, if there is one.
    pub(crate) epsilon: Option<f32>,
    /// An output matrix makes logits of what comes of that; an encoder has none.
    pub(crate) predicts: bool,
    /// That norm.
    pub(crate) norm: NormKind,
    /// What logits are multiplied with.
    pub(crate) logit_scale: Option<f32>,
    /// Logits come near it, and no further.
    pub(crate) logit_cap: Option<f32>,
}

impl Around {
    /// A norm and an output matrix.
    pub(crate) fn plain(epsilon: f32) -> Self {
        Self {
            embedding_scale: None,
            adds_positions: false,
            adds_kind: false,
            first_epsilon: None,
            epsilon: Some(epsilon),
            predicts: true,
            norm: NormKind::RootMeanSquare,
            logit_scale: None,
            logit_cap: None,
        }
    }
}

impl ModelGraph {
    /// Numbers of a row of each slot.
    pub(crate) fn slots(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for layer in &self.layers {
            for step in layer.steps() {
                if let Step::Leave { rows, slot } = step {
                    widths.resize(widths.len().max(slot.0 + 1), 0);
                    widths[slot.0] = layer.width(*rows);
                }
            }
        }
        widths
    }

    /// Whether it ends in logits; an encoder ends in hidden states.
    pub fn predicts_tokens(&self) -> bool {
        self.around.predicts
    }

    /// How many layers, those that only predict further tokens among them.
    pub fn layer_count(&self) -> u32 {
        u32::try_from(self.layers.len()).unwrap_or(u32::MAX)
    }

    /// How many layers there are before the output.
    pub fn layers_to_output(&self) -> u32 {
        let further = self.layers.iter().filter(|layer| layer.is_further()).count();
        u32::try_from(self.layers.len() - further).unwrap_or(u32::MAX)
    }

    /// The same with no more than so many layers that only predict further tokens.
    pub(crate) fn with_further(mut self, most: usize) -> Self {
        let before = self.layers_to_output() as usize;
        self.layers.truncate(before + most);
        self
    }

    /// A layer.
    pub fn layer(&self, layer: LayerIndex) -> &LayerGraph {
        &self.layers[layer.0 as usize]
    }
}
