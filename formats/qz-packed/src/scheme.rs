//! What can be written, as a list to walk: schemes of a whole checkpoint.

use std::fmt;

use qz_codec::activations::Activations;
use qz_tensor::{DataType, Shape, SideFile};
use serde_json::{Map, Value, json};

use crate::inputs::InputPart;
use crate::layout::Layout;
use crate::layouts;

/// What stands before the colon of a target (`gptq` of `gptq:w4g128`), and what may
/// stand behind it.
pub struct SchemeFamily {
    /// Its name.
    pub name: &'static str,
    /// The schemes that help texts list; others are like them. The usual one comes first.
    pub examples: &'static [&'static str],
    /// How its schemes are spelled, for a person who has spelled one wrong.
    pub form: &'static str,
    /// What configurations call it: `quant_method`.
    pub method: &'static str,
    /// Whether a checkpoint may have several of its schemes.
    pub mixing: Mixing,
    /// How scales of cached keys and values are stored, if configurations can say that there are
    /// such.
    pub cache_part: Option<CachePart>,
    /// The scheme of this name, if it is one.
    pub parse: fn(&str) -> Option<Box<dyn Scheme>>,
}

/// How a scale of cached keys or values is stored in a checkpoint of an element type: one, or one
/// of each of so many heads; none where that is not known.
pub type CachePart = fn(DataType, Option<u64>) -> Option<(DataType, Shape)>;

/// Whether the matrices of a checkpoint may have different schemes of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixing {
    /// No: the configuration speaks of all of them at once.
    None,
    /// Yes, but for those that engines multiply by together, and a layer's experts.
    Fused,
    /// Any of them.
    Free,
}

/// Every family that can be written.
pub static SCHEMES: &[SchemeFamily] = &[
    layouts::gptq::FAMILY,
    layouts::awq::FAMILY,
    layouts::compressed::FAMILY,
    layouts::fp8::FAMILY,
    layouts::modelopt::FAMILY,
    layouts::bitsandbytes::FAMILY,
    layouts::mlx::FAMILY,
    layouts::gpt_oss::FAMILY,
];

impl fmt::Debug for SchemeFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// How the matrices of a checkpoint are stored, and what its configuration says of it.
pub trait Scheme: Send + Sync + fmt::Debug {
    /// Its name in one spelling, for reports: `w4g128+v2`.
    fn name(&self) -> String;

    /// The same scheme with groups of so many columns, or one group for each row: None if it
    /// has no such form.
    fn with_group(&self, _group: Option<u64>) -> Option<Box<dyn Scheme>> {
        None
    }

    /// How a matrix is stored in a checkpoint whose other weights are of `model_type`.
    fn layout(&self, model_type: DataType) -> Box<dyn Layout>;

    /// True if nothing but experts is packed, those of a layer in tensors that they share: see
    /// [`Scheme::stacked`].
    fn packs_stacks(&self) -> bool {
        false
    }

    /// How the experts are stored that are called so where they are shown as stacks of plain
    /// matrices; none of a name that has no such place.
    fn stacked(&self, _shown_name: &str, _model_type: DataType) -> Option<Stacked> {
        None
    }

    /// True if the token embedding and the output matrix are stored like the matrices of
    /// layers, as the package stores them.
    fn packs_embeddings(&self) -> bool {
        false
    }

    /// What engines round the inputs of the matrices to.
    fn activations(&self) -> Activations {
        Activations::Full
    }

    /// Where a checkpoint has the number that these need of each matrix, if they need one
    /// ([`Activations::is_stored`]).
    fn input_part(&self, _model_type: DataType) -> Option<InputPart> {
        None
    }

    /// What the configuration says of modules with this scheme where others have another one.
    /// Null where the family's schemes do not mix.
    fn entry(&self) -> Value {
        Value::Null
    }

    /// A key that the configuration has but once, and its value: schemes that differ in it do
    /// not mix.
    fn common(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// What the configuration says.
    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration;
}

/// Experts whose parts are in tensors that they share.
#[derive(Debug)]
pub struct Stacked {
    /// What stands before the suffixes of parts.
    pub stem: String,
    /// How the matrix of one expert is stored. Tensors have a dimension more, for experts, and
    /// other matrices may have rows between these.
    pub layout: Box<dyn Layout>,
}

/// What a configuration has to know of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    /// Modules (tensor names without `.weight`) whose matrix is packed.
    pub modules: &'a [String],
    /// Those among them that have other schemes than the one which is asked.
    pub others: &'a [OtherScheme],
    /// Modules with a matrix that an engine multiplies by, left as it is: the output
    /// matrix, routers. Not the token embedding, which is looked up.
    pub left: &'a [String],
    /// The element type of what is left.
    pub model_type: DataType,
    /// How the matrices' values were chosen.
    pub provenance: &'a Provenance,
    /// The scales of cached keys and values that are stored, if there are any.
    pub cache: Option<CacheScales>,
}

/// Scales of cached keys and values, with which they fit eight bits (E4M3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheScales {
    /// One for a layer's keys, one for its values.
    Tensor,
    /// One for each head.
    Head,
}

/// Modules that have a scheme of their own.
#[derive(Clone, Debug)]
pub struct OtherScheme {
    /// [`Scheme::entry`].
    pub entry: Value,
    /// The modules.
    pub modules: Vec<String>,
}

/// How values were chosen, and by which program: what a configuration says of it.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// The method: `rtn` for plain rounding, `gptq`, and others.
    pub method: String,
    /// What error feedback was told, where that has chosen them.
    pub feedback: Option<Feedback>,
    /// What else is worth knowing.
    pub details: Map<String, Value>,
}

/// What error feedback was told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feedback {
    /// What was added to the diagonal, in parts of its mean.
    pub damping: f64,
    /// Whether matrices saw what the ones before them in their layer had become.
    pub sequential: bool,
    /// Whether groups were fixed first, and columns visited in another order than theirs.
    pub static_groups: bool,
}

impl Provenance {
    /// Of values that a method without error feedback has chosen.
    pub fn of(method: impl Into<String>) -> Self {
        Self { method: method.into(), feedback: None, details: Map::new() }
    }

    /// The object that goes into configurations, whose packages pass over it.
    pub fn meta(&self) -> Value {
        let mut meta = Map::new();
        let program = concat!("quantize:", env!("CARGO_PKG_VERSION"));
        meta.insert("quantizer".to_owned(), json!([program]));
        meta.insert("method".to_owned(), json!(self.method));
        if let Some(feedback) = self.feedback {
            meta.insert("damp_percent".to_owned(), json!(feedback.damping));
            meta.insert("true_sequential".to_owned(), json!(feedback.sequential));
            meta.insert("static_groups".to_owned(), json!(feedback.static_groups));
        }
        meta.extend(self.details.clone());
        Value::Object(meta)
    }
}

/// What is said of a scheme beside the weights.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The object under this key of `config.json`; `quantization_config` with nearly
    /// all.
    pub entries: Vec<(&'static str, Value)>,
    /// Files of its own.
    pub files: Vec<SideFile>,
}
