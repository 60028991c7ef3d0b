//! Names of tensors with the numbers of their layer and expert in them.

use std::fmt;

/// A decoder layer, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerIndex(pub u32);

impl fmt::Display for LayerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An expert of a layer, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExpertIndex(pub u32);

/// The numbers in a tensor's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameNumbers {
    /// Its layer.
    pub layer: Option<LayerIndex>,
    /// Its expert.
    pub expert: Option<ExpertIndex>,
}

/// A tensor name with at most one `{layer}` in it, and after that at most one
/// `{expert}`; without a layer that is the number of a matrix of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamePattern(pub &'static str);

const LAYER: &str = "{layer}";
const EXPERT: &str = "{expert}";

impl NamePattern {
    /// True if the name contains a layer number.
    pub fn has_layer(self) -> bool {
        self.0.contains(LAYER)
    }

    /// The name in `layer`; the number is left out if the pattern has none.
    pub fn name(self, layer: Option<LayerIndex>) -> String {
        match layer {
            Some(layer) => self.0.replacen(LAYER, &layer.to_string(), 1),
            None => self.0.to_owned(),
        }
    }

    /// The name of an expert's tensor in `layer`.
    pub fn name_of_expert(self, layer: Option<LayerIndex>, expert: ExpertIndex) -> String {
        self.name(layer).replacen(EXPERT, &expert.0.to_string(), 1)
    }

    /// If `name` fits, the numbers in it.
    pub fn matches(self, name: &str) -> Option<NameNumbers> {
        let Some((before, rest)) = self.0.split_once(LAYER) else {
            let Some((before, after)) = self.0.split_once(EXPERT) else {
                return (name == self.0).then(NameNumbers::default);
            };
            let number = name.strip_prefix(before)?.strip_suffix(after)?;
            let expert = Some(ExpertIndex(plain_number(number)?));
            return Some(NameNumbers { layer: None, expert });
        };
        let name = name.strip_prefix(before)?;
        let Some((between, after)) = rest.split_once(EXPERT) else {
            let layer = Some(LayerIndex(plain_number(name.strip_suffix(rest)?)?));
            return Some(NameNumbers { layer, expert: None });
        };
        let (layer, name) = name.split_once(between)?;
        let layer = Some(LayerIndex(plain_number(layer)?));
        let expert = Some(ExpertIndex(plain_number(name.strip_suffix(after)?)?));
        Some(NameNumbers { layer, expert })
    }
}

/// A plain decimal: `007` and `+7` are none.
fn plain_number(digits: &str) -> Option<u32> {
    let canonical = digits == "0" || !digits.starts_with('0');
    let is_number = canonical && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_both_ways() {
        let pattern = NamePattern("model.layers.{layer}.mlp.up_proj.weight");
        let check = |name: &str, expected: Option<u32>| {
            let found = pattern.matches(name).map(|numbers| (numbers.layer, numbers.expert));
            assert_eq!(found, expected.map(|n| (Some(LayerIndex(n)), None)), "{name}");
        };
        check("model.layers.0.mlp.up_proj.weight", Some(0));
        check("model.layers.41.mlp.up_proj.weight", Some(41));
        check("model.layers.04.mlp.up_proj.weight", None);
        check("model.layers.+4.mlp.up_proj.weight", None);
        check("model.layers..mlp.up_proj.weight", None);
        check("model.layers.4294967296.mlp.up_proj.weight", None);
        check("model.layers.4.mlp.up_proj.weight.scale", None);
        check("x.model.layers.4.mlp.up_proj.weight", None);
        assert_eq!(pattern.name(Some(LayerIndex(7))), "model.layers.7.mlp.up_proj.weight");
        let none = NameNumbers::default();
        assert_eq!(NamePattern("lm_head.weight").matches("lm_head.weight"), Some(none));
        assert_eq!(NamePattern("lm_head.weight").matches("lm_head.bias"), None);
    }

    #[test]
    fn names_of_experts_match_both_ways() {
        let pattern = NamePattern("model.layers.{layer}.experts.{expert}.w1.weight");
        let check = |name: &str, expected: Option<(u32, u32)>| {
            let found = pattern.matches(name).map(|numbers| (numbers.layer, numbers.expert));
            let expected = expected
                .map(|(layer, expert)| (Some(LayerIndex(layer)), Some(ExpertIndex(expert))));
            assert_eq!(found, expected, "{name}");
        };
        check("model.layers.3.experts.12.w1.weight", Some((3, 12)));
        check("model.layers.3.experts.012.w1.weight", None);
        check("model.layers.3.experts..w1.weight", None);
        check("model.layers.3.experts.1.experts.1.w1.weight", None);
        check("model.layers.3.experts.w1.weight", None);
        let name = pattern.name_of_expert(Some(LayerIndex(3)), ExpertIndex(12));
        assert_eq!(name, "model.layers.3.experts.12.w1.weight");
    }
}
