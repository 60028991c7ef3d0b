//! What products of a layer multiply: the groups that share inputs, the order in which a
//! layer computes them, and who hears of them.

use qz_kernels::backend::{Backend, ExpertLoad};

use crate::rules::{LayerIndex, Role};

/// Matrices of a decoder layer that multiply the same inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinearGroup {
    /// Queries, keys and values: the normed hidden states.
    QueryKeyValue,
    /// The attention's output matrix: what the heads attended to.
    AttentionOutput,
    /// Chooses experts: the normed hidden states.
    Router,
    /// Gate and up: the normed hidden states, with experts those that one was given.
    GateUp,
    /// Down: the gated product of gate and up.
    Down,
}

impl LinearGroup {
    /// All groups, in the order in which a layer computes them.
    pub const ALL: [Self; 5] =
        [Self::QueryKeyValue, Self::AttentionOutput, Self::Router, Self::GateUp, Self::Down];

    /// The matrices.
    pub fn roles(self) -> &'static [Role] {
        match self {
            Self::QueryKeyValue => {
                &[Role::AttentionQuery, Role::AttentionKey, Role::AttentionValue]
            }
            Self::AttentionOutput => &[Role::AttentionOutput],
            Self::Router => &[Role::ExpertRouter],
            Self::GateUp => &[Role::FeedForwardGate, Role::FeedForwardUp],
            Self::Down => &[Role::FeedForwardDown],
        }
    }

    /// The group of a matrix; none for tensors outside of layers, and norms.
    pub fn of(role: Role) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.roles().contains(&role))
    }

    /// When its inputs are known.
    pub fn stage(self) -> Stage {
        match self {
            Self::QueryKeyValue => Stage::QueryKeyValue,
            Self::AttentionOutput => Stage::AttentionOutput,
            Self::Router | Self::GateUp => Stage::FeedForward,
            Self::Down => Stage::Down,
        }
    }

    /// True if each expert has matrices of its own.
    pub fn is_per_expert(self) -> bool {
        matches!(self, Self::GateUp | Self::Down)
    }
}

/// A place inside of a layer where inputs of products are known, and depend on the
/// weights of the stages before it only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before queries, keys and values.
    QueryKeyValue,
    /// Before the attention's output matrix.
    AttentionOutput,
    /// Before the router, gate and up.
    FeedForward,
    /// Before down.
    Down,
}

impl Stage {
    /// In the order in which a layer computes them.
    pub const ALL: [Self; 4] =
        [Self::QueryKeyValue, Self::AttentionOutput, Self::FeedForward, Self::Down];
}

/// Which tokens' inputs of an expert are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Those that the router gave to it.
    #[default]
    Chosen,
    /// All tokens', whoever they were given to; what the layer computes stays the same.
    All,
}

/// Inputs of one group's products: some rows, one token each, in the text's order.
#[derive(Clone, Copy, Debug)]
pub struct LinearInputs<'a> {
    /// The layer.
    pub layer: LayerIndex,
    /// The matrices.
    pub group: LinearGroup,
    /// Whose matrices, where each expert has its own.
    pub expert: Option<usize>,
    /// Numbers of a row: columns of the matrices.
    pub width: usize,
    /// The rows, one behind the other.
    pub rows: &'a [f32],
    pub(super) first_token: usize,
    pub(super) load: Option<&'a ExpertLoad>,
}

impl LinearInputs<'_> {
    /// How many rows.
    pub fn count(&self) -> usize {
        self.rows.len() / self.width.max(1)
    }

    /// The token of a row, counted over all chunks.
    pub fn token(&self, row: usize) -> usize {
        self.first_token + self.load.map_or(row, |load| load.tokens[row])
    }

    /// The weight that the expert's answer for a row has; 1 without experts, 0 if the
    /// token was given to others ([`Routing::All`]).
    pub fn weight(&self, row: usize) -> f32 {
        self.load.map_or(1.0, |load| load.weights[row])
    }
}

/// Hears of inputs while a layer computes.
pub(super) trait Tap<B: Backend> {
    fn see(&mut self, group: LinearGroup, rows: &B::Buffer, expert: Option<(usize, &ExpertLoad)>);

    /// The last stage that is wanted; none if the layer's result is.
    fn last(&self) -> Option<Stage> {
        None
    }

    fn routing(&self) -> Routing {
        Routing::Chosen
    }
}

/// Hears nothing.
pub(super) struct Untapped;

impl<B: Backend> Tap<B> for Untapped {
    fn see(&mut self, _: LinearGroup, _: &B::Buffer, _: Option<(usize, &ExpertLoad)>) {}
}

/// Hears what another does, and wants no result.
pub(super) struct InputsOnly<'a, B: Backend>(pub(super) &'a mut dyn Tap<B>);

impl<B: Backend> Tap<B> for InputsOnly<'_, B> {
    fn see(&mut self, group: LinearGroup, rows: &B::Buffer, expert: Option<(usize, &ExpertLoad)>) {
        self.0.see(group, rows, expert);
    }

    fn last(&self) -> Option<Stage> {
        Some(self.0.last().unwrap_or(Stage::Down))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_in_the_order_of_their_stages() {
        assert!(LinearGroup::ALL.is_sorted_by_key(|group| group.stage()));
        for group in LinearGroup::ALL {
            assert!(group.roles().iter().all(|role| LinearGroup::of(*role) == Some(group)));
        }
        assert_eq!(LinearGroup::of(Role::OutputNorm), None);
    }
}
