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
    /// A layer without one has the first layer's.
    pub(crate) is_of_first: bool,
}

impl Vector {
    pub(crate) fn of(role: Role, part: Part, length: usize) -> Self {
        Self { role, part, length, is_optional: false, is_of_first: false }
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

    pub(crate) fn of_first(self) -> Self {
        Self { is_of_first: true, ..self }
    }
}

/// What numbers are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Factor {
    Number(f32),
    /// The one number of a vector, if the model has it.
    Vector(VectorIndex),
}
