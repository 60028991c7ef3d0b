//! What a tensor's GGUF name says about how sensitive it is.

use qz_tensor::{DataType, Shape};

/// The classes of tensors that the mixtures tell apart
/// (llama-quant.cpp, `tensor_category`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TensorCategory {
    /// The output matrix.
    Output,
    /// The token embedding.
    TokenEmbedding,
    /// Values, or a matrix that contains them (fused q/k/v, latent k/v).
    AttentionValue,
    /// Keys.
    AttentionKey,
    /// Queries.
    AttentionQuery,
    /// The projection after attention.
    AttentionOutput,
    /// The feed-forward network's up projection, experts included.
    FeedForwardUp,
    /// Its gate.
    FeedForwardGate,
    /// Its down projection.
    FeedForwardDown,
    /// Anything else.
    Other,
}

/// Substrings in the order in which they decide. `attn_qkv` and `attn_kv_b`
/// count as values; they stand first because a name could contain both.
const BY_SUBSTRING: &[(&str, TensorCategory)] = &[
    ("attn_qkv.weight", TensorCategory::AttentionValue),
    ("attn_kv_b.weight", TensorCategory::AttentionValue),
    ("attn_v.weight", TensorCategory::AttentionValue),
    ("attn_k.weight", TensorCategory::AttentionKey),
    ("attn_q.weight", TensorCategory::AttentionQuery),
    ("attn_output.weight", TensorCategory::AttentionOutput),
    ("ffn_up", TensorCategory::FeedForwardUp),
    ("ffn_gate", TensorCategory::FeedForwardGate),
    ("ffn_down", TensorCategory::FeedForwardDown),
];

impl TensorCategory {
    /// The category of the tensor that GGUF calls `name`.
    pub fn of(name: &str) -> Self {
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Self::TokenEmbedding,
            _ => BY_SUBSTRING
                .iter()
                .find(|(part, _)| name.contains(part))
                .map_or(Self::Other, |(_, category)| *category),
        }
    }

    /// What GGUF names have in common in this category, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::TokenEmbedding => "token_embd",
            Self::AttentionValue => "attn_v",
            Self::AttentionKey => "attn_k",
            Self::AttentionQuery => "attn_q",
            Self::AttentionOutput => "attn_output",
            Self::FeedForwardUp => "ffn_up",
            Self::FeedForwardGate => "ffn_gate",
            Self::FeedForwardDown => "ffn_down",
            Self::Other => "other",
        }
    }
}

/// Names that stay in their source's precision although they are matrices: they
/// are small, or a small error in them is a large one in the result
/// (llama-quant.cpp, `tensor_allows_quantization`).
const NEVER_QUANTIZED: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// Full names of BERT's position and token type embeddings.
const NEVER_QUANTIZED_EXACT: &[&str] = &["position_embd.weight", "token_types.weight"];

/// What one architecture adds to [`NEVER_QUANTIZED`].
const NEVER_QUANTIZED_IN: &[(&str, &[&str])] = &[(
    "glm5-next",
    &[
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ],
)];

/// Names that one architecture keeps at Q8_0 whatever the file type's rules say.
const ALWAYS_EIGHT_BITS_IN: &[(&str, &[&str])] =
    &[("glm5-next", &["attn_q_a", "attn_q_b", "nextn.eh_proj"])];

/// True if a file type may change this tensor's element type.
pub fn is_quantizable(architecture: &str, name: &str, shape: &Shape) -> bool {
    // Trailing dimensions of one do not make a matrix (`ggml_n_dims`).
    let outer = shape.dimensions().iter().rev().skip(1).any(|dimension| *dimension != 1);
    outer
        && name.ends_with("weight")
        && !NEVER_QUANTIZED_EXACT.contains(&name)
        && !NEVER_QUANTIZED.iter().any(|part| name.contains(part))
        && !contains_part_of(NEVER_QUANTIZED_IN, architecture, name)
}

/// Those of [`NEVER_QUANTIZED`] that the reference's converter gives the file's type
/// (`prepare_tensors` in `conversion/base.py`).
const CONVERTED: &[&str] = &[
    "laurel",
    "per_layer_model_proj",
    "altup_proj",
    "altup_unembd_proj",
    "altup_router",
    "attn_rel_b",
];

/// True if the tensor has the file's type where a checkpoint is converted to it, although
/// a mixture of types leaves it as it is.
pub(crate) fn is_converted(name: &str) -> bool {
    name.ends_with(".weight")
        && !name.ends_with("_norm.weight")
        && CONVERTED.iter().any(|part| name.contains(part))
}

/// True if `--generic` may change the tensor's element type, besides what
/// [`is_quantizable`] says: it holds numbers that were learned, not indices or
/// counts, and enough of them.
pub(crate) fn is_worth_quantizing(source_type: DataType, shape: &Shape) -> bool {
    /// Below this a smaller type saves next to nothing.
    const FEWEST_WEIGHTS: u64 = 1024;
    const PLAIN: &[DataType] = &[DataType::F32, DataType::F16, DataType::BF16];
    (source_type.is_block() || PLAIN.contains(&source_type)) && shape.elements() >= FEWEST_WEIGHTS
}

/// True if the rules of every file type leave this tensor at Q8_0.
pub(crate) fn is_always_eight_bits(architecture: &str, name: &str) -> bool {
    contains_part_of(ALWAYS_EIGHT_BITS_IN, architecture, name)
}

fn contains_part_of(table: &[(&str, &[&str])], architecture: &str, name: &str) -> bool {
    let own = table.iter().filter(|(known, _)| *known == architecture);
    own.flat_map(|(_, parts)| *parts).any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories() {
        let check = |name: &str, expected| assert_eq!(TensorCategory::of(name), expected, "{name}");
        check("output.weight", TensorCategory::Output);
        check("token_embd.weight", TensorCategory::TokenEmbedding);
        check("blk.3.attn_v.weight", TensorCategory::AttentionValue);
        check("blk.3.attn_qkv.weight", TensorCategory::AttentionValue);
        check("blk.3.attn_k.weight", TensorCategory::AttentionKey);
        check("blk.3.attn_output.weight", TensorCategory::AttentionOutput);
        check("blk.3.ffn_down_exps.weight", TensorCategory::FeedForwardDown);
        check("blk.3.attn_v.bias", TensorCategory::Other);
        check("output_norm.weight", TensorCategory::Other);
    }

    #[test]
    fn quantizable() {
        let check = |name: &str, dimensions: &[u64], expected: bool| {
            let shape = Shape::new(dimensions).expect("fits");
            assert_eq!(is_quantizable("llama", name, &shape), expected, "{name} {shape}");
        };
        check("blk.0.attn_q.weight", &[256, 256], true);
        check("blk.0.ffn_up_exps.weight", &[8, 256, 256], true);
        check("blk.0.attn_q.bias", &[256], false);
        check("blk.0.attn_norm.weight", &[256], false);
        check("blk.0.attn_q_norm.weight", &[4, 64], false);
        check("blk.0.ffn_gate_inp.weight", &[8, 256], false);
        check("rope_freqs.weight", &[32], false);
        check("token_embd.weight", &[1, 256], false);
    }

    #[test]
    fn worth_quantizing() {
        let check = |data_type, dimensions: &[u64], expected: bool| {
            let shape = Shape::new(dimensions).expect("fits");
            assert_eq!(is_worth_quantizing(data_type, &shape), expected, "{data_type} {shape}");
        };
        check(DataType::BF16, &[32, 32], true);
        check(DataType::Q8_0, &[32, 32], true);
        check(DataType::F32, &[31, 32], false);
        check(DataType::I32, &[320, 320], false);
        check(DataType::F64, &[320, 320], false);
    }

    #[test]
    fn architectures_add_their_own() {
        let shape = Shape::new([256, 256]).expect("fits");
        let name = "blk.0.indexer.proj.weight";
        assert!(is_quantizable("llama", name, &shape));
        assert!(!is_quantizable("glm5-next", name, &shape));
        assert!(is_always_eight_bits("glm5-next", "blk.0.attn_q_a.weight"));
        assert!(!is_always_eight_bits("deepseek2", "blk.0.attn_q_a.weight"));
    }
}
