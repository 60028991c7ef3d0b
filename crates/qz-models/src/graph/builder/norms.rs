//! Norms of a layer.

use super::super::{NormKind, Register, Step, Vector};
use super::LayerBuilder;
use crate::rules::Role;

impl LayerBuilder {
    /// A norm of whole rows.
    pub(crate) fn norm(&mut self, from: Register, role: Role, epsilon: f32) -> Register {
        let width = self.widths[from.0];
        let weights = self.vector(role, width);
        let to = self.register(width, self.sources[from.0]);
        self.steps.push(Step::Norm { from, to, weights, groups: 1, epsilon });
        to
    }

    /// A norm of each head, if the model has one.
    pub(crate) fn head_norm(&mut self, rows: Register, role: Role, size: usize, epsilon: f32) {
        let vector = Vector::weight(role, size).optional();
        let weights = self.any_vector(vector);
        self.steps.push(Step::Norm { from: rows, to: rows, weights, groups: 1, epsilon });
    }

    /// A norm of so many parts of each row, if the model has one.
    pub(crate) fn group_norm(&mut self, rows: Register, role: Role, groups: usize, epsilon: f32) {
        let length = self.widths[rows.0];
        let vector = Vector::weight(role, length).optional();
        let weights = self.any_vector(vector);
        self.steps.push(Step::Norm { from: rows, to: rows, weights, groups, epsilon });
    }

    /// A norm of whole rows without weights, in their place.
    pub(crate) fn bare_norm(&mut self, rows: Register, epsilon: f32) {
        self.bare_head_norm(rows, self.widths[rows.0], epsilon);
    }

    /// The same of each head.
    pub(crate) fn bare_head_norm(&mut self, rows: Register, size: usize, epsilon: f32) {
        self.steps.push(Step::BareNorm { rows, size, epsilon });
    }

    /// Norms rows in their place: their mean is taken away, and a bias is added.
    pub(crate) fn layer_norm(&mut self, rows: Register, role: Role, epsilon: f32) {
        self.layer_norm_to(rows, rows, role, epsilon);
    }

    fn layer_norm_to(&mut self, from: Register, to: Register, role: Role, epsilon: f32) {
        let weights = Some(self.vector(role, self.widths[from.0]));
        let bias = self.bias(role, self.widths[from.0]);
        let is_optional = false;
        let groups = 1;
        self.steps.push(Step::LayerNorm { from, to, weights, bias, groups, epsilon, is_optional });
    }

    /// Norms so many parts of each row in their place, as [`Self::layer_norm`] does whole ones, if
    /// the model has the weights.
    pub(crate) fn group_layer_norm(
        &mut self,
        rows: Register,
        role: Role,
        groups: usize,
        epsilon: f32,
    ) {
        let length = self.widths[rows.0];
        let vector = Vector::weight(role, length).optional();
        let (weights, bias) = (Some(self.any_vector(vector)), self.bias(role, length));
        let (from, to, is_optional) = (rows, rows, true);
        self.steps.push(Step::LayerNorm { from, to, weights, bias, groups, epsilon, is_optional });
    }

    /// A norm of the hidden states in the place of what `to` holds, if the model has its
    /// weights.
    pub(crate) fn replace_by_layer_norm(&mut self, to: Register, role: Role, epsilon: f32) {
        let length = self.hidden();
        let vector = Vector::weight(role, length).optional();
        let weights = Some(self.any_vector(vector));
        let bias = self.bias(role, length);
        let (from, is_optional) = (Register::HIDDEN, true);
        let groups = 1;
        self.steps.push(Step::LayerNorm { from, to, weights, bias, groups, epsilon, is_optional });
    }

    /// A norm of the hidden states in their place.
    pub(crate) fn norm_hidden(&mut self, kind: NormKind, norm: Vector, epsilon: f32) {
        let (from, to, groups) = (Register::HIDDEN, Register::HIDDEN, 1);
        let (role, length) = (norm.role, norm.length);
        let step = match kind {
            NormKind::RootMeanSquare => {
                let weights = self.any_vector(norm);
                Step::Norm { from, to, weights, groups, epsilon }
            }
            NormKind::Layer | NormKind::Bare => {
                let weights = (kind == NormKind::Layer).then(|| self.any_vector(norm));
                let (bias, is_optional) = (self.bias(role, length), false);
                Step::LayerNorm { from, to, weights, bias, groups, epsilon, is_optional }
            }
        };
        self.steps.push(step);
    }

    /// A norm of whole rows, of either kind.
    pub(crate) fn norm_of(
        &mut self,
        kind: NormKind,
        from: Register,
        role: Role,
        epsilon: f32,
    ) -> Register {
        match kind {
            NormKind::RootMeanSquare => self.norm(from, role, epsilon),
            NormKind::Layer | NormKind::Bare => {
                let width = self.widths[from.0];
                let to = self.register(width, self.sources[from.0]);
                if kind == NormKind::Layer {
                    self.layer_norm_to(from, to, role, epsilon);
                } else {
                    let (weights, bias, is_optional) = (None, self.bias(role, width), false);
                    let groups = 1;
                    let step =
                        Step::LayerNorm { from, to, weights, bias, groups, epsilon, is_optional };
                    self.steps.push(step);
                }
                to
            }
        }
    }
}
