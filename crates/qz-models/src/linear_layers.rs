//! Linear layers of models that nobody here knows: matrices by their names and shapes.

use qz_tensor::Shape;

/// Words in names of matrices that are looked up, weigh experts, or are no layer of a
/// decoder; engines leave them as they are.
const LEFT: &[&str] = &[
    "audio",
    "conv",
    "conv1d",
    "embed",
    "embedding",
    "embeddings",
    "gate",
    "head",
    "norm",
    "patch",
    "pos",
    "position",
    "projector",
    "rel",
    "router",
    "score",
    "vision",
    "visual",
    "wpe",
    "wte",
];

/// Modules whose last word is in [`LEFT`] and that are linear layers all the same.
const LINEAR: &[&str] = &["gate_proj", "gate_up_proj", "up_gate_proj"];

/// True for the weight of a linear layer.
pub fn is_linear_layer(name: &str, shape: &Shape) -> bool {
    let Some(module) = name.strip_suffix(".weight") else { return false };
    let is_matrix = shape.rank() == 2 && shape.dimensions().iter().all(|size| *size > 1);
    let parts: Vec<&str> = module.split('.').collect();
    let is_in_layer = parts.iter().any(|part| part.parse::<u32>().is_ok());
    let is_left =
        |part: &&str| !LINEAR.contains(part) && part.split('_').any(|word| LEFT.contains(&word));
    is_matrix && is_in_layer && !parts.iter().any(is_left)
}

/// What is multiplied with the same inputs as the layer of this name: queries, keys and
/// values of a module, or gate and up projection. Engines store them together.
pub fn fused_module(name: &str) -> Option<(&str, &'static str)> {
    let (parent, last) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    match last {
        "q_proj" | "k_proj" | "v_proj" => Some((parent, "qkv")),
        "gate_proj" | "up_proj" => Some((parent, "gate_up")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_layers_are_known_by_name_and_shape() {
        let check = |name: &str, shape: &[u64], expected: bool| {
            let shape = Shape::new(shape).expect("a shape");
            assert_eq!(is_linear_layer(name, &shape), expected, "{name}");
        };
        check("model.layers.0.self_attn.q_proj.weight", &[64, 64], true);
        check("model.layers.0.mlp.gate_proj.weight", &[96, 64], true);
        check("model.layers.0.mlp.experts.3.w1.weight", &[96, 64], true);
        check("transformer.h.0.attn.c_attn.weight", &[64, 192], true);
        check("model.layers.0.mlp.gate.weight", &[8, 64], false);
        check("model.layers.0.mlp.router.weight", &[8, 64], false);
        check("model.layers.0.mlp.shared_expert_gate.weight", &[1, 64], false);
        check("model.layers.0.input_layernorm.weight", &[64], false);
        check("model.layers.0.q_norm.weight", &[8, 64], false);
        check("model.layers.0.self_attn.q_proj.bias", &[64, 64], false);
        check("model.layers.0.mixer.conv1d.weight", &[64, 4], false);
        check("model.layers.0.experts.gate_up_proj.weight", &[4, 96, 64], false);
        check("model.embed_tokens.weight", &[300, 64], false);
        check("lm_head.weight", &[300, 64], false);
        check("visual.blocks.0.attn.qkv.weight", &[192, 64], false);
        check("score.0.weight", &[2, 64], false);
    }

    #[test]
    fn layers_with_the_same_inputs_are_one_group() {
        let of = |name| fused_module(name);
        assert_eq!(of("a.q_proj.weight"), of("a.v_proj.weight"));
        assert_ne!(of("a.q_proj.weight"), of("b.q_proj.weight"));
        assert_ne!(of("a.q_proj.weight"), of("a.up_proj.weight"));
        assert_eq!(of("a.down_proj.weight"), None);
    }
}
