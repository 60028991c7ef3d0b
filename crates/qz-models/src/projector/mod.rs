//! The parts of a larger model that see and hear: what llama.cpp calls a multimodal projector,
//! and reads from a file of its own beside the text's (`MmprojModel` in `conversion/base.py`).
//!
//! A family is data: which of the checkpoint's tensors become which of the file, and what its
//! configuration says of them. There is no forward pass.

mod families;
mod matched;
mod metadata;
mod take;

use qz_tensor::{Metadata, SideFiles, TensorInfo, Warning};

use crate::config::JsonObject;
use crate::describe::{ConvertOptions, read_object, write_general};
use crate::error::Error;
use crate::general::ParameterCount;
use crate::recipe::TensorRecipe;
use crate::rules::{LayerIndex, NameNumbers, NamePattern};
use families::FAMILIES;
use matched::Matched;
use metadata::Entry;
use take::Take;

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
    /// What it is made of.
    towers: &'static [Tower],
    /// How the names of its tensors begin, and how those of its rules do.
    prefixes: &'static [(&'static str, &'static str)],
    /// How the names of tensors begin, as rules have them, that say nothing.
    dropped: &'static [&'static str],
    rules: &'static [ProjectorRule],
    /// How the file's names of tensors end that have as many rows as a key of their tower says.
    sizes: &'static [(&'static str, &'static str)],
    /// Gives sizes the names that most have, and refuses what the file cannot say.
    prepare: fn(&mut ProjectorConfig, &dyn SideFiles) -> Result<(), Error>,
    /// Metadata behind what all projectors have.
    metadata: &'static [Entry],
    /// Which of the projector's layers a number in a name means, where it is none.
    layer_of: fn(&ProjectorConfig, &NamePattern, LayerIndex) -> Result<LayerIndex, Error>,
}

impl ProjectorFamily {
    /// A tensor's name as rules have it, if it is one of the family's.
    fn own_name(&self, name: &str) -> Option<String> {
        let own = self.prefixes.iter().find_map(|(theirs, own)| {
            let rest = name.strip_prefix(theirs)?;
            Some(format!("{own}{rest}"))
        })?;
        let is_dropped = self.dropped.iter().any(|beginning| own.starts_with(beginning));
        (!is_dropped).then_some(own)
    }
}

/// A part that sees or hears.
#[derive(Clone, Copy, Debug)]
struct Tower {
    kind: TowerKind,
    /// Keys that its configuration may lie under; the first that is there.
    keys: &'static [&'static str],
    /// Some models of the family have none.
    is_optional: bool,
    /// What transformers' configuration classes fill in.
    defaults: &'static [Defaults],
}

/// The values of keys that are absent, of a tower of one `model_type` or of none.
#[derive(Clone, Copy, Debug)]
struct Defaults {
    model_type: &'static str,
    sizes: &'static [(&'static str, u64)],
    words: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TowerKind {
    Vision,
    Audio,
}

impl TowerKind {
    const ALL: [Self; 2] = [Self::Vision, Self::Audio];

    /// That of a tensor of the file.
    fn of_target(name: &str) -> Self {
        match name.starts_with("a.") || name.starts_with("mm.a.") {
            true => Self::Audio,
            false => Self::Vision,
        }
    }

    /// Where configurations speak of it.
    fn config_key(self) -> &'static str {
        match self {
            Self::Vision => "vision_config",
            Self::Audio => "audio_config",
        }
    }
}

/// One tensor of a projector.
#[derive(Clone, Copy, Debug)]
struct ProjectorRule {
    source: NamePattern,
    target: NamePattern,
    take: Take,
    /// Its type, where it is not that of most.
    precision: Option<Precision>,
    is_required: bool,
}

impl ProjectorRule {
    fn tower(&self) -> TowerKind {
        TowerKind::of_target(self.target.0)
    }

    fn is_row_end(&self) -> bool {
        self.take == Take::RowEnd
    }

    fn name(&self, numbers: NameNumbers) -> String {
        match numbers.expert {
            Some(second) => self.target.name_of_expert(numbers.layer, second),
            None => self.target.name(numbers.layer),
        }
    }

    /// What `prepare_tensors` and `tensor_force_quant` of `conversion/base.py` say.
    fn precision_of(&self, name: &str, rank: usize) -> Precision {
        let is_of_patches =
            name.contains(".patch_embd.weight") || name.contains(".patch_merger.weight");
        if rank <= 1 || name.ends_with("_norm.weight") {
            return Precision::Single;
        }
        match self.precision {
            Some(own) => own,
            None if is_of_patches => Precision::HalfOrSingle,
            None if name.ends_with(".position_embd.weight") => Precision::Single,
            None if !name.ends_with(".weight") => Precision::Single,
            None => Precision::OfFile,
        }
    }
}

/// What configuration files say of a projector.
pub(crate) struct ProjectorConfig {
    /// All of `config.json`.
    model: JsonObject,
    /// What it says of the part that sees; empty if there is none.
    vision: JsonObject,
    /// The same of the part that hears.
    audio: JsonObject,
    towers: Vec<TowerKind>,
    /// How images are prepared.
    preprocessor: JsonObject,
    /// The token by which rows of an image end, if they do.
    row_end: Option<u64>,
}

/// The names by which configurations give the number of a tower's layers.
const LAYERS: &[&str] = &[
    "num_hidden_layers",
    "n_layers",
    "n_layer",
    "num_layers",
    "depth",
    "layers",
    "encoder_layers",
];

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
    let mut config = ProjectorConfig::read(files, model, family)?;
    (family.prepare)(&mut config, files)?;
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
    FAMILIES.iter().find(|family| family.model_types.contains(&model_type)).ok_or_else(|| {
        let known: Vec<&str> = known_projectors().map(|known| known.model_type).collect();
        let problem = format!(
            "{model_type:?} has no part that sees or hears, or none that can be written to a \
             file of its own; those of {} can",
            known.join(", ")
        );
        model.fault("model_type", problem)
    })
}

/// Models of a `model_type` whose parts that see and hear are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownProjector {
    /// What `config.json` calls the whole model.
    pub model_type: &'static str,
    /// True if it sees.
    pub sees: bool,
    /// True if it hears, or some models of the type do.
    pub hears: bool,
}

/// All of them.
pub fn known_projectors() -> impl Iterator<Item = KnownProjector> {
    FAMILIES.iter().flat_map(|family| {
        let has = |kind| family.towers.iter().any(|tower| tower.kind == kind);
        family.model_types.iter().map(move |model_type| KnownProjector {
            model_type,
            sees: has(TowerKind::Vision),
            hears: has(TowerKind::Audio),
        })
    })
}

impl ProjectorConfig {
    fn read(
        files: &dyn SideFiles,
        model: JsonObject,
        family: &ProjectorFamily,
    ) -> Result<Self, Error> {
        let empty = |kind: TowerKind| model.empty_child(kind.config_key());
        let mut config = Self {
            vision: empty(TowerKind::Vision),
            audio: empty(TowerKind::Audio),
            towers: Vec::new(),
            preprocessor: read_preprocessor(files)?,
            row_end: None,
            model,
        };
        for tower in family.towers {
            let Some(mut own) = tower.read(&config.model)? else { continue };
            tower.fill(&mut own)?;
            config.towers.push(tower.kind);
            match tower.kind {
                TowerKind::Vision => config.vision = own,
                TowerKind::Audio => config.audio = own,
            }
        }
        Ok(config)
    }

    fn has(&self, tower: TowerKind) -> bool {
        self.towers.contains(&tower)
    }

    fn part(&self, tower: TowerKind) -> &JsonObject {
        match tower {
            TowerKind::Vision => &self.vision,
            TowerKind::Audio => &self.audio,
        }
    }

    /// How many layers a tower has.
    fn layers(&self, tower: TowerKind) -> Result<u64, Error> {
        self.first_integer(tower, LAYERS)
    }

    /// The key that says so.
    fn key_of_layers(&self, tower: TowerKind) -> &'static str {
        LAYERS.iter().find(|key| self.part(tower).get(key).is_some()).unwrap_or(&LAYERS[0])
    }

    fn first_integer(&self, tower: TowerKind, keys: &[&str]) -> Result<u64, Error> {
        metadata::first_integer(self.part(tower), keys)
    }
}

impl Tower {
    const fn new(kind: TowerKind, keys: &'static [&'static str]) -> Self {
        Self { kind, keys, is_optional: false, defaults: &[] }
    }

    const fn optional(self) -> Self {
        Self { is_optional: true, ..self }
    }

    const fn with(self, defaults: &'static [Defaults]) -> Self {
        Self { defaults, ..self }
    }

    /// Its configuration, if the model has one.
    fn read(&self, model: &JsonObject) -> Result<Option<JsonObject>, Error> {
        for key in self.keys {
            if let Some(own) = model.object(key)? {
                return Ok(Some(own));
            }
        }
        match self.is_optional {
            true => Ok(None),
            false => Err(model.fault(self.keys[0], "is missing")),
        }
    }

    /// Fills in what configuration classes do.
    fn fill(&self, own: &mut JsonObject) -> Result<(), Error> {
        let model_type = own.string("model_type")?.map(str::to_owned);
        for defaults in self.defaults {
            if model_type.as_deref().is_some_and(|own| own != defaults.model_type) {
                continue;
            }
            for (key, size) in defaults.sizes {
                own.set_default(key, *size);
            }
            for (key, word) in defaults.words {
                own.set_default(key, *word);
            }
        }
        Ok(())
    }
}

/// What is said of how images are prepared; empty if there are no such files.
fn read_preprocessor(files: &dyn SideFiles) -> Result<JsonObject, Error> {
    let mut preprocessor =
        JsonObject::new(files.path("preprocessor_config.json"), Default::default());
    for (name, inner) in [
        ("preprocessor_config.json", "media_proc_cfg"),
        ("processor_config.json", "image_processor"),
    ] {
        let Some(own) = read_object(files, name)? else { continue };
        let inner = own.object(inner)?;
        for object in [Some(own), inner].into_iter().flatten() {
            object.entries().for_each(|(key, value)| preprocessor.set(key, value.clone()));
        }
    }
    Ok(preprocessor)
}
