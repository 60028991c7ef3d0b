//! What rules look at: the configuration and the tensors, as they are stored or as they are
//! about to be.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qz_packed::{Exception, FUSED, Patterns, fused_name};
use qz_tensor::{
    DataType, FileError, SideFile, SideFiles, SinkTensor, TensorIndex, TensorInfo, TensorSource,
};
use serde_json::{Map, Value};

use super::Engine;
use crate::container::{self, QuantizationConfig};
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
    tensors: Vec<TensorInfo>,
    /// None before anything is written.
    source: Option<Box<dyn TensorSource + 'a>>,
    names: HashMap<String, TensorIndex>,
    /// Modules with packed weights, by the tensors that only these have.
    pub(super) packed: BTreeSet<String>,
    /// Modules with a plain matrix that could be packed.
    pub(super) plain: BTreeSet<String>,
    pub(super) patterns: Patterns,
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
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Error> {
        let Some(folder) = container::folder_of(path)? else { return Ok(None) };
        let folder = Folder::new(&folder)?;
        let (source, _) = container::open_weights(path)?;
        let quantization = container::quantization(&folder, &*source);
        // Whoever opens the model says what is wrong with it.
        let Ok(Some(QuantizationConfig { config, .. })) = quantization else { return Ok(None) };
        let tensors = source.tensors().to_vec();
        Ok(Some(Self { source: Some(source), ..Self::of(&folder, config, tensors)? }))
    }

    /// Of a checkpoint that is planned; none if it has no packed weights.
    pub(super) fn planned(planned: &Planned<'_>) -> Result<Option<Self>, Error> {
        let Some(QuantizationConfig { config, .. }) = container::stated_quantization(planned)?
        else {
            return Ok(None);
        };
        let nowhere: Arc<Path> = Path::new("").into();
        let info = |tensor: &SinkTensor| TensorInfo {
            name: tensor.name.as_str().into(),
            data_type: tensor.data_type,
            shape: tensor.shape.clone(),
            file: nowhere.clone(),
            offset: 0,
            bytes: tensor.shape.byte_size(tensor.data_type).unwrap_or_default(),
        };
        Ok(Some(Self::of(planned, config, planned.tensors.iter().map(info).collect())?))
    }

    fn of(
        files: &dyn SideFiles,
        config: Map<String, Value>,
        tensors: Vec<TensorInfo>,
    ) -> Result<Self, Error> {
        let json = |name: &str| -> Result<Option<Value>, Error> {
            Ok(files.read(name)?.and_then(|bytes| qz_shards::json::settings(&bytes).ok()))
        };
        let model = json("config.json")?.and_then(|value| match value {
            Value::Object(model) => Some(model),
            _ => None,
        });
        let numbered = tensors.iter().enumerate();
        let names: HashMap<String, TensorIndex> = numbered
            .map(|(position, info)| (info.name.to_string(), TensorIndex(position)))
            .collect();
        let module = |name: &String| {
            MARKERS
                .iter()
                .find_map(|marker| name.strip_suffix(marker)?.strip_suffix('.'))
                .map(str::to_owned)
        };
        let packed: BTreeSet<String> = names.keys().filter_map(module).collect();
        let plain = tensors
            .iter()
            .filter_map(plain_module)
            .filter(|module| !packed.contains(module))
            .collect();
        let method = config.get("quant_method").and_then(Value::as_str).unwrap_or_default();
        Ok(Self {
            engine: None,
            method: method.to_owned(),
            config,
            model: model.unwrap_or_default(),
            quantize_config: json("quantize_config.json")?,
            tensors,
            source: None,
            names,
            packed,
            plain,
            patterns: Patterns::default(),
        })
    }

    pub(super) fn tensor(&self, module: &str, part: &str) -> Option<&TensorInfo> {
        let index = self.names.get(&format!("{module}.{part}"))?;
        Some(&self.tensors[index.0])
    }

    /// The dimensions of a matrix.
    pub(super) fn matrix(&self, module: &str, part: &str) -> Option<[u64; 2]> {
        self.tensor(module, part)?.shape.dimensions().try_into().ok()
    }

    /// The first bytes of a tensor, at most `most`.
    pub(super) fn bytes(&self, module: &str, part: &str, most: u64) -> Option<Vec<u8>> {
        let index = self.names.get(&format!("{module}.{part}"))?;
        let mut bytes = vec![0; self.tensors[index.0].bytes.min(most) as usize];
        self.source.as_ref()?.read(*index, 0, &mut bytes).ok()?;
        Some(bytes)
    }

    pub(super) fn number(&self, key: &str) -> Option<i64> {
        self.config.get(key)?.as_i64()
    }

    /// What the configuration says of a module, which GPTQ may have exceptions for; none where
    /// that cannot be known.
    pub(super) fn number_of(&self, module: &str, key: &str) -> Option<i64> {
        if self.method != "gptq" {
            return self.number(key);
        }
        match self.exception(module) {
            Exception::Unknown => None,
            known => known.number(&self.config, key),
        }
    }

    /// GPTQ: what its rules say of a module of this name.
    pub(super) fn exception(&self, name: &str) -> Exception<'_> {
        Exception::of_patterns(&self.config, name, &self.patterns)
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

    /// The name that an engine holds GPTQ's rules for a module to.
    pub(super) fn rule_name<'m>(&self, module: &'m str, engine: Option<Engine>) -> Cow<'m, str> {
        match engine {
            Some(Engine::Vllm | Engine::Sglang) => {
                fused_name(module, |name| self.packed.contains(name) || self.plain.contains(name))
            }
            _ => module.into(),
        }
    }

    /// Modules that an engine multiplies by together.
    pub(super) fn fused(&self) -> Vec<Vec<&str>> {
        let mut groups: HashMap<(String, usize), Vec<&str>> = HashMap::new();
        for module in self.packed.iter().chain(&self.plain) {
            let Some((before, last)) = module.rsplit_once('.') else { continue };
            if let Some(kind) = FUSED.iter().position(|(names, _)| names.contains(&last)) {
                groups.entry((before.to_owned(), kind)).or_default().push(module);
            }
        }
        let mut groups: Vec<Vec<&str>> = groups.into_values().collect();
        groups.iter_mut().for_each(|group| group.sort_unstable());
        groups.sort_unstable();
        groups
    }
}

/// An artifact that is planned.
pub(crate) struct Planned<'a> {
    pub(crate) is_gguf: bool,
    pub(crate) tensors: &'a [SinkTensor],
    /// The files beside the weights.
    pub(crate) files: &'a [SideFile],
}

impl SideFiles for Planned<'_> {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        let file = self.files.iter().find(|file| file.name == name);
        Ok(file.map(|file| file.content.clone()))
    }

    fn list(&self, _folder: &str) -> Result<Vec<String>, FileError> {
        Ok(self.files.iter().map(|file| file.name.clone()).collect())
    }

    fn folder_name(&self) -> Option<&str> {
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        name.into()
    }
}

/// Names of embeddings that do not say so: GPT-2's of tokens and positions, T5's of tokens.
const EMBEDDINGS: &[&str] = &["wte", "wpe", "shared"];

/// A module whose matrix an engine multiplies by. Embeddings are looked up.
fn plain_module(info: &TensorInfo) -> Option<String> {
    let module = info.name.strip_suffix(".weight")?;
    let is_float = [DataType::F32, DataType::F16, DataType::BF16].contains(&info.data_type);
    let last = module.rsplit('.').next().unwrap_or(module);
    let is_linear =
        !last.contains("embed") && !last.contains("norm") && !EMBEDDINGS.contains(&last);
    (is_float && is_linear && info.shape.rank() == 2).then(|| module.to_owned())
}
