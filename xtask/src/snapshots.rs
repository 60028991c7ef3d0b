//! The file types' rules against llama.cpp's own record of its choices:
//! `tests/snapshots/*.schema` in its source tree lists, for a dozen real models
//! and every file type, each quantizable tensor that does not get the base type.
//!
//! The records name no shapes. What the rules need of them can be read off:
//! - which tensors there are: those named in any section (single matrices are all
//!   named in `MXFP4_MOE`, where only stacked ones keep the base type);
//! - which are stacked: those not named there;
//! - rows that do not fill blocks of 256: those that fall back in `Q6_K`, whose
//!   rules change nothing else; of 32: those that get F16 there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use qz_plan::{
    Fallback, FileType, ModelFacts, Overrides, PlannedTensor, Request, assign, layer_then_name,
};
use qz_tensor::{DataType, Shape};

/// Compares every file type on every recorded model in llama.cpp's source tree.
pub(crate) fn run(source: &Path) -> Result<()> {
    let folder = source.join("tests/snapshots");
    let mut differing = 0;
    println!("{:<32} {:>10} {:>11} {:>9}", "model", "file types", "assignments", "differing");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let text = fs::read_to_string(&path)?;
        let snapshot = Snapshot::parse(&text).with_context(|| path.display().to_string())?;
        let (compared, differences) = snapshot.compare()?;
        let types = snapshot.sections.len();
        println!("{:<32} {types:>10} {compared:>11} {:>9}", snapshot.name, differences.len());
        differences.iter().take(20).for_each(|difference| println!("    {difference}"));
        differing += differences.len();
    }
    ensure!(differing == 0, "{differing} types differ from the reference's");
    Ok(())
}

/// One model's record.
struct Snapshot {
    name: String,
    facts: ModelFacts,
    /// By file type, the tensors that do not get its base.
    sections: BTreeMap<String, Section>,
}

struct Section {
    base: DataType,
    exceptions: BTreeMap<String, DataType>,
}

impl Snapshot {
    fn parse(text: &str) -> Result<Self> {
        let header = |prefix: &str| {
            text.lines().find_map(|line| line.strip_prefix(prefix)).context("no header")
        };
        let name = header("# Model: ")?.to_owned();
        let facts = facts(&name, header("# n_embd")?)?;
        let mut sections: BTreeMap<String, Section> = BTreeMap::new();
        let mut current = None;
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.rsplit_once(' ').context("no type")?;
            let data_type =
                DataType::from_name(value).with_context(|| format!("unknown type {value}"))?;
            if let Some(title) = key.strip_prefix('[').and_then(|key| key.strip_suffix(']')) {
                let section = Section { base: data_type, exceptions: BTreeMap::new() };
                sections.insert(title.to_lowercase(), section);
                current = Some(title.to_lowercase());
            } else {
                let section = current.as_ref().and_then(|title| sections.get_mut(title));
                section
                    .context("a tensor before any section")?
                    .exceptions
                    .insert(key.into(), data_type);
            }
        }
        Ok(Self { name, facts, sections })
    }

    fn section(&self, name: &str) -> Result<&Section> {
        self.sections.get(name).with_context(|| format!("no section {name}"))
    }

    /// The tensors, as far as the rules ask about them.
    fn tensors(&self) -> Result<Vec<PlannedTensor>> {
        let (flat, narrow) = (self.section("mxfp4_moe")?, self.section("q6_k")?);
        let sections = self.sections.values();
        let names: BTreeSet<&String> =
            sections.flat_map(|section| section.exceptions.keys()).collect();
        let mut tensors = names
            .into_iter()
            .map(|name| {
                let columns = match narrow.exceptions.get(name) {
                    Some(data_type) if *data_type == DataType::F16 => 16,
                    Some(data_type) if *data_type == DataType::Q8_0 => 32,
                    _ => 256,
                };
                let matrices = if flat.exceptions.contains_key(name) { 1 } else { 2 };
                Ok(PlannedTensor {
                    name: name.clone(),
                    shape: Shape::new([matrices, 2, columns])?,
                    unquantized: DataType::F32,
                    source_type: DataType::F32,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        tensors.sort_by(|a, b| layer_then_name(&a.name, &b.name));
        Ok(tensors)
    }

    /// How many choices were compared, and those that differ.
    fn compare(&self) -> Result<(usize, Vec<String>)> {
        let tensors = self.tensors()?;
        let mut differences = Vec::new();
        for (title, section) in &self.sections {
            let Some(file_type) = FileType::from_name(title) else { bail!("no file type {title}") };
            if file_type.base != section.base {
                differences.push(format!("{title}: base {}", file_type.base));
            }
            let request = Request {
                file_type,
                facts: &self.facts,
                has_importance: false,
                overrides: &Overrides::default(),
                fallback: Fallback::Allowed,
            };
            for (tensor, ours) in tensors.iter().zip(assign(&request, &tensors)?) {
                let theirs = *section.exceptions.get(&tensor.name).unwrap_or(&section.base);
                if ours.data_type != theirs {
                    let (name, ours) = (&tensor.name, ours.data_type);
                    differences.push(format!("{title}: {name}: {ours}, the reference: {theirs}"));
                }
            }
        }
        Ok((tensors.len() * self.sections.len(), differences))
    }
}

/// The model's numbers, from the header's `key=value` pairs. Only one of the
/// recorded models is of an architecture that has rules of its own.
fn facts(name: &str, header: &str) -> Result<ModelFacts> {
    let number = |key: &str| -> Result<Option<u64>> {
        let mut pairs = header.split(", ").filter_map(|pair| pair.split_once('='));
        Ok(pairs.find(|(found, _)| *found == key).map(|(_, value)| value.parse()).transpose()?)
    };
    let needed = |key: &str| number(key)?.with_context(|| format!("no {key}"));
    let (layers, heads, key_heads) = (needed("n_layer")?, needed("n_head")?, needed("n_head_kv")?);
    let is_llama = name.contains("Llama");
    Ok(ModelFacts {
        architecture: if is_llama { "llama" } else { "another" }.to_owned(),
        layers: usize::try_from(layers)?,
        heads_per_key_head: heads.checked_div(key_heads).unwrap_or(0),
        experts: number("n_expert")?.unwrap_or(0),
        is_seventy_billion: is_llama && layers == 80 && heads != key_heads,
        is_generic: false,
    })
}
