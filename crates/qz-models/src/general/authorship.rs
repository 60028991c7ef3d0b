//! Name, author, licence and ancestry, from the model card, `config.json` and
//! the folder's name, in that order of trust
//! (`Metadata.apply_metadata_heuristic` in `gguf-py/gguf/metadata.py`).

use qz_tensor::Metadata;

use super::card::{Card, Node};
use super::name::{NameParts, title};

/// What is known about a model's name and origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Authorship {
    pub(crate) name: Option<String>,
    author: Option<String>,
    version: Option<String>,
    organization: Option<String>,
    finetune: Option<String>,
    basename: Option<String>,
    description: Option<String>,
    pub(crate) size_label: Option<String>,
    license: Option<String>,
    license_name: Option<String>,
    license_link: Option<String>,
    source_url: Option<String>,
    source_doi: Option<String>,
    source_uuid: Option<String>,
    source_repo_url: Option<String>,
    base_models: Option<Vec<Ancestor>>,
    datasets: Option<Vec<Ancestor>>,
    tags: Option<Vec<String>>,
    languages: Option<Vec<String>>,
}

/// A model or data set that the model was made from: its facts by key, in the
/// order of [`ANCESTOR_KEYS`].
type Ancestor = Vec<(&'static str, String)>;

const ANCESTOR_KEYS: [&str; 9] =
    ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];

impl Authorship {
    /// Takes what the model card says.
    pub(crate) fn read_card(&mut self, card: &Card, parameters: u64) {
        // llama.cpp's own keys first, then the same with `model_` before them.
        for prefix in ["", "model_"] {
            for (field, key) in [
                (&mut self.name, "name"),
                (&mut self.author, "author"),
                (&mut self.version, "version"),
                (&mut self.organization, "organization"),
                (&mut self.description, "description"),
                (&mut self.finetune, "finetune"),
                (&mut self.basename, "basename"),
                (&mut self.size_label, "size_label"),
                (&mut self.source_url, "url"),
                (&mut self.source_doi, "doi"),
                (&mut self.source_uuid, "uuid"),
                (&mut self.source_repo_url, "repo_url"),
            ] {
                keep(field, card.text(&format!("{prefix}{key}")));
            }
        }
        keep(&mut self.author, card.text("model_creator"));
        keep(&mut self.basename, card.text("model_type"));
        self.base_models =
            ancestors(card, ["base_model", "base_models", "base_model_sources"], parameters);
        self.datasets = ancestors(card, ["datasets", "dataset", "dataset_sources"], parameters);
        let license = card.texts("license").map(|licenses| licenses.join(","));
        keep(&mut self.license, license.as_deref());
        keep(&mut self.license_name, card.text("license_name"));
        keep(&mut self.license_link, card.text("license_link"));
        self.tags = joined(card, ["tags", "pipeline_tag"]);
        self.languages = joined(card, ["languages", "language"]);
    }

    /// Takes what a model id says (`_name_or_path` of `config.json`, or the
    /// folder's name).
    pub(crate) fn read_id(&mut self, id: &str, parameters: u64) {
        let parts = NameParts::of(id, parameters);
        keep(&mut self.name, parts.full_name.as_deref().map(title).as_deref());
        keep(&mut self.organization, parts.organization.as_deref().map(title).as_deref());
        keep(&mut self.basename, parts.basename.as_deref());
        keep(&mut self.finetune, parts.finetune.as_deref());
        keep(&mut self.version, parts.version.as_deref());
        keep(&mut self.size_label, parts.size_label.as_deref());
    }

    /// Adds the keys, in the reference's order. Empty strings and lists are left
    /// out, as its writer does.
    pub(crate) fn write(&self, metadata: &mut Metadata) {
        set(metadata, "name", self.name.as_deref());
        set(metadata, "author", self.author.as_deref());
        set(metadata, "version", self.version.as_deref());
        set(metadata, "organization", self.organization.as_deref());
        set(metadata, "finetune", self.finetune.as_deref());
        set(metadata, "basename", self.basename.as_deref());
        set(metadata, "description", self.description.as_deref());
        set(metadata, "size_label", self.size_label.as_deref());
        set(metadata, "license", self.license.as_deref());
        set(metadata, "license.name", self.license_name.as_deref());
        set(metadata, "license.link", self.license_link.as_deref());
        set(metadata, "source.url", self.source_url.as_deref());
        set(metadata, "source.doi", self.source_doi.as_deref());
        set(metadata, "source.uuid", self.source_uuid.as_deref());
        set(metadata, "source.repo_url", self.source_repo_url.as_deref());
        write_ancestors(metadata, "base_model", self.base_models.as_deref());
        write_ancestors(metadata, "dataset", self.datasets.as_deref());
        for (key, list) in [("tags", &self.tags), ("languages", &self.languages)] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                metadata.set(format!("general.{key}"), list.clone());
            }
        }
    }
}

/// Sets a field that nothing has set yet.
fn keep(field: &mut Option<String>, value: Option<&str>) {
    if field.is_none() {
        *field = value.map(str::to_owned);
    }
}

fn set(metadata: &mut Metadata, key: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        metadata.set(format!("general.{key}"), value);
    }
}

fn write_ancestors(metadata: &mut Metadata, kind: &str, ancestors: Option<&[Ancestor]>) {
    let Some(ancestors) = ancestors else { return };
    metadata.set(format!("general.{kind}.count"), ancestors.len() as u32);
    for (position, ancestor) in ancestors.iter().enumerate() {
        for (key, value) in ancestor {
            set(metadata, &format!("{kind}.{position}.{key}"), Some(value));
        }
    }
}

/// The lists under all `keys`, one after the other.
fn joined<const N: usize>(card: &Card, keys: [&str; N]) -> Option<Vec<String>> {
    let lists: Vec<Vec<String>> = keys.iter().filter_map(|key| card.texts(key)).collect();
    (!lists.is_empty()).then(|| lists.concat())
}

/// What the first of `keys` that is there lists.
fn ancestors<const N: usize>(
    card: &Card,
    keys: [&str; N],
    parameters: u64,
) -> Option<Vec<Ancestor>> {
    let node = keys.iter().find_map(|key| card.get(key))?;
    let nodes = match node {
        Node::Text(_) => std::slice::from_ref(node),
        Node::List(nodes) => nodes,
        Node::Null | Node::Map(_) => &[],
    };
    Some(nodes.iter().map(|node| ancestor(node, parameters)).collect())
}

fn ancestor(node: &Node, parameters: u64) -> Ancestor {
    match node {
        Node::Text(id) => ancestor_of_id(id, parameters),
        Node::Map(entries) => {
            let text = |key: &'static str| {
                let (_, node) = entries.iter().rev().find(|(known, _)| known == key)?;
                Some((key, node.text()?))
            };
            ANCESTOR_KEYS.into_iter().filter_map(text).collect()
        }
        Node::Null | Node::List(_) => Vec::new(),
    }
}

/// The host whose addresses contain model ids.
const HUB: &str = "huggingface.co";

fn ancestor_of_id(id: &str, parameters: u64) -> Ancestor {
    let is_address = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
    let (parts, address) = if is_address {
        let parts = hub_id(id).map(|id| NameParts::of(id, parameters)).unwrap_or_default();
        (parts, Some(id.to_owned()))
    } else {
        let parts = NameParts::of(id, parameters);
        let address = match (&parts.organization, &parts.full_name) {
            (Some(organization), Some(name)) => {
                Some(format!("https://{HUB}/{organization}/{name}"))
            }
            _ => None,
        };
        (parts, address)
    };
    let facts = [
        ("name", parts.full_name.as_deref().map(title)),
        ("version", parts.version),
        ("organization", parts.organization.as_deref().map(title)),
        ("repo_url", address),
    ];
    facts.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// `organization/name` of an address on the hub.
fn hub_id(address: &str) -> Option<&str> {
    let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"))?;
    let id = rest.strip_prefix(HUB)?.strip_prefix('/')?;
    let (organization, name) = id.split_once('/')?;
    (!organization.is_empty() && !name.is_empty() && !name.contains('/')).then_some(id)
}
