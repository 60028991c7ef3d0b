//! The files beside a checkpoint's weights, as they are to be written.

use qz_tensor::{FileError, Location, SideFile, SideFiles, Warning};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::JsonObject;
use crate::error::Error;

const CONFIG: &str = "config.json";

/// The keys of `config.json` for the weights' element type: that of transformers
/// 5, and that of the versions before.
const TYPE_KEYS: [&str; 2] = ["dtype", "torch_dtype"];

/// How many layers only predict further tokens, in the words of several families.
const FURTHER_KEYS: [&str; 3] =
    ["num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers"];

/// What a checkpoint with quantized weights says of them; it does not go with others.
const QUANTIZATION_KEYS: [&str; 3] = ["quantization_config", "quantization", "compression_config"];
const QUANTIZATION_FILES: [&str; 4] = [
    "quantize_config.json",
    "quant_config.json",
    "quantization_config.json",
    "hf_quant_config.json",
];

/// The files beside the weights.
#[derive(Clone, Debug)]
pub struct CheckpointFiles {
    /// `config.json`, but for the element type.
    pub(crate) config: Map<String, Value>,
    /// The others, as they are.
    pub(crate) others: Vec<SideFile>,
}

impl CheckpointFiles {
    /// Reads those of a checkpoint: configuration, tokenizer, templates, licences,
    /// code; not what says how its weights are quantized. Folders in it are passed over, with a warning where they are known to
    /// hold something.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read(files: &dyn SideFiles, warnings: &mut Vec<Warning>) -> Result<Self, Error> {
        let read = |name: &str| files.read(name).map_err(|error: FileError| Error::File(error));
        let config = read(CONFIG)?.ok_or_else(|| Error::MissingFile(files.path(CONFIG)))?;
        let config = JsonObject::parse(files.path(CONFIG), &config)?;
        let mut others = Vec::new();
        for name in files.list("").map_err(Error::File)? {
            if name != CONFIG && !QUANTIZATION_FILES.contains(&&*name) && is_side_file(&name) {
                // One that was there a moment ago is no reason to leave it out.
                let content = read(&name)?.ok_or_else(|| Error::MissingFile(files.path(&name)))?;
                others.push(SideFile { name, content });
            }
        }
        for folder in ["additional_chat_templates", "1_Pooling"] {
            if !files.list(folder).map_err(Error::File)?.is_empty() {
                warnings.push(Warning {
                    location: Location::file(files.path(folder)),
                    rule: "folder-not-copied",
                    message: "the files of this folder are not copied".to_owned(),
                });
            }
        }
        let mut config = config.into_map();
        QUANTIZATION_KEYS.iter().for_each(|key| drop(config.shift_remove(*key)));
        Ok(Self { config, others })
    }

    /// The element type that `config.json` states, in torch's word.
    pub fn stated_type(&self) -> Option<&str> {
        TYPE_KEYS.iter().find_map(|key| self.config.get(*key)?.as_str())
    }

    /// The same of a checkpoint without layers that only predict further tokens: readers look
    /// for as many as `config.json` states.
    pub fn without_further_layers(mut self) -> Self {
        set_to_none(&mut self.config);
        if let Some(Value::Object(text)) = self.config.get_mut("text_config") {
            set_to_none(text);
        }
        self
    }

    /// The same with another entry in `config.json`, and files of these names
    /// replaced.
    pub fn with_entries(
        mut self,
        entries: impl IntoIterator<Item = (&'static str, Value)>,
        files: Vec<SideFile>,
    ) -> Self {
        for (key, value) in entries {
            self.config.insert(key.to_owned(), value);
        }
        self.others.retain(|other| files.iter().all(|file| file.name != other.name));
        self.others.extend(files);
        self
    }

    /// All files for weights of this element type, `config.json` first. The type's
    /// name is torch's.
    pub fn with_type(&self, data_type: &str) -> Vec<SideFile> {
        let mut config = self.config.clone();
        let stated = TYPE_KEYS.iter().filter(|key| config.contains_key(**key)).copied();
        let mut keys: Vec<&str> = stated.collect();
        if keys.is_empty() {
            keys.extend(TYPE_KEYS);
        }
        for key in keys {
            config.insert(key.to_owned(), data_type.into());
        }
        let config = SideFile { name: CONFIG.to_owned(), content: pretty(&config) };
        std::iter::once(config).chain(self.others.iter().cloned()).collect()
    }
}

/// No layers that only predict further tokens, where a number of them is stated.
fn set_to_none(config: &mut Map<String, Value>) {
    for key in FURTHER_KEYS {
        if let Some(count) = config.get_mut(key).filter(|count| !count.is_null()) {
            *count = 0.into();
        }
    }
}

/// Files that go with a model, whatever its weights are stored as.
fn is_side_file(name: &str) -> bool {
    const ENDINGS: &[&str] = &[".json", ".jinja", ".txt", ".model", ".md", ".py", ".tiktoken"];
    const NAMES: &[&str] = &["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"];
    let is_index = name.ends_with(".index.json");
    let is_known = ENDINGS.iter().any(|ending| name.ends_with(ending)) || NAMES.contains(&name);
    is_known && !is_index && !name.starts_with('.')
}

/// JSON as people read it.
pub(crate) fn pretty(value: &impl Serialize) -> Vec<u8> {
    // Maps with string keys always serialize.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_no_side_files() {
        let check = |name: &str, expected: bool| assert_eq!(is_side_file(name), expected, "{name}");
        check("tokenizer.json", true);
        check("tokenizer.model", true);
        check("chat_template.jinja", true);
        check("LICENSE", true);
        check("model.safetensors", false);
        check("model.safetensors.index.json", false);
        check("pytorch_model.bin", false);
        check(".gitattributes", false);
        check(".hidden.json", false);
    }

    #[test]
    fn the_type_replaces_the_one_that_is_stated() {
        let check = |config: &str, expected: &str| {
            let Ok(Value::Object(config)) = serde_json::from_str(config) else {
                panic!("an object")
            };
            let files = CheckpointFiles { config, others: Vec::new() }.with_type("float16");
            let found: Value = serde_json::from_slice(&files[0].content).expect("JSON");
            assert_eq!(found, serde_json::from_str::<Value>(expected).expect("JSON"));
        };
        check(r#"{"dtype": "bfloat16"}"#, r#"{"dtype": "float16"}"#);
        check(r#"{"torch_dtype": "bfloat16"}"#, r#"{"torch_dtype": "float16"}"#);
        check("{}", r#"{"dtype": "float16", "torch_dtype": "float16"}"#);
    }
}
