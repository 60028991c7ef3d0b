//! Checkpoints against the reference's output, and broken ones against the
//! errors they must give. Everything is in memory or under `tests/data`.

mod config_keys;
mod families;
mod graphs;
mod published;
mod reference;
mod refusals;
mod support;
