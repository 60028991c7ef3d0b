//! A checkpoint's tensors, matched with the rules of its family.

use std::collections::HashSet;

use qz_tensor::{TensorIndex, TensorInfo};

use super::take::Stored;
use super::{Precision, ProjectorConfig, ProjectorFamily, ProjectorRule, TowerKind};
use crate::checkpoint::reference_order;
use crate::error::{Error, TensorFault, TensorFaults};
use crate::recipe::{TensorOrigin, TensorRecipe};
use crate::role::{Part, Role};
use crate::rules::{LayerIndex, NameNumbers};

/// Tensors that were matched with a family's rules.
pub(super) struct Matched {
    pub(super) tensors: Vec<(TensorRecipe, Precision)>,
    pub(super) ignored: Vec<String>,
}

impl Matched {
    pub(super) fn of(
        family: &ProjectorFamily,
        config: &ProjectorConfig,
        tensors: &[TensorInfo],
    ) -> Result<Self, Error> {
        let mut matched = Self { tensors: Vec::new(), ignored: Vec::new() };
        let (mut faults, mut seen) = (Vec::new(), HashSet::new());
        for position in reference_order(tensors) {
            let info = &tensors[position];
            let Some(own) = family.own_name(&info.name) else {
                matched.ignored.push(info.name.to_string());
                continue;
            };
            let found = matched.take(family, config, &own, (TensorIndex(position), info))?;
            let name = info.name.to_string();
            if found == 0 {
                let shape = info.shape.clone();
                faults.push(TensorFault::Unknown { name, shape, reason: None });
            } else if !seen.insert(own) {
                faults.push(TensorFault::Duplicate { name });
            }
        }
        if !faults.is_empty() {
            let total = faults.len() as u64;
            return Err(Error::Tensors(Box::new(TensorFaults {
                config: config.model.path().to_owned(),
                architecture: "clip",
                faults,
                total,
            })));
        }
        matched.refuse_other_sizes(family, config)?;
        matched.refuse_missing(family, config)?;
        Ok(matched)
    }

    /// Takes what a tensor becomes: how many tensors of the file.
    fn take(
        &mut self,
        family: &ProjectorFamily,
        config: &ProjectorConfig,
        own: &str,
        (index, info): (TensorIndex, &TensorInfo),
    ) -> Result<usize, Error> {
        let mut found = 0;
        for rule in family.rules {
            let Some(numbers) = rule.source.matches(own) else { continue };
            let tower = rule.tower();
            let fault = |key: &str, problem: String| config.part(tower).fault(key, problem);
            if !config.has(tower) {
                let problem = format!("is missing, and there is {}", info.name);
                return Err(config.model.fault(tower.config_key(), problem));
            }
            let layer = numbers.layer.map(|layer| (family.layer_of)(config, &rule.source, layer));
            let layer = layer.transpose()?;
            let layers = config.layers(tower)?;
            if layer.is_some_and(|layer| u64::from(layer.0) >= layers) {
                let key = config.key_of_layers(tower);
                return Err(fault(key, format!("is {layers}, and there is {}", info.name)));
            }
            found += 1;
            let stored = Stored { index, shape: &info.shape };
            if rule.is_row_end() && config.row_end.is_none() {
                continue;
            }
            let Some((shape, map)) = rule.take.of(&stored, config)? else {
                let problem = format!("{} has the shape {}", info.name, info.shape);
                return Err(config.model.fault(tower.config_key(), problem));
            };
            let name = rule.name(NameNumbers { layer, ..numbers });
            let precision = rule.precision_of(&name, shape.rank());
            let recipe = TensorRecipe {
                name,
                // Nothing asks what it does: it is written, and never computed.
                role: Role::Projector,
                part: Part::Weight,
                layer,
                shape,
                origin: TensorOrigin::Mapped(map),
            };
            self.tensors.push((recipe, precision));
        }
        Ok(found)
    }

    /// The error that the checkpoint lacks tensors.
    fn refuse_missing(
        &self,
        family: &ProjectorFamily,
        config: &ProjectorConfig,
    ) -> Result<(), Error> {
        let names: HashSet<&str> =
            self.tensors.iter().map(|(recipe, _)| recipe.name.as_str()).collect();
        let is_required = |rule: &&ProjectorRule| rule.is_required && config.has(rule.tower());
        let (mut missing, mut first) = (0, None);
        for rule in family.rules.iter().filter(is_required) {
            let numbers: Vec<Option<LayerIndex>> = match rule.target.has_layer() {
                true => {
                    // No checkpoint has tensors for more: one layer too many is missing as well.
                    let layers = config.layers(rule.tower())?.min(names.len() as u64 + 1);
                    (0..layers as u32).map(|layer| Some(LayerIndex(layer))).collect()
                }
                false => vec![None],
            };
            for name in numbers.into_iter().map(|layer| rule.target.name(layer)) {
                if !names.contains(name.as_str()) {
                    missing += 1;
                    first.get_or_insert((rule.tower(), name));
                }
            }
        }
        let Some((tower, first)) = first else { return Ok(()) };
        let problem =
            format!("the checkpoint has no tensor for {first}, and {missing} are missing in all");
        Err(config.model.fault(tower.config_key(), problem))
    }

    /// The error that the configuration and the tensors contradict each other.
    fn refuse_other_sizes(
        &self,
        family: &ProjectorFamily,
        config: &ProjectorConfig,
    ) -> Result<(), Error> {
        for (recipe, _) in &self.tensors {
            let tower = TowerKind::of_target(&recipe.name);
            let ends = |(end, _): &&(&str, &str)| recipe.name.ends_with(end);
            let Some((_, key)) = family.sizes.iter().find(ends) else { continue };
            let rows = recipe.shape.dimensions().first().copied().unwrap_or(1);
            let stated = config.part(tower).integer(key, 0..=u64::from(u32::MAX))?;
            if let Some(stated) = stated.filter(|stated| *stated != rows) {
                let problem =
                    format!("is {stated}, but {} has the shape {}", recipe.name, recipe.shape);
                return Err(config.part(tower).fault(key, problem));
            }
        }
        Ok(())
    }
}
