//! `transform_config`: matrices that inputs are multiplied by while the model runs, and their
//! inverses, which weights have been multiplied by. Source: compressed-tensors 0.20
//! (`transform/`).
//!
//! Hadamard matrices of inputs are undone where weights are read. Transforms of weights alone
//! have happened, and those of results, keys and queries cannot be undone in weights.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::error::Error;
use crate::exceptions::Patterns;
use crate::hadamard::Hadamard;
use crate::inputs::Inputs;
use crate::layouts::numbers::ScaleType;
use crate::layouts::rotated::Rotated;
use crate::method::{OpenRequest, PackedTensor};

/// The key of the configuration.
pub(super) const KEY: &str = "transform_config";

/// What the package calls all linear layers.
const LINEAR: &str = "Linear";

/// What the configuration says where the inputs of all linear layers are rotated, but of those
/// that are left.
pub(super) fn configuration(rotation: Hadamard, left: &[String]) -> Value {
    let place = |location: &str, inverse: bool| json!({"targets": [LINEAR], "location": location, "inverse": inverse, "ignore": left});
    json!({"config_groups": {"rotation": {
        "type": "hadamard",
        "apply": [place("input", false), place("weight_input", true)],
        "randomize": false,
        "requires_grad": false,
        "head_dim": rotation.size(),
        "precision": "torch.float32",
    }}})
}

/// A Hadamard matrix by which the inputs of some modules are multiplied.
struct OfInputs<'a> {
    key: String,
    group: &'a str,
    /// Columns of a block; all of the inputs if there is no number.
    size: Option<u64>,
    targets: Vec<&'a str>,
    ignored: Vec<&'a str>,
}

/// Undoes what was done to the weights of packed modules.
///
/// # Errors
/// If there is something else that happens while the model runs.
pub(super) fn undo(
    request: &OpenRequest<'_>,
    packed: Vec<PackedTensor>,
) -> Result<Vec<PackedTensor>, Error> {
    let (transforms, patterns) = (transforms(request)?, Patterns::default());
    if transforms.is_empty() {
        return Ok(packed);
    }
    let undo = |packed: PackedTensor| undone(request, &transforms, packed, &patterns);
    let packed = packed.into_iter().map(undo).collect::<Result<Vec<PackedTensor>, Error>>()?;
    check_plain(request, &transforms, &packed, &patterns)?;
    Ok(packed)
}

fn unknown(request: &OpenRequest<'_>, key: &str) -> Error {
    let detail = "says what is not known: transforms may have to be applied while it runs";
    request.config_fault(key, detail)
}

/// The transforms of inputs.
fn transforms<'a>(request: &OpenRequest<'a>) -> Result<Vec<OfInputs<'a>>, Error> {
    let Some(config) = request.config.get(KEY).filter(|config| !config.is_null()) else {
        return Ok(Vec::new());
    };
    let config = config.as_object().ok_or_else(|| unknown(request, KEY))?;
    if let Some(key) = config.keys().find(|key| *key != "config_groups") {
        return Err(unknown(request, &format!("{KEY}.{key}")));
    }
    let groups = match config.get("config_groups") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(groups) => groups.as_object().ok_or_else(|| unknown(request, KEY))?,
    };
    let mut found = Vec::new();
    for (name, group) in groups {
        let key = format!("{KEY}.config_groups.{name}");
        let places = group.get("apply").and_then(Value::as_array);
        for place in places.ok_or_else(|| unknown(request, &key))? {
            let location = place.get("location").and_then(Value::as_str);
            match location.ok_or_else(|| unknown(request, &key))? {
                "weight_input" | "weight_output" => {}
                "input" => found.push(of_inputs(request, (name, group), place, &key)?),
                online => return Err(unsupported(request, group, online, &key)),
            }
        }
    }
    Ok(found)
}

fn unsupported(request: &OpenRequest<'_>, group: &Value, location: &str, key: &str) -> Error {
    let kind = group.get("type").and_then(Value::as_str).unwrap_or("a matrix");
    let detail = format!(
        "transforms ({kind}) the {location} of layers while the model runs, which is not \
         supported: the weights alone are not the model's"
    );
    request.config_fault(key, detail)
}

fn of_inputs<'a>(
    request: &OpenRequest<'a>,
    (name, group): (&'a str, &'a Value),
    place: &'a Value,
    key: &str,
) -> Result<OfInputs<'a>, Error> {
    let is_random = group.get("randomize").is_some_and(|flag| flag.as_bool() != Some(false));
    if group.get("type").and_then(Value::as_str) != Some("hadamard") || is_random {
        return Err(unsupported(request, group, "input", key));
    }
    let size = match group.get("head_dim") {
        None | Some(Value::Null) => None,
        Some(size) => {
            let fault = || unknown(request, &format!("{key}.head_dim"));
            Some(size.as_u64().ok_or_else(fault)?)
        }
    };
    let names = |names: Option<&'a Value>| -> Option<Vec<&'a str>> {
        match names {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::String(name)) => Some(vec![name.as_str()]),
            Some(names) => names.as_array()?.iter().map(Value::as_str).collect(),
        }
    };
    let targets = names(place.get("targets")).ok_or_else(|| unknown(request, key))?;
    let ignored = names(place.get("ignore")).ok_or_else(|| unknown(request, key))?;
    let classes = targets.iter().chain(&ignored).filter(|name| is_class(name));
    if let Some(class) = classes.clone().find(|class| **class != LINEAR) {
        let detail = format!("names the class {class}: which modules are of it is not known");
        return Err(request.config_fault(key, detail));
    }
    Ok(OfInputs { key: key.to_owned(), group: name, size, targets, ignored })
}

fn is_class(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
}

impl OfInputs<'_> {
    /// Whether it is about a linear module; None if a pattern cannot be held to its name.
    fn is_about(&self, module: &str, patterns: &Patterns) -> Option<bool> {
        let is_in = |names: &[&str]| {
            names.iter().try_fold(false, |is_in, name| {
                let own = match name.strip_prefix("re:") {
                    Some(pattern) => patterns.begins(pattern, "", module)?,
                    None => *name == module || *name == LINEAR,
                };
                Some(is_in || own)
            })
        };
        Some(is_in(&self.targets)? && !is_in(&self.ignored)?)
    }

    /// The name of the matrix that the package keeps beside a module.
    fn own_matrix(&self) -> String {
        format!("{}_input.weight", self.group)
    }
}

/// The transforms of a module.
fn of_module<'t, 'a>(
    request: &OpenRequest<'_>,
    transforms: &'t [OfInputs<'a>],
    module: &str,
    patterns: &Patterns,
) -> Result<Vec<&'t OfInputs<'a>>, Error> {
    let mut found = Vec::new();
    for transform in transforms {
        let about = transform.is_about(module, patterns);
        if about.ok_or_else(|| unknown(request, &transform.key))? {
            found.push(transform);
        }
    }
    Ok(found)
}

fn undone(
    request: &OpenRequest<'_>,
    transforms: &[OfInputs<'_>],
    mut packed: PackedTensor,
    patterns: &Patterns,
) -> Result<PackedTensor, Error> {
    let module = packed.name.strip_suffix(".weight").unwrap_or(&packed.name).to_owned();
    let own = of_module(request, transforms, &module, patterns)?;
    let transform = match own[..] {
        [] => return Ok(packed),
        [transform] => transform,
        [_, second, ..] => {
            let detail = format!("transforms the inputs of {module} once more");
            return Err(request.config_fault(&second.key, detail));
        }
    };
    let columns = packed.matrix().columns;
    let size = transform.size.unwrap_or(columns);
    let rotation =
        Hadamard::of(size).filter(|_| columns.is_multiple_of(size)).ok_or_else(|| {
            let key = format!("{}.head_dim", transform.key);
            let detail =
                format!("{size}: no power of two that divides the {columns} inputs of {module}");
            request.config_fault(&key, detail)
        })?;
    packed.unused.extend(request.tensor(&module, &transform.own_matrix()));
    let is_rounded = match &packed.inputs {
        Inputs::Known(rounding) => rounding.activations.rounds(),
        Inputs::Unknown(_) => true,
    };
    if is_rounded {
        packed.inputs =
            Inputs::Unknown(format!("{}: inputs are rounded behind it", transform.key).into());
    }
    let layout = Rotated { inner: packed.layout, rotation, precision: ScaleType::F32 };
    Ok(PackedTensor { layout: Box::new(layout), ..packed })
}

/// Fails with a plain matrix that is transformed, too.
fn check_plain(
    request: &OpenRequest<'_>,
    transforms: &[OfInputs<'_>],
    packed: &[PackedTensor],
    patterns: &Patterns,
) -> Result<(), Error> {
    let is_own = |name: &str| transforms.iter().any(|one| name.ends_with(&one.own_matrix()));
    let packed: HashSet<&str> = packed.iter().map(|packed| &*packed.name).collect();
    for (module, weight) in request.modules_with("weight") {
        let name = &*request.info(weight).name;
        let is_matrix = request.dimensions(weight).len() == 2;
        if !is_matrix || is_own(name) || is_embedding(module) || packed.contains(name) {
            continue;
        }
        if let [transform, ..] = of_module(request, transforms, module, patterns)?[..] {
            let detail = format!(
                "transforms the inputs of {module}, which is not packed; that is not supported"
            );
            return Err(request.config_fault(&transform.key, detail));
        }
    }
    Ok(())
}

/// Tables that are looked up, whose class is none of linear layers.
fn is_embedding(module: &str) -> bool {
    let last = module.rsplit('.').next().unwrap_or(module);
    last.contains("emb") || matches!(last, "wte" | "wpe")
}
