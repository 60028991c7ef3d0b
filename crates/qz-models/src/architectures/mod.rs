//! The architectures, one file each.

mod bert;
mod decoder;
mod deepseek2;
mod dots1;
mod experts;
mod further;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt_oss;
mod lfm2;
mod llama;
mod mamba;
mod mamba2;
mod minimax_m2;
mod mistral;
mod mixtral;
mod olmoe;
mod partial;
mod phi3;
mod pooling;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen35;
mod qwen3moe;
mod reranker;

use crate::architecture::Architecture;

/// Every architecture. Tests, messages and the command line walk this list.
pub static ARCHITECTURES: &[&dyn Architecture] = &[
    &llama::Llama,
    &mistral::Mistral,
    &mixtral::Mixtral,
    &qwen2::Qwen2,
    &qwen3::Qwen3,
    &gemma3::Gemma3,
    &gemma2::Gemma2,
    &gemma::Gemma,
    &phi3::Phi3,
    &qwen3moe::Qwen3Moe,
    &qwen2moe::Qwen2Moe,
    &qwen35::Qwen35,
    &qwen35::Qwen35Moe,
    &qwen35::Qwen3Next,
    &gpt_oss::GptOss,
    &deepseek2::DeepseekV3,
    &deepseek2::DeepseekV2,
    &dots1::Dots1,
    &olmoe::Olmoe,
    &minimax_m2::MiniMaxM2,
    &lfm2::Lfm2,
    &lfm2::Lfm2Moe,
    &mamba::Mamba,
    &mamba::FalconMamba,
    &mamba2::Mamba2,
    &bert::Bert,
];
