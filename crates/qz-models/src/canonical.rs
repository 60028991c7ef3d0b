//! The names that tensors have once what wrapped their model is taken away.

use std::borrow::Cow;

use qz_tensor::{Location, TensorInfo, Warning};

use crate::architecture::{Architecture, Rename};
use crate::config::JsonObject;
use crate::error::Error;

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

/// For each tensor its name as rules have it, and what to say of it.
pub(crate) fn canonical_names(
    architecture: &dyn Architecture,
    tensors: &[TensorInfo],
    json: &JsonObject,
    is_tied: bool,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<String>, Error> {
    let mut removed: Vec<&'static str> = Vec::new();
    let mut names: Vec<String> =
        tensors.iter().map(|tensor| unwrapped(&tensor.name, &mut removed).into_owned()).collect();
    refuse_adapters(tensors, &names)?;
    for name in &mut names {
        rename(name, architecture.renames());
    }
    if let Some(first) = tensors.first().filter(|_| !removed.is_empty()) {
        warnings.push(Warning {
            location: Location::file(first.file.as_ref()),
            rule: "wrapper-prefix",
            message: format!(
                "the tensors' names carry `{}` of what the model was wrapped in; they are read \
                 without",
                removed.join("`, `")
            ),
        });
    }
    if is_bare(&names) {
        for name in names.iter_mut().filter(|name| !name.starts_with("lm_head.")) {
            name.insert_str(0, DECODER_PREFIX);
        }
    }
    if is_tied && !names.iter().any(|name| name == EMBEDDING) {
        for name in names.iter_mut().filter(|name| *name == OUTPUT) {
            EMBEDDING.clone_into(name);
            warnings.push(Warning {
                location: Location::file(json.path()).tensor("tie_word_embeddings"),
                rule: "embedding-from-output",
                message: format!("is true, and only {OUTPUT} is stored: it is the embedding, too"),
            });
        }
    }
    Ok(names)
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
fn rename(name: &mut String, renames: &[Rename]) {
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
fn is_bare(names: &[String]) -> bool {
    !names.iter().any(|name| name.starts_with(DECODER_PREFIX))
        && names.iter().any(|name| name == "embed_tokens.weight")
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
