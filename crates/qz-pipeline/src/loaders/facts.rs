//! What rules look at: the configuration and the tensors as they are stored.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use qz_tensor::{DataType, Presence, SideFiles, TensorIndex, TensorInfo, TensorSource};
use regex::Regex;
use serde_json::{Map, Value};

use super::Engine;
use crate::container;
use crate::error::Error;
use crate::folder::Folder;

/// A packed checkpoint.
pub(super) struct Facts<'a> {
    pub(super) engine: Option<Engine>,
    /// `quant_method`.
    pub(super) method: String,
    /// `quantization_config`.
    pub(super) config: Map<String, Value>,
    /// All of `config.json`.
    pub(super) model: Map<String, Value>,
    /// `quantize_config.json`, if it is there.
    pub(super) quantize_config: Option<Value>,
    source: Box<dyn TensorSource + 'a>,
    names: HashMap<String, TensorIndex>,
    /// Modules with packed weights, by the tensors that only these have.
    pub(super) packed: BTreeSet<String>,
    /// Modules with a plain matrix that could be packed.
    pub(super) plain: BTreeSet<String>,
}

/// What only packed modules have.
const MARKERS: &[&str] = &[
    "qweight",
    "qzeros",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight.absmax",
    "SCB",
    "scales",
    "codes",
    "W_q",
];

impl Facts<'_> {
    /// Of the checkpoint at `path`; none if it has no packed weights.
    pub(super) fn read(path: &Path, engine: Option<Engine>) -> Result<Option<Self>, Error> {
        if Presence::of(path)? != Presence::Folder {
            return Ok(None);
        }
        let folder = Folder::new(path)?;
        let Some(config) = container::quantization(&folder)? else { return Ok(None) };
        let json = |name: &str| -> Result<Option<Value>, Error> {
            Ok(folder.read(name)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
        };
        let model = json("config.json")?.and_then(|value| match value {
            Value::Object(model) => Some(model),
            _ => None,
        });
        let (source, _) = container::open_weights(path)?;
        let tensors = source.tensors().iter().enumerate();
        let names: HashMap<String, TensorIndex> =
            tensors.map(|(position, info)| (info.name.clone(), TensorIndex(position))).collect();
        let module = |name: &String| {
            MARKERS
                .iter()
                .find_map(|marker| name.strip_suffix(marker)?.strip_suffix('.'))
                .map(str::to_owned)
        };
        let packed: BTreeSet<String> = names.keys().filter_map(module).collect();
        let plain = source
            .tensors()
            .iter()
            .filter_map(plain_module)
            .filter(|module| !packed.contains(module))
            .collect();
        let method = config.get("quant_method").and_then(Value::as_str).unwrap_or_default();
        Ok(Some(Self {
            engine,
            method: method.to_owned(),
            config,
            model: model.unwrap_or_default(),
            quantize_config: json("quantize_config.json")?,
            source,
            names,
            packed,
            plain,
        }))
    }

    pub(super) fn tensor(&self, module: &str, part: &str) -> Option<&TensorInfo> {
        let index = self.names.get(&format!("{module}.{part}"))?;
        Some(&self.source.tensors()[index.0])
    }

    /// The dimensions of a matrix.
    pub(super) fn matrix(&self, module: &str, part: &str) -> Option<[u64; 2]> {
        self.tensor(module, part)?.shape.dimensions().try_into().ok()
    }

    /// The first bytes of a tensor, at most `most`.
    pub(super) fn bytes(&self, module: &str, part: &str, most: u64) -> Option<Vec<u8>> {
        let index = self.names.get(&format!("{module}.{part}"))?;
        let mut bytes = vec![0; self.source.tensors()[index.0].bytes.min(most) as usize];
        self.source.read(*index, 0, &mut bytes).ok()?;
        Some(bytes)
    }

    pub(super) fn number(&self, key: &str) -> Option<i64> {
        self.config.get(key)?.as_i64()
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key)?.as_bool()
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.config.get(key)?.as_str()
    }

    /// compressed-tensors: what the groups say of weights, and of the rest.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
        let groups = self.config.get("config_groups").and_then(Value::as_object);
        let groups = groups.into_iter().flatten();
        groups.filter_map(|(name, group)| Some((&**name, group.as_object()?)))
    }

    /// Modules that an engine multiplies by together.
    pub(super) fn fused(&self) -> Vec<Vec<&str>> {
        const FUSED: &[&[&str]] =
            &[&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"], &["w1", "w3"]];
        let mut groups: HashMap<(String, usize), Vec<&str>> = HashMap::new();
        for module in self.packed.iter().chain(&self.plain) {
            let Some((before, last)) = module.rsplit_once('.') else { continue };
            if let Some(kind) = FUSED.iter().position(|names| names.contains(&last)) {
                groups.entry((before.to_owned(), kind)).or_default().push(module);
            }
        }
        let mut groups: Vec<Vec<&str>> = groups.into_values().collect();
        groups.iter_mut().for_each(|group| group.sort_unstable());
        groups.sort_unstable();
        groups
    }

    /// True if the configuration says that a module is not packed.
    pub(super) fn is_ignored(&self, module: &str) -> bool {
        let list = |key: &str| {
            let names = self.config.get(key).and_then(Value::as_array).into_iter().flatten();
            names.filter_map(Value::as_str).collect::<Vec<_>>()
        };
        let pattern = |text: &str| {
            let anchored = Regex::new(&format!("^(?:{text})"));
            anchored.is_ok_and(|pattern| pattern.is_match(module))
        };
        match &*self.method {
            "compressed-tensors" => {
                list("ignore").into_iter().any(|name| match name.strip_prefix("re:") {
                    Some(text) => pattern(text),
                    None => name == module,
                })
            }
            "gptq" => {
                let rules = self.config.get("dynamic").and_then(Value::as_object);
                let mut rules = rules.into_iter().flatten();
                (module == "lm_head" && self.flag("lm_head") != Some(true))
                    || rules.any(|(rule, _)| rule.strip_prefix("-:").is_some_and(pattern))
            }
            "modelopt" => {
                let wild = |name: &&str| {
                    let text = regex::escape(name).replace("\\*", ".*");
                    Regex::new(&format!("^{text}$")).is_ok_and(|known| known.is_match(module))
                };
                list("ignore").iter().any(wild) || list("exclude_modules").iter().any(wild)
            }
            _ => {
                let keys = ["modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules"];
                // Engines leave the output matrix of these alone by themselves.
                (module == "lm_head" && matches!(&*self.method, "awq" | "mlx"))
                    || keys.iter().flat_map(|key| list(key)).any(|name| module.contains(name))
            }
        }
    }
}

/// A module whose matrix an engine multiplies by. Embeddings are looked up.
fn plain_module(info: &TensorInfo) -> Option<String> {
    let module = info.name.strip_suffix(".weight")?;
    let is_float = [DataType::F32, DataType::F16, DataType::BF16].contains(&info.data_type);
    let last = module.rsplit('.').next().unwrap_or(module);
    let is_linear = !last.contains("embed") && !last.contains("norm") && last != "wte";
    (is_float && is_linear && info.shape.rank() == 2).then(|| module.to_owned())
}
