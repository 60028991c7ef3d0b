//! The names that tensors have once what wrapped their model is taken away.

use std::borrow::Cow;

use qz_tensor::{Location, TensorInfo, Warning};

use crate::architecture::{Architecture, Rename};
use crate::config::JsonObject;
use crate::error::Error;
use crate::larger_models;
use crate::rules::{Part, Role};

/// What rules start with and checkpoints of a bare decoder leave out.
const DECODER_PREFIX: &str = "model.";

/// Modules that training puts around a model or around its layers: torch.compile's,
/// FSDP's, activation checkpointing's. No model has such a module of its own.
const WRAPPERS: &[&str] =
    &["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module."];

/// Modules around a whole model: peft's, and those of data parallelism.
const OUTER_WRAPPERS: &[&str] = &["base_model.model.", "module."];

const EMBEDDING: &str = "model.embed_tokens.weight";
const OUTPUT: &str = "lm_head.weight";

/// What a checkpoint's tensors are called.
pub(crate) struct Canonical {
    /// As rules have them.
    pub(crate) names: Vec<String>,
    /// As the checkpoint itself would have them, had nothing been put around the model.
    pub(crate) own: Vec<String>,
    /// Of each, whether it lies outside the prefix that a person has named.
    pub(crate) is_outside: Vec<bool>,
}

/// For each tensor its name as rules have it, and what to say of it. `prefix` stands before
/// the model's own names; a person has said so.
pub(crate) fn canonical_names(
    architecture: &dyn Architecture,
    tensors: &[TensorInfo],
    json: &JsonObject,
    is_tied: bool,
    prefix: Option<&str>,
    warnings: &mut Vec<Warning>,
) -> Result<Canonical, Error> {
    let mut removed: Vec<&'static str> = Vec::new();
    let mut names: Vec<String> =
        tensors.iter().map(|tensor| unwrapped(&tensor.name, &mut removed).into_owned()).collect();
    refuse_adapters(tensors, &names)?;
    // A spelling of the family's own stays in the checkpoint.
    let spelled: Vec<Option<String>> = names
        .iter_mut()
        .map(|name| {
            let spelled = name.clone();
            rename(name, larger_models::renames(architecture, json));
            (spelled != *name).then_some(spelled)
        })
        .collect();
    let mut warn = |rule, message| {
        let first = tensors.first().map(|tensor| Location::file(tensor.file.as_ref()));
        warnings.push(Warning { location: first.unwrap_or_default(), rule, message });
    };
    if !removed.is_empty() {
        let message = format!(
            "the tensors' names carry `{}` of what the model was wrapped in; they are read without",
            removed.join("`, `")
        );
        warn("wrapper-prefix", message);
    }
    let mut is_outside = vec![false; names.len()];
    match prefix {
        Some(prefix) => {
            is_outside = without_prefix(tensors, &mut names, prefix);
            if is_outside.iter().all(|outside| *outside) {
                let first = tensors
                    .first()
                    .map(|tensor| Location::file(tensor.file.as_ref()).tensor(&tensor.name));
                return Err(Error::NoSuchPrefix {
                    location: first.unwrap_or_default(),
                    prefix: prefix.into(),
                });
            }
        }
        None => {
            if let Some(prefix) = read_through(tensors, &mut names)? {
                let message = format!(
                    "the model's tensors lie under `{prefix}`; they are read as those of `model.`"
                );
                warn("wrapper-prefix", message);
            }
        }
    }
    let own = spelled.into_iter().zip(&names);
    let own = own.map(|(spelled, name)| spelled.unwrap_or_else(|| name.clone())).collect();
    let mut inside: Vec<&mut String> = names
        .iter_mut()
        .zip(&is_outside)
        .filter_map(|(name, outside)| (!outside).then_some(name))
        .collect();
    let embedding = embedding_name(architecture);
    if embedding.starts_with(DECODER_PREFIX) && is_bare(&inside) {
        for name in inside.iter_mut().filter(|name| !name.starts_with("lm_head.")) {
            name.insert_str(0, DECODER_PREFIX);
        }
    }
    if is_tied && !names.iter().any(|name| name == embedding) {
        for name in names.iter_mut().filter(|name| *name == OUTPUT) {
            embedding.clone_into(name);
            warnings.push(Warning {
                location: Location::file(json.path()).tensor("tie_word_embeddings"),
                rule: "embedding-from-output",
                message: format!("is true, and only {OUTPUT} is stored: it is the embedding, too"),
            });
        }
    }
    Ok(Canonical { names, own, is_outside })
}

/// What the architecture's rules call the token embeddings.
fn embedding_name(architecture: &dyn Architecture) -> &'static str {
    let mut rules = architecture.tensor_rules().iter();
    let rule = rules.find(|rule| (rule.role, rule.part) == (Role::TokenEmbedding, Part::Weight));
    rule.map_or(EMBEDDING, |rule| rule.hugging_face.0)
}

/// Takes `prefix` away from the names, as they are stored or without wrappers; which have
/// none. A prefix is whole modules.
fn without_prefix(tensors: &[TensorInfo], names: &mut [String], prefix: &str) -> Vec<bool> {
    let prefix = format!("{}.", prefix.trim_end_matches('.'));
    let strip = |(tensor, name): (&TensorInfo, &mut String)| {
        let stored = tensor.name.strip_prefix(&prefix);
        let stored = stored.map(|rest| unwrapped(rest, &mut Vec::new()).into_owned());
        let rest = stored.or_else(|| Some(name.strip_prefix(&prefix)?.to_owned()));
        let is_outside = rest.is_none();
        *name = rest.unwrap_or_else(|| std::mem::take(name));
        is_outside
    };
    tensors.iter().zip(names).map(strip).collect()
}

/// Reads a decoder that lies deeper than rules have it: the text part of a larger model, or
/// one role of several in a training. The modules it lies in, if it does and nothing else is
/// there.
fn read_through(tensors: &[TensorInfo], names: &mut [String]) -> Result<Option<String>, Error> {
    const OUTPUT_MODULE: &str = "lm_head.";
    let embedding = EMBEDDING.strip_prefix(DECODER_PREFIX).unwrap_or(EMBEDDING);
    let decoder = |name: &String| {
        let before = name.strip_suffix(embedding)?;
        before.ends_with('.').then(|| before.to_owned())
    };
    let decoders: Vec<String> = names.iter().filter_map(decoder).collect();
    let Some(first) = decoders.first().filter(|_| !decoders.iter().any(|at| at == DECODER_PREFIX))
    else {
        return Ok(None);
    };
    // What the whole model lies in, its output matrix, too.
    let whole = |decoder: &str| match decoder.strip_suffix(DECODER_PREFIX) {
        Some(before) if before.ends_with('.') => before.to_owned(),
        _ => decoder.to_owned(),
    };
    let outer = whole(first);
    // Beside the decoder, within the model or around it.
    let of_output = |name: &str| {
        let at = name.find(OUTPUT_MODULE)?;
        first.starts_with(&name[..at]).then(|| name[at..].to_owned())
    };
    let renamed = |name: &String| match (name.strip_prefix(&**first), name.strip_prefix(&*outer)) {
        (Some(rest), _) => Some(format!("{DECODER_PREFIX}{rest}")),
        (None, Some(rest)) if of_output(name).is_none() => Some(rest.to_owned()),
        _ => of_output(name),
    };
    let new: Vec<Option<String>> = names.iter().map(renamed).collect();
    if let Some(other) = new.iter().position(Option::is_none) {
        let position = names.iter().position(|name| decoder(name).is_some()).unwrap_or_default();
        let example = &tensors[position];
        let mut prefixes: Vec<String> = decoders.iter().map(|decoder| whole(decoder)).collect();
        prefixes.dedup();
        return Err(Error::UnderPrefix {
            location: Location::file(example.file.as_ref()).tensor(&example.name),
            prefixes: prefixes.into(),
            other: (&*tensors[other].name).into(),
            others: new.iter().filter(|name| name.is_none()).count(),
        });
    }
    for (name, new) in names.iter_mut().zip(new) {
        *name = new.unwrap_or_default();
    }
    Ok(Some(first.clone()))
}

/// A name without wrappers; those that it has are added to `removed`, each once.
fn unwrapped<'n>(name: &'n str, removed: &mut Vec<&'static str>) -> Cow<'n, str> {
    let mut name = Cow::Borrowed(name);
    loop {
        let outer = OUTER_WRAPPERS.iter().find(|wrapper| name.starts_with(**wrapper));
        let inner = || {
            let is_module = |at: usize| {
                at == 0 || name.as_bytes().get(at - 1).is_some_and(|byte| *byte == b'.')
            };
            WRAPPERS.iter().find_map(|wrapper| {
                name.find(*wrapper).filter(|at| is_module(*at)).map(|at| (*wrapper, at))
            })
        };
        let Some((wrapper, at)) = outer.map(|wrapper| (*wrapper, 0)).or_else(inner) else {
            return name;
        };
        let rest = format!("{}{}", &name[..at], &name[at + wrapper.len()..]);
        name = Cow::Owned(rest);
        if !removed.contains(&wrapper) {
            removed.push(wrapper);
        }
    }
}

/// Reads a name as the family's rules spell it. Each spelling is looked for once, in
/// their order.
fn rename(name: &mut String, renames: impl Iterator<Item = Rename>) {
    for known in renames {
        match known {
            Rename::Prefix(from, to) => {
                if let Some(rest) = name.strip_prefix(from) {
                    *name = format!("{to}{rest}");
                }
            }
            Rename::Suffix(from, to) => {
                if let Some(rest) = name.strip_suffix(from) {
                    *name = format!("{rest}{to}");
                }
            }
        }
    }
}

/// An adapter's matrices beside the weights they change: the weights alone are another
/// model.
fn refuse_adapters(tensors: &[TensorInfo], names: &[String]) -> Result<(), Error> {
    const PARTS: &[&str] =
        &[".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_magnitude_vector", ".base_layer."];
    let is_adapted = |name: &&String| PARTS.iter().any(|part| name.contains(part));
    let count = names.iter().filter(is_adapted).count();
    match names.iter().zip(tensors).find(|(name, _)| is_adapted(name)) {
        None => Ok(()),
        Some((_, first)) => {
            let location = Location::file(first.file.as_ref()).tensor(&first.name);
            Err(Error::UnmergedAdapter { location, count })
        }
    }
}

/// True for a decoder saved without the model around it: `layers.0...` instead
/// of `model.layers.0...`, as Qwen3-Embedding is.
fn is_bare(names: &[&mut String]) -> bool {
    !names.iter().any(|name| name.starts_with(DECODER_PREFIX))
        && names.iter().any(|name| *name == "embed_tokens.weight")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_taken_away_wherever_they_are() {
        let check = |name: &str, expected: &str, wrappers: &[&str]| {
            let mut removed = Vec::new();
            assert_eq!(unwrapped(name, &mut removed), expected);
            assert_eq!(removed, wrappers, "{name}");
        };
        check("model.norm.weight", "model.norm.weight", &[]);
        check("module.model.norm.weight", "model.norm.weight", &["module."]);
        check("base_model.model.model.norm.weight", "model.norm.weight", &["base_model.model."]);
        check("module._orig_mod.lm_head.weight", "lm_head.weight", &["module.", "_orig_mod."]);
        check("_orig_mod.module.lm_head.weight", "lm_head.weight", &["_orig_mod.", "module."]);
        check(
            "_fsdp_wrapped_module.model.layers.1._fsdp_wrapped_module.mlp.up_proj.weight",
            "model.layers.1.mlp.up_proj.weight",
            &["_fsdp_wrapped_module."],
        );
        check("model.module.weight", "model.module.weight", &[]);
        check("model.not_orig_mod.weight", "model.not_orig_mod.weight", &[]);
        check("x._orig_mod._orig_mod.y", "x.y", &["_orig_mod."]);
        check("module.", "", &["module."]);
    }
}
