//! The architectures, one file each.

mod apertus;
mod arcee;
mod bailing;
mod bert;
mod cohere;
mod cohere2_moe;
mod decoder;
mod deepseek2;
mod dots1;
mod ernie4_5;
mod ernie4_5_moe;
mod eurobert;
mod exaone;
mod exaone4;
mod exaone_moe;
mod experts;
mod falcon;
mod falcon_h1;
mod further;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma3n;
mod gemma4;
mod gemma_embedding;
mod glm4;
mod glm4moe;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod granite_hybrid;
mod hunyuan;
mod hunyuan_moe;
mod internlm;
mod jina_bert;
mod kimi_linear;
mod latent;
mod lfm2;
mod llama;
mod llama4;
mod mamba;
mod mamba2;
mod mimo2;
mod minicpm;
mod minicpm3;
mod minimax_m2;
mod mistral;
mod mistral3;
mod mixtral;
mod modern_bert;
mod nemotron;
mod nemotron_h;
mod nomic_bert;
mod olmo;
mod olmo2;
mod olmoe;
mod openelm;
mod partial;
mod phi2;
mod phi3;
mod phimoe;
mod pooling;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen35;
mod qwen3moe;
mod qwen_vl;
mod reranker;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
mod state_space;
mod t5;

use crate::architecture::Architecture;

/// Every architecture. Tests, messages and the command line walk this list.
pub static ARCHITECTURES: &[&dyn Architecture] = &[
    &llama::Llama,
    &llama4::Llama4,
    &mistral::Mistral,
    &mixtral::Mixtral,
    &qwen2::Qwen2,
    &qwen3::Qwen3,
    &gemma4::Gemma4,
    &gemma4::Gemma4Moe,
    &gemma3n::Gemma3n,
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
    &deepseek2::V3,
    &deepseek2::V2,
    &deepseek2::GLM_FLASH,
    &deepseek2::MISTRAL_4,
    &kimi_linear::KimiLinear,
    &mimo2::Mimo2,
    &dots1::Dots1,
    &glm4moe::Glm4Moe,
    &ernie4_5_moe::ErnieMoe,
    &granite::GraniteMoe,
    &hunyuan_moe::HunyuanMoe,
    &qwen_vl::Qwen3VlMoe,
    &exaone_moe::ExaoneMoe,
    &cohere2_moe::Cohere2Moe,
    &bailing::Bailing,
    &bailing::Bailing2,
    &olmoe::Olmoe,
    &phimoe::PhiMoe,
    &minimax_m2::MiniMaxM2,
    &lfm2::Lfm2,
    &lfm2::Lfm2Moe,
    &mamba::Mamba,
    &mamba::FalconMamba,
    &mamba2::Mamba2,
    &bert::Bert,
    &bert::Roberta,
    &bert::XlmRoberta,
    &jina_bert::JinaBert2,
    &jina_bert::JinaBert3,
    &modern_bert::ModernBert,
    &eurobert::EuroBert,
    &nomic_bert::PLAIN,
    &nomic_bert::MIXED,
    &t5::T5,
    &t5::T5Encoder,
    &gemma_embedding::GemmaEmbedding,
    &smollm3::SmolLm3,
    &seed_oss::SeedOss,
    &arcee::Arcee,
    &apertus::Apertus,
    &openelm::OpenElm,
    &falcon_h1::FalconH1,
    &granite_hybrid::GraniteAttention,
    &granite_hybrid::GraniteHybrid,
    &granite_hybrid::GraniteHybridMoe,
    &granite::Granite,
    &olmo2::Olmo2,
    &olmo2::Olmo3,
    &mistral3::Mistral3,
    &ernie4_5::Ernie,
    &exaone4::Exaone4,
    &exaone::Exaone,
    &internlm::InternLm2,
    &internlm::InternLm3,
    &minicpm::MiniCpm,
    &minicpm3::MiniCpm3,
    &glm4::Glm4,
    &hunyuan::Hunyuan,
    &qwen_vl::Qwen2Vl,
    &qwen_vl::Qwen3Vl,
    &cohere::CommandR,
    &cohere::Cohere2,
    &stablelm::StableLm,
    &nemotron::Nemotron,
    &nemotron_h::NemotronH,
    &nemotron_h::NemotronHMoe,
    &phi2::Phi2,
    &gpt_neox::GptNeoX,
    &gpt2::Gpt2,
    &gpt2::StarCoder,
    &starcoder2::StarCoder2,
    &falcon::Falcon,
    &olmo::Olmo,
];
