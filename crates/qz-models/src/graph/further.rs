//! Layers behind the last that only predict further tokens: what each of them makes of the hidden
//! states before it and of a token further on, and what it hands to the next.
//!
//! A layer joins both, normed: the embedding first, then the hidden states. What the family's
//! layers compute follows, then a norm, behind which the model's own output matrix stands.
//! So it is in llama.cpp's graphs (`graph_mtp` in `src/models/*.cpp`), in vLLM's
//! `deepseek_mtp.py`, `glm4_moe_mtp.py` and `qwen3_next_mtp.py`, and in SGLang's
//! `bailing_moe_nextn.py`.

use super::{HeadColumns, Keys, LayerBuilder, LayerGraph, NormKind, Otherwise, Register, Vector};
use crate::error::Error;
use crate::rules::Role;

/// What such layers are handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// Hidden states behind the norm that an output matrix reads through.
    Normed,
    /// Hidden states before it.
    Plain,
}

/// How such layers of a family are joined to the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Further {
    pub(super) norms: NormKind,
    pub(super) epsilon: f32,
    pub(super) handed: Handed,
}

impl Further {
    /// With norms that divide by the root mean square, behind the output's norm.
    pub(super) fn plain(epsilon: f32) -> Self {
        Self { norms: NormKind::RootMeanSquare, epsilon, handed: Handed::Normed }
    }

    /// A model's layers, and behind them those that predict further tokens. `block` adds what a
    /// layer of a number computes of its hidden states.
    pub(super) fn behind(
        &self,
        keys: &Keys<'_>,
        hidden: usize,
        block: impl Fn(usize, &mut LayerBuilder),
    ) -> Result<Vec<LayerGraph>, Error> {
        let first = keys.computed_layers()?;
        let layer = |number: usize| {
            let mut layer = LayerBuilder::new(hidden);
            match number.checked_sub(first) {
                None => block(number, &mut layer),
                Some(depth) => {
                    self.join(&mut layer, depth);
                    block(number, &mut layer);
                    if self.handed == Handed::Normed {
                        let norm = Vector::weight(Role::NextTokenOutputNorm, hidden);
                        let norm = norm.otherwise(Otherwise::Role(Role::OutputNorm));
                        layer.norm_hidden(self.norms, norm, self.epsilon);
                    }
                }
            }
            layer.finish()
        };
        Ok((0..keys.layers()?).map(layer).collect())
    }

    /// Makes a layer's hidden states of those before it and a token's embedding.
    fn join(&self, layer: &mut LayerBuilder, depth: usize) {
        let hidden = layer.hidden();
        if depth == 0 && self.handed == Handed::Normed {
            let norm = Vector::weight(Role::OutputNorm, hidden);
            layer.norm_hidden(self.norms, norm, self.epsilon);
        }
        let token = layer.ahead(depth + 1);
        let token = layer.norm_of(self.norms, token, Role::NextTokenEmbeddingNorm, self.epsilon);
        let state = Register::HIDDEN;
        let state = layer.norm_of(self.norms, state, Role::NextTokenHiddenNorm, self.epsilon);
        let part = |rows| HeadColumns { rows, size: hidden, columns: 0..hidden };
        let both = layer.join(1, vec![part(token), part(state)]);
        let joined = layer.product(both, Role::NextTokenProjection, hidden);
        layer.begin_with(joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing but the hidden states is there before a layer's own steps, so that what joins
    /// them is computed once.
    #[test]
    fn what_is_joined_is_where_a_layer_begins() {
        let stops = |depth, handed| {
            let mut layer = LayerBuilder::new(4);
            Further { handed, ..Further::plain(1e-5) }.join(&mut layer, depth);
            let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, 1e-5);
            let fed = layer.product(normed, Role::FeedForwardUp, 9);
            let fed = layer.product(fed, Role::FeedForwardDown, 4);
            layer.add(fed);
            let graph = layer.finish();
            assert!(graph.is_further());
            graph.stops().iter().map(|stop| (stop.base, stop.kept.len())).collect::<Vec<_>>()
        };
        assert_eq!(stops(0, Handed::Normed), [(1, 0), (7, 0), (7, 1)]);
        assert_eq!(stops(1, Handed::Normed), [(0, 0), (6, 0), (6, 1)]);
        assert_eq!(stops(0, Handed::Plain), [(0, 0), (6, 0), (6, 1)]);
    }
}
