//! The architectures, one file each.

mod decoder;
mod llama;
mod mistral;
mod mixtral;
mod pooling;
mod qwen2;
mod qwen3;
mod reranker;

use crate::architecture::Architecture;

/// Every architecture. Tests, messages and the command line walk this list.
pub static ARCHITECTURES: &[&dyn Architecture] =
    &[&llama::Llama, &mistral::Mistral, &mixtral::Mixtral, &qwen2::Qwen2, &qwen3::Qwen3];
