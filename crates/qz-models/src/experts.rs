//! The experts of a layer, found one tensor at a time.

use std::collections::{BTreeMap, HashMap};

use qz_tensor::TensorIndex;

use crate::rules::{ExpertIndex, LayerIndex, Rows, TensorRule};

/// The tensors of one layer that are to be stacked: by rule, then by expert.
/// `None` is one that is there and does not fit.
type LayerExperts = BTreeMap<usize, BTreeMap<ExpertIndex, Option<TensorIndex>>>;

/// The tensors of all layers that are to be stacked, as far as they were found.
/// Takes memory for what was found only, whatever the configuration promises.
pub(crate) struct FoundExperts {
    /// Experts of a layer.
    experts: u64,
    /// Rules that stack.
    rules: usize,
    layers: HashMap<LayerIndex, LayerExperts>,
}

impl FoundExperts {
    pub(crate) fn new(rules: &[TensorRule], experts: u64) -> Self {
        let stacks = |rule: &&TensorRule| rule.transform.rows == Rows::StackExperts;
        Self { experts, rules: rules.iter().filter(stacks).count(), layers: HashMap::new() }
    }

    /// Takes a tensor of the rule at `rule`. If it is the last of its layer, the
    /// layer's stacks are returned: rules with tensors in order of the experts.
    /// The reference writes all of them at this point (`LlamaModel.modify_tensors`
    /// in `conversion/llama.py`).
    pub(crate) fn add(
        &mut self,
        rule: usize,
        layer: LayerIndex,
        expert: ExpertIndex,
        tensor: TensorIndex,
    ) -> Option<Vec<(usize, Vec<TensorIndex>)>> {
        let found = self.layers.entry(layer).or_default();
        found.entry(rule).or_default().insert(expert, Some(tensor));
        let is_full = |stack: &BTreeMap<_, _>| stack.len() as u64 == self.experts;
        if found.len() < self.rules || !found.values().all(is_full) {
            return None;
        }
        let whole = |stack: &BTreeMap<ExpertIndex, Option<TensorIndex>>| -> Option<Vec<_>> {
            stack.values().copied().collect()
        };
        found.iter().map(|(rule, stack)| Some((*rule, whole(stack)?))).collect()
    }

    /// Notes a tensor that does not fit: it is not missing, but the stack never
    /// becomes whole.
    pub(crate) fn refuse(&mut self, rule: usize, layer: LayerIndex, expert: ExpertIndex) {
        let found = self.layers.entry(layer).or_default();
        found.entry(rule).or_default().insert(expert, None);
    }

    /// The experts of `layer` that the rule at `rule` has no tensor for.
    pub(crate) fn missing(
        &self,
        rule: usize,
        layer: LayerIndex,
    ) -> impl Iterator<Item = ExpertIndex> {
        let found = self.layers.get(&layer).and_then(|found| found.get(&rule));
        let experts = u32::try_from(self.experts).unwrap_or(u32::MAX);
        (0..experts)
            .map(ExpertIndex)
            .filter(move |expert| found.is_none_or(|found| !found.contains_key(expert)))
    }
}
