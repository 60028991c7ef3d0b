//! The part of a larger model that sees: what llama.cpp calls a multimodal projector, and reads
//! from a file of its own beside the text's (`MmprojModel` in `conversion/base.py`).
//!
//! A family is data: which of the checkpoint's tensors become which of the file, and what its
//! configuration says of them. There is no forward pass.

mod families;
mod metadata;

use std::collections::HashSet;

use qz_tensor::{Metadata, Shape, SideFiles, TensorIndex, TensorInfo, Warning};

use crate::checkpoint::reference_order;
use crate::config::JsonObject;
use crate::describe::{ConvertOptions, read_object, write_general};
use crate::error::{Error, TensorFault, TensorFaults};
use crate::general::ParameterCount;
use crate::recipe::{RowSlice, StackedRows, TensorOrigin, TensorRecipe};
use crate::role::{Part, Role};
use crate::rules::{LayerIndex, NamePattern};
use crate::tensor_map::{Change, TensorMap, ValueChange};
use families::FAMILIES;

/// Everything a GGUF file of a projector says, and where its tensors come from.
pub struct ProjectorDescription {
    /// The metadata in the reference's order; `general.file_type` is 0, for the caller to set.
    pub metadata: Metadata,
    /// What the file will hold, in the reference's order, and the type that each gets.
    pub tensors: Vec<(TensorRecipe, Precision)>,
    /// Source tensors that are of other parts of the model.
    pub ignored: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// The element type of a projector's tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// That of the file; vectors stay in f32.
    OfFile,
    /// f16 in a file of f16, else f32.
    HalfOrSingle,
    /// Always f16.
    Half,
    /// Always f32.
    Single,
}

/// A family of projectors.
pub(crate) struct ProjectorFamily {
    /// The `model_type` of the models that it is a part of.
    model_types: &'static [&'static str],
    /// What stands before the names of its tensors, and is taken away.
    prefixes: &'static [&'static str],
    /// How the names of tensors go on, behind a prefix, that say nothing.
    dropped: &'static [&'static str],
    rules: &'static [ProjectorRule],
    /// Gives sizes the names that most have.
    prepare: fn(&mut ProjectorConfig) -> Result<(), Error>,
    /// Metadata behind what all projectors have.
    metadata: fn(&ProjectorConfig) -> Result<Vec<metadata::Entry>, Error>,
    /// Which of the projector's layers a number in a name means, where it is none.
    layer_of: fn(&ProjectorConfig, &NamePattern, LayerIndex) -> Result<LayerIndex, Error>,
}

/// One tensor of a projector.
#[derive(Clone, Copy, Debug)]
struct ProjectorRule {
    source: NamePattern,
    target: NamePattern,
    take: Take,
    precision: Precision,
    is_required: bool,
}

/// What of the stored tensor is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    All,
    /// One of three equal runs of rows: queries, keys, values.
    Third(u64),
    /// One of the two frames of a convolution over frames, height and width.
    Frame(u64),
    /// All, and one more than each value.
    AddOne,
}

/// What configuration files say of a projector.
pub(crate) struct ProjectorConfig {
    /// All of `config.json`.
    model: JsonObject,
    /// Its `vision_config`.
    vision: JsonObject,
    /// How images are prepared.
    preprocessor: JsonObject,
}

/// Describes the projector of a checkpoint.
///
/// # Errors
/// If the checkpoint has none that is known, or its files contradict each other.
pub fn describe_projector(
    files: &dyn SideFiles,
    tensors: &[TensorInfo],
    options: &ConvertOptions,
) -> Result<ProjectorDescription, Error> {
    let model = read_object(files, "config.json")?
        .ok_or_else(|| Error::MissingFile(files.path("config.json")))?;
    let family = family_of(&model)?;
    let mut config = ProjectorConfig::read(files, model)?;
    (family.prepare)(&mut config)?;
    let matched = Matched::of(family, &config, tensors)?;
    let recipes: Vec<TensorRecipe> =
        matched.tensors.iter().map(|(recipe, _)| recipe.clone()).collect();
    let parameters = ParameterCount::of(&recipes)
        .ok_or_else(|| config.model.fault("(root)", "the model has more than 2^64 weights"))?;
    let (mut metadata, mut warnings) = (Metadata::new(), Vec::new());
    metadata.set("general.architecture", "clip");
    metadata.set("general.type", "mmproj");
    write_general(files, &config.model, options, &parameters, &mut metadata, &mut warnings)?;
    metadata::write(&config, family, &mut metadata)?;
    Ok(ProjectorDescription {
        metadata,
        tensors: matched.tensors,
        ignored: matched.ignored,
        warnings,
    })
}

fn family_of(model: &JsonObject) -> Result<&'static ProjectorFamily, Error> {
    let model_type = model.string("model_type")?.unwrap_or_default();
    let known = || FAMILIES.iter().flat_map(|family| family.model_types).copied();
    FAMILIES.iter().find(|family| family.model_types.contains(&model_type)).ok_or_else(|| {
        let known: Vec<&str> = known().collect();
        let problem = format!(
            "{model_type:?} has no part that sees, or none that can be written to a file of its \
             own; those of {} can",
            known.join(", ")
        );
        model.fault("model_type", problem)
    })
}

impl ProjectorConfig {
    fn read(files: &dyn SideFiles, model: JsonObject) -> Result<Self, Error> {
        let vision = model
            .object("vision_config")?
            .ok_or_else(|| model.fault("vision_config", "is missing"))?;
        let mut preprocessor =
            JsonObject::new(files.path("preprocessor_config.json"), Default::default());
        let mut is_there = false;
        for (name, inner) in [
            ("preprocessor_config.json", "media_proc_cfg"),
            ("processor_config.json", "image_processor"),
        ] {
            let Some(own) = read_object(files, name)? else { continue };
            is_there = true;
            let inner = own.object(inner)?;
            for object in [Some(own), inner].into_iter().flatten() {
                object.entries().for_each(|(key, value)| preprocessor.set(key, value.clone()));
            }
        }
        if !is_there {
            return Err(Error::MissingFile(files.path("preprocessor_config.json")));
        }
        Ok(Self { model, vision, preprocessor })
    }

    /// How many layers there are.
    fn layers(&self) -> Result<u64, Error> {
        metadata::first_integer(&self.vision, &["num_hidden_layers", "depth"])
    }
}

/// Tensors that were matched with a family's rules.
struct Matched {
    tensors: Vec<(TensorRecipe, Precision)>,
    ignored: Vec<String>,
}

impl Matched {
    fn of(
        family: &ProjectorFamily,
        config: &ProjectorConfig,
        tensors: &[TensorInfo],
    ) -> Result<Self, Error> {
        let mut matched = Self { tensors: Vec::new(), ignored: Vec::new() };
        let (mut faults, mut seen) = (Vec::new(), HashSet::new());
        for position in reference_order(tensors) {
            let info = &tensors[position];
            let own = family.prefixes.iter().find_map(|prefix| info.name.strip_prefix(prefix));
            let Some(own) = own.filter(|own| !starts_with_any(own, family.dropped)) else {
                matched.ignored.push(info.name.to_string());
                continue;
            };
            let found = matched.take(family, config, own, (TensorIndex(position), info))?;
            let name = info.name.to_string();
            if found == 0 {
                let shape = info.shape.clone();
                faults.push(TensorFault::Unknown { name, shape, reason: None });
            } else if !seen.insert(own) {
                faults.push(TensorFault::Duplicate { name });
            }
        }
        let missing = matched.missing(family, config)?;
        if let Some(first) = missing.first().filter(|_| faults.is_empty()) {
            let problem = format!(
                "the checkpoint has no tensor for {first}, and {} are missing in all",
                missing.len()
            );
            return Err(config.model.fault("vision_config", problem));
        }
        if faults.is_empty() {
            return Ok(matched);
        }
        let total = faults.len() as u64;
        Err(Error::Tensors(Box::new(TensorFaults {
            config: config.model.path().to_owned(),
            architecture: "clip",
            faults,
            total,
        })))
    }

    /// Takes what a tensor becomes: how many tensors of the file.
    fn take(
        &mut self,
        family: &ProjectorFamily,
        config: &ProjectorConfig,
        own: &str,
        (index, info): (TensorIndex, &TensorInfo),
    ) -> Result<usize, Error> {
        let before = self.tensors.len();
        for rule in family.rules {
            let Some(numbers) = rule.source.matches(own) else { continue };
            let layer = numbers.layer.map(|layer| (family.layer_of)(config, &rule.source, layer));
            let layer = layer.transpose()?;
            let Some((shape, map)) = rule.take.of(index, &info.shape) else {
                let problem = format!("{} has the shape {}", info.name, info.shape);
                return Err(config.model.fault("vision_config", problem));
            };
            let is_vector = shape.rank() <= 1;
            let precision = if is_vector { Precision::Single } else { rule.precision };
            let recipe = TensorRecipe {
                name: rule.target.name(layer),
                // Nothing asks what it does: it is written, and never computed.
                role: Role::Projector,
                part: Part::Weight,
                layer,
                shape,
                origin: TensorOrigin::Mapped(map),
            };
            self.tensors.push((recipe, precision));
        }
        Ok(self.tensors.len() - before)
    }

    /// The names of the file's tensors that the checkpoint lacks.
    fn missing(
        &self,
        family: &ProjectorFamily,
        config: &ProjectorConfig,
    ) -> Result<Vec<String>, Error> {
        // No checkpoint has tensors for more: one layer too many is missing as well.
        let layers = config.layers()?.min(self.tensors.len() as u64 + 1);
        let names: HashSet<&str> =
            self.tensors.iter().map(|(recipe, _)| recipe.name.as_str()).collect();
        let mut missing = Vec::new();
        for rule in family.rules.iter().filter(|rule| rule.is_required) {
            let numbers: Vec<Option<LayerIndex>> = match rule.target.has_layer() {
                true => (0..layers as u32).map(|layer| Some(LayerIndex(layer))).collect(),
                false => vec![None],
            };
            let own = numbers.into_iter().map(|layer| rule.target.name(layer));
            missing.extend(own.filter(|name| !names.contains(name.as_str())));
        }
        Ok(missing)
    }
}

fn starts_with_any(name: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| name.starts_with(beginning))
}

impl Take {
    /// The shape of what is taken, and the rows of the stored tensor that it is.
    fn of(self, tensor: TensorIndex, shape: &Shape) -> Option<(Shape, TensorMap)> {
        let dimensions = shape.dimensions();
        let whole = StackedRows::whole(tensor);
        match self {
            Self::All => Some((shape.clone(), TensorMap::of(whole))),
            Self::AddOne => {
                let change = Change { values: ValueChange::AddOne, ..Change::NONE };
                Some((shape.clone(), TensorMap::changed(whole, change)))
            }
            Self::Third(part) => {
                let (first, rest) = dimensions.split_first()?;
                let rows = first.is_multiple_of(3).then_some(first / 3)?;
                let shape = Shape::new([&[rows], rest].concat()).ok()?;
                let slice = RowSlice { tensor, first_row: part * rows };
                Some((shape, TensorMap::of(StackedRows::new(rows, vec![slice])?)))
            }
            Self::Frame(frame) => {
                let [outputs, channels, 2, height, width] = *dimensions else { return None };
                let first = |filter: u64| (filter * 2 + frame) * height;
                let slices = (0..outputs * channels)
                    .map(|filter| RowSlice { tensor, first_row: first(filter) })
                    .collect();
                let shape = Shape::new([outputs, channels, height, width]).ok()?;
                Some((shape, TensorMap::of(StackedRows::new(height, slices)?)))
            }
        }
    }
}
