//! Classes of larger models, whose text is of a class of its own: what is theirs is taken away,
//! and the rest is read as that class.

use serde_json::{Value, json};

use crate::architecture::{Architecture, Rename};
use crate::architectures::ARCHITECTURES;
use crate::config::JsonObject;
use crate::error::Error;

/// The classes. What they see or hear with is the projector's business.
pub const LARGER_CLASSES: &[&str] = &[
    "LlavaForConditionalGeneration",
    "VoxtralForConditionalGeneration",
    "Qwen2AudioForConditionalGeneration",
    "Lfm2VlForConditionalGeneration",
    "InternVLForConditionalGeneration",
    "InternVLChatModel",
    "Idefics3ForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
];

/// The keys under which configurations speak of the text.
const TEXT_KEYS: &[&str] = &["text_config", "llm_config"];

/// Keys beside it that are the text's, too.
const COMMON_KEYS: &[&str] = &[
    "tie_word_embeddings",
    "dtype",
    "torch_dtype",
    "quantization_config",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "vocab_size",
];

/// How tensors' names begin: those of the text, and of other parts.
const RENAMES: &[Rename] = &[
    Rename::Prefix("language_model.model.", "model."),
    Rename::Prefix("language_model.lm_head.", "lm_head."),
    Rename::Prefix("model.language_model.", "model."),
    Rename::Prefix("model.text_model.", "model."),
];
const OTHER_PARTS: &[&str] = &[
    "vision_tower.",
    "vision_model.",
    "audio_tower.",
    "multi_modal_projector.",
    "mlp1.",
    "model.vision_tower.",
    "model.vision_model.",
    "model.audio_tower.",
    "model.multi_modal_projector.",
    "model.connector.",
];

/// Other spellings of a model's tensors: the architecture's, and those of what it is a part of.
pub(crate) fn renames(
    architecture: &dyn Architecture,
    json: &JsonObject,
) -> impl Iterator<Item = Rename> {
    let of_larger = if json.is_part() { RENAMES } else { &[] };
    of_larger.iter().chain(architecture.renames()).copied()
}

/// True for the name of a tensor that belongs to other parts of a larger model.
pub(crate) fn is_apart(architecture: &dyn Architecture, json: &JsonObject, name: &str) -> bool {
    let is_other = || OTHER_PARTS.iter().any(|beginning| name.starts_with(beginning));
    architecture.is_apart(name) || (json.is_part() && is_other())
}

/// The configuration of the part that reads and writes text.
pub(crate) fn text_config(json: JsonObject) -> Result<JsonObject, Error> {
    let class = json.get("architectures").and_then(|classes| classes.get(0));
    let class = class.and_then(Value::as_str);
    if !class.is_some_and(|class| LARGER_CLASSES.contains(&class)) {
        return json.with_text_config();
    }
    for key in TEXT_KEYS {
        let Some(text) = json.object(key)? else { continue };
        let class = text_class(&text)?;
        let mut part = json.part(text);
        for key in COMMON_KEYS {
            if let Some(value) = json.get(key) {
                part.set_default(key, value.clone());
            }
        }
        part.set("architectures", json!([class]));
        return Ok(part);
    }
    Err(json.fault(TEXT_KEYS[0], "is missing"))
}

/// The text's class: the one that it names, or that of its `model_type`.
fn text_class(text: &JsonObject) -> Result<&'static str, Error> {
    const KEY: &str = "model_type";
    let own = text.get("architectures").and_then(|classes| classes.get(0));
    let own = own.and_then(Value::as_str);
    let classes = || ARCHITECTURES.iter().flat_map(|known| known.class_names());
    if let Some(class) = classes().find(|class| Some(**class) == own) {
        return Ok(class);
    }
    let model_type = text.string(KEY)?.ok_or_else(|| text.fault(KEY, "is missing"))?;
    let mut known = ARCHITECTURES.iter();
    let known = known.find(|known| known.defaults().model_type == model_type);
    let class = known.and_then(|known| known.class_names().first());
    class.copied().ok_or_else(|| {
        text.fault(KEY, format!("is {model_type:?}, and no known class of text is of that type"))
    })
}
