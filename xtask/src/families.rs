//! `families`: the table of docs/families.md, made of the registry of architectures and of
//! the committed checkpoints that tests hold to their records.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use qz_models::graph::GRAPHS;
use qz_models::projector::known_projectors;
use qz_models::{ARCHITECTURES, Architecture, LARGER_CLASSES};
use serde_json::{Map, Value};

const PAGE: &str = "docs/families.md";
const CHECKPOINTS: &str = "fixtures/tiny";

const BEGINNING: &str = "\
# Families of models

This page is made by `cargo xtask families`; a test holds it to the registry.

| column | what it means | what shows it |
|---|---|---|
| GGUF | `general.architecture` | |
| classes | what `architectures` in `config.json` may name | |
| convert | a checkpoint becomes a GGUF file of any type, and a GGUF file becomes a checkpoint again | tensors, metadata and whole quantized files of each checkpoint named here equal llama.cpp's (`tests/golden.rs`), and checkpoints come back (`tests/safetensors.rs`) |
| compute | `eval`, `calibrate` and `quantize` know the forward pass | logits, or an encoder's hidden states, equal those of transformers to 1e-4 (`crates/qz-pipeline/tests/suite/logits.rs`) |
| checkpoints | folders of `fixtures/tiny` | those in brackets have no record of logits |

Calibration stops and error feedback go by the steps that layers have, and are shown for each kind of step
(`capture.rs` and `families.rs` in the same folder). Layers that only predict further tokens are calibrated, too: what
they multiply equals what transformers' layers do (`further.rs` there); those of `exaone-moe` are rounded.

Packed folders (`ct:*`, `gptq:*`, `fp8:*` and so on) go by the linear layers of each family. A checkpoint of another class
can become a packed folder with `--generic`.

| GGUF | classes | convert | compute | checkpoints |
|---|---|---|---|---|
";

const LARGER: &str = "\
The text of a larger model is converted as its own class, the one that `text_config.architectures` names or that of
`text_config.model_type`, where `architectures` is";

const PROJECTORS: &str = "
## Parts that see and hear

`convert --mmproj` writes them to a file of their own; tensors and metadata equal those of `convert_hf_to_gguf.py
--mmproj` (`tests/golden.rs`) for each checkpoint of `fixtures/projectors` named here. There is no forward pass.

| `model_type` | sees | hears | checkpoints |
|---|---|---|---|
";
const PROJECTOR_CHECKPOINTS: &str = "fixtures/projectors";

/// A committed checkpoint.
struct Checkpoint {
    name: String,
    class: String,
    /// Its configuration, of a larger model that of the part that reads and writes text.
    config: Map<String, Value>,
    has_logits: bool,
}

impl Checkpoint {
    /// True if it is one of a family.
    fn is_of(&self, family: &dyn Architecture) -> bool {
        family.class_names().contains(&&*self.class) && family.is_of(&self.config)
    }
}

/// Writes the page under `root`.
pub(crate) fn write(root: &Path) -> Result<()> {
    let path = root.join(PAGE);
    fs::write(&path, page(root)?).context(path.display().to_string())
}

/// The page.
fn page(root: &Path) -> Result<String> {
    let checkpoints = checkpoints(&root.join(CHECKPOINTS))?;
    let mut page = BEGINNING.to_owned();
    let mut families: Vec<&dyn Architecture> = ARCHITECTURES.to_vec();
    families.sort_by_key(|family| (family.gguf_name(), family.class_names()[0]));
    for family in families {
        let classes: Vec<String> =
            family.class_names().iter().map(|class| format!("`{class}`")).collect();
        let is_computed = GRAPHS.iter().any(|(name, _)| *name == family.gguf_name());
        let own = checkpoints.iter().filter(|own| own.is_of(family));
        let shown: Vec<String> = own
            .map(|own| match own.has_logits {
                true => format!("`{}`", own.name),
                false => format!("(`{}`)", own.name),
            })
            .collect();
        writeln!(
            page,
            "| `{}` | {} | yes | {} | {} |",
            family.gguf_name(),
            classes.join(", "),
            if is_computed { "yes" } else { "no" },
            shown.join(", ")
        )?;
    }
    let larger: Vec<String> = LARGER_CLASSES.iter().map(|class| format!("`{class}`")).collect();
    writeln!(page, "\n{LARGER} {}.", larger.join(", "))?;
    write_projectors(&mut page, root)?;
    Ok(page)
}

/// The table of the parts that see and hear.
fn write_projectors(page: &mut String, root: &Path) -> Result<()> {
    let mut checkpoints = Vec::new();
    let folder = root.join(PROJECTOR_CHECKPOINTS);
    for entry in fs::read_dir(&folder).context(folder.display().to_string())? {
        let path = entry?.path();
        let config = fs::read(path.join("config.json")).context(path.display().to_string())?;
        let config: Value = serde_json::from_slice(&config)?;
        let model_type = config["model_type"].as_str().context("a model type")?.to_owned();
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        checkpoints.push((name, model_type));
    }
    checkpoints.sort();
    page.push_str(PROJECTORS);
    for known in known_projectors() {
        let shown: Vec<String> = checkpoints
            .iter()
            .filter(|(_, model_type)| model_type == known.model_type)
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let said = |is_so: bool| if is_so { "yes" } else { "no" };
        let (sees, hears) = (said(known.sees), said(known.hears));
        writeln!(page, "| `{}` | {sees} | {hears} | {} |", known.model_type, shown.join(", "))?;
    }
    Ok(())
}

/// The committed checkpoints, by name.
fn checkpoints(folder: &Path) -> Result<Vec<Checkpoint>> {
    let mut checkpoints = Vec::new();
    for entry in fs::read_dir(folder).context(folder.display().to_string())? {
        let path = entry?.path();
        let config = fs::read(path.join("config.json")).context(path.display().to_string())?;
        let mut config: Value = serde_json::from_slice(&config)?;
        let class = config["architectures"][0].as_str().context("a class")?.to_owned();
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        let has_logits = path.join("golden-logits.json").exists();
        let text = config.get_mut("text_config").map(Value::take);
        let Value::Object(config) = text.unwrap_or(config) else {
            anyhow::bail!("{}: is no object", path.display());
        };
        checkpoints.push(Checkpoint { name, class, config, has_logits });
    }
    checkpoints.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(checkpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    #[test]
    fn the_page_is_that_of_the_registry() {
        let written = fs::read_to_string(root().join(PAGE)).expect("the page");
        assert!(written == page(root()).expect("a page"), "run `cargo xtask families`");
    }

    #[test]
    fn every_family_has_a_checkpoint() {
        let checkpoints = checkpoints(&root().join(CHECKPOINTS)).expect("checkpoints");
        for family in ARCHITECTURES {
            let has = |own: &Checkpoint| own.is_of(*family);
            let (name, class) = (family.gguf_name(), family.class_names()[0]);
            assert!(checkpoints.iter().any(has), "{name}, {class}");
        }
    }
}
