//! Layers behind the last that only predict further tokens: what checkpoints call them, and
//! how many there are. Rules know them as layers like the others.

use crate::architecture::Architecture;
use crate::hyperparameters::ModelConfig;
use crate::rules::{Condition, LayerIndex};

/// How a layer's tensors begin.
const LAYERS: &str = "model.layers.";

/// What the tensors of such layers are called in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FurtherNames {
    /// As those of layers behind the last.
    Numbered,
    /// They lie in a module of their own, where layers are counted from 0.
    Module {
        /// How their names begin.
        prefix: &'static str,
        /// Of the first layer what stands beside it, and how rules spell it within it.
        beside: &'static [(&'static str, &'static str)],
    },
}

/// What only such layers have.
pub(crate) const FURTHER: Condition =
    Condition { key: "num_hidden_layers", holds: |config, layer| config.is_further(layer) };

impl FurtherNames {
    /// A name as rules have it; none if it is no such layer's.
    pub(crate) fn canonical(self, name: &str, layers: u32) -> Option<String> {
        let Self::Module { prefix, beside } = self else { return None };
        let bare = || name.strip_prefix("model.")?.strip_prefix(prefix);
        let name = name.strip_prefix(prefix).or_else(bare)?;
        if let Some((number, rest)) = name.strip_prefix("layers.").and_then(|n| n.split_once('.')) {
            let number = layers.checked_add(number.parse().ok()?)?;
            return Some(format!("{LAYERS}{number}.{rest}"));
        }
        let (from, to) = beside.iter().find(|(from, _)| name.starts_with(from))?;
        Some(format!("{LAYERS}{layers}.{to}{}", &name[from.len()..]))
    }

    /// The name in a checkpoint of one that rules have.
    pub(crate) fn stored(self, name: String, layers: u32) -> String {
        let Self::Module { prefix, beside } = self else { return name };
        let Some((number, rest)) = numbered(&name).filter(|(number, _)| *number >= layers) else {
            return name;
        };
        match beside.iter().find(|(_, to)| number == layers && rest.starts_with(to)) {
            Some((from, to)) => format!("{prefix}{from}{}", &rest[to.len()..]),
            None => format!("{prefix}layers.{}.{rest}", number - layers),
        }
    }
}

/// A layer's number and what is behind it in a tensor's name.
fn numbered(name: &str) -> Option<(u32, &str)> {
    let (number, rest) = name.strip_prefix(LAYERS)?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// How many such layers there are among these names, which are then as rules have them.
/// Those that are numbered count as far as the configuration knows them.
pub(crate) fn find(
    architecture: &dyn Architecture,
    config: &ModelConfig,
    names: &mut [String],
) -> u32 {
    let layers = config.layers;
    let mut most = architecture.further_layers(config);
    if let Some(own) = architecture.further_names() {
        for name in names.iter_mut() {
            if let Some(canonical) = own.canonical(name, layers) {
                let number = numbered(&canonical).map_or(layers, |(number, _)| number);
                most = most.max(number.saturating_sub(layers).saturating_add(1));
                *name = canonical;
            }
        }
    }
    let number = |name: &String| numbered(name).and_then(|(number, _)| number.checked_sub(layers));
    let found = names.iter().filter_map(number).filter(|number| *number < most).max();
    found.map_or(0, |number| number + 1)
}

/// True for a tensor of one of `count` such layers, as rules name it.
pub(crate) fn is_further(name: &str, layers: u32, count: u32) -> bool {
    let layer = numbered(name).and_then(|(number, _)| number.checked_sub(layers));
    layer.is_some_and(|layer| layer < count)
}

impl ModelConfig {
    /// All layers, those that only predict further tokens among them.
    pub fn all_layers(&self) -> u32 {
        self.layers.saturating_add(self.further)
    }

    /// True for a layer that only predicts further tokens.
    pub fn is_further(&self, layer: LayerIndex) -> bool {
        layer.0 >= self.layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let names = FurtherNames::Module {
            prefix: "mtp.",
            beside: &[("fc.", "eh_proj."), ("norm.", "shared_head.norm.")],
        };
        let check = |stored: &str, canonical: &str| {
            assert_eq!(names.canonical(stored, 4).as_deref(), Some(canonical));
            assert_eq!(names.stored(canonical.to_owned(), 4), stored);
        };
        check("mtp.fc.weight", "model.layers.4.eh_proj.weight");
        check("mtp.norm.weight", "model.layers.4.shared_head.norm.weight");
        check("mtp.layers.0.mlp.up_proj.weight", "model.layers.4.mlp.up_proj.weight");
        check("mtp.layers.1.mlp.up_proj.weight", "model.layers.5.mlp.up_proj.weight");
        assert_eq!(names.canonical("model.layers.4.mlp.up_proj.weight", 4), None);
        let main = "model.layers.3.mlp.up_proj.weight";
        assert_eq!(names.stored(main.to_owned(), 4), main);
        assert!(is_further("model.layers.4.eh_proj.weight", 4, 1));
        assert!(!is_further("model.layers.5.eh_proj.weight", 4, 1));
        assert!(!is_further(main, 4, 1));
    }
}
