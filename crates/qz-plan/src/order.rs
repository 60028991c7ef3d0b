//! The order of tensors in a quantized file.

use std::cmp::Ordering;

/// Tensors outside the layers first, then layer by layer, each by name: the
/// order llama-quantize writes (`llama_model_loader::weight_name_comparer`).
/// The mixtures count tensors in this order, so it decides their types too.
pub fn layer_then_name(a: &str, b: &str) -> Ordering {
    layer_of(a).cmp(&layer_of(b)).then_with(|| a.cmp(b))
}

/// The number in `blk.N.`; `None`, which sorts first, without one.
pub(crate) fn layer_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_numbers() {
        let mut names =
            ["blk.10.attn_q.weight", "token_embd.weight", "blk.2.b", "blk.2.a", "output.weight"];
        names.sort_by(|a, b| layer_then_name(a, b));
        assert_eq!(
            names,
            ["output.weight", "token_embd.weight", "blk.2.a", "blk.2.b", "blk.10.attn_q.weight"]
        );
    }
}
