//! Vectors of a layer, and what they stand for.

use super::VectorIndex;
use crate::rules::{Part, Role};

/// A vector of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vector {
    pub(crate) role: Role,
    pub(crate) part: Part,
    pub(crate) length: usize,
    /// Models with and without are both known.
    pub(crate) is_optional: bool,
    /// What a layer without one has.
    pub(crate) otherwise: Otherwise,
}

impl Vector {
    pub(crate) fn of(role: Role, part: Part, length: usize) -> Self {
        Self { role, part, length, is_optional: false, otherwise: Otherwise::Nothing }
    }

    pub(crate) fn weight(role: Role, length: usize) -> Self {
        Self::of(role, Part::Weight, length)
    }

    pub(crate) fn bias(role: Role, length: usize) -> Self {
        Self::of(role, Part::Bias, length)
    }

    pub(crate) fn optional(self) -> Self {
        Self { is_optional: true, ..self }
    }

    pub(crate) fn otherwise(self, otherwise: Otherwise) -> Self {
        Self { otherwise, ..self }
    }
}

/// What stands for a vector that a layer does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    Nothing,
    /// The first layer's.
    FirstLayer,
    /// The vector of another role.
    Role(Role),
}

/// What numbers are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Factor {
    Number(f32),
    /// The one number of a vector, if the model has it.
    Vector(VectorIndex),
}
