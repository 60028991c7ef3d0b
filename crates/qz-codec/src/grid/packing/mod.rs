//! Units to bytes and back. Where the bits go is each codec's own definition.

pub(super) mod k_quants;
pub(super) mod plain;
