//! One file per way to store the scales of a unit.

pub(super) mod codebook;
pub(super) mod codebooks;
pub(super) mod float_scaled;
pub(super) mod floats;
pub(super) mod integer;
pub(super) mod iq1;
pub(super) mod k_quants;
pub(super) mod plain;
mod sub_scaled;
mod three_levels;
