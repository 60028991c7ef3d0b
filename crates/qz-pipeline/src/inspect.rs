//! `inspect`: what a model is, without reading its weights.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qz_tensor::{Array, Metadata, TensorSource, Value};
use serde::{Serialize, Serializer};

use crate::error::Error;
use crate::model::{Model, ModelTensor, OpenOptions};
use crate::quantization::Quantization;

/// What a model is. Metadata and tensors are described one by one when they are asked for:
/// headers are large where somebody wants them to be.
#[derive(Serialize)]
pub struct Inspection {
    /// Where it is.
    pub path: PathBuf,
    /// The container it came in.
    pub container: &'static str,
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// `general.name`.
    pub name: Option<String>,
    /// Weights over all tensors.
    pub weights: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Bits per weight over all tensors.
    pub bits_per_weight: f64,
    /// How a checkpoint says its matrices are quantized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// How the weights are stored, largest share first.
    pub types: Vec<TypeShare>,
    /// Metadata, long arrays shortened.
    pub metadata: ShownMetadata,
    /// The tensors.
    pub tensors: InspectedTensors,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// The tensors of one element type.
#[derive(Clone, Debug, Serialize)]
pub struct TypeShare {
    /// The type; of packed matrices what their package calls it.
    #[serde(rename = "type")]
    pub data_type: Cow<'static, str>,
    /// How many tensors.
    pub tensors: usize,
    /// Their weights.
    pub weights: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Metadata as text.
pub struct ShownMetadata(Metadata);

impl ShownMetadata {
    /// Keys, and values of which long arrays are shortened.
    pub fn iter(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(key, value)| (key, show(value)))
    }
}

impl Serialize for ShownMetadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// One tensor.
#[derive(Debug, Serialize)]
pub struct InspectedTensor<'a> {
    /// Its GGUF name.
    pub name: &'a str,
    /// Its dimensions, outermost first.
    pub shape: &'a [u64],
    /// How it is stored.
    #[serde(rename = "type")]
    pub data_type: Cow<'static, str>,
    /// Its bytes.
    pub bytes: u64,
}

/// All tensors.
pub struct InspectedTensors {
    tensors: Vec<ModelTensor>,
    /// Of packed matrices: how, and where their own names are.
    packed: Option<(Quantization, Arc<dyn TensorSource>)>,
}

impl InspectedTensors {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = InspectedTensor<'_>> {
        self.tensors.iter().map(|tensor| InspectedTensor {
            name: &tensor.name,
            shape: tensor.shape.dimensions(),
            data_type: self.type_of(tensor),
            bytes: tensor.stored_bytes(),
        })
    }

    /// How a tensor is stored: its element type, or what its package calls it.
    fn type_of(&self, tensor: &ModelTensor) -> Cow<'static, str> {
        let packed = self.packed.as_ref();
        let in_package = packed
            .and_then(|(quantization, source)| quantization.type_of_tensor(tensor, &**source));
        in_package.map_or_else(|| tensor.source_type.name().into(), Cow::from)
    }

    fn shares(&self) -> Vec<TypeShare> {
        let mut shares: Vec<TypeShare> = Vec::new();
        for tensor in &self.tensors {
            let data_type = self.type_of(tensor);
            let position = shares.iter().position(|share| share.data_type == data_type);
            let position = position.unwrap_or_else(|| {
                shares.push(TypeShare { data_type, tensors: 0, weights: 0, bytes: 0 });
                shares.len() - 1
            });
            let share = &mut shares[position];
            share.tensors += 1;
            share.weights += tensor.shape.elements();
            share.bytes += tensor.stored_bytes();
        }
        shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        shares
    }
}

impl Serialize for InspectedTensors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// Describes the model at `path`.
///
/// # Errors
/// If it cannot be opened.
pub fn inspect(path: &Path, options: &OpenOptions) -> Result<Inspection, Error> {
    // Whatever can be read is shown, of a known class or not.
    let options = OpenOptions { generic: true, ..options.clone() };
    let model = Model::open(path, &options)?;
    let quantization = model.quantization.clone().map(Quantization::of);
    let (weights, bits_per_weight) = (model.weights(), model.bits_per_weight());
    let Model { container, metadata, tensors, source, warnings, .. } = model;
    let packed = quantization.clone().map(|quantization| (quantization, source));
    let tensors = InspectedTensors { tensors, packed };
    Ok(Inspection {
        path: path.to_owned(),
        container,
        architecture: metadata.string("general.architecture").map(str::to_owned),
        name: metadata.string("general.name").map(str::to_owned),
        weights,
        tensor_bytes: tensors.tensors.iter().map(ModelTensor::stored_bytes).sum(),
        bits_per_weight,
        quantization,
        types: tensors.shares(),
        metadata: ShownMetadata(metadata),
        tensors,
        warnings,
    })
}

/// A value in one line; of long arrays the length and the first elements.
fn show(value: &Value) -> String {
    match value {
        Value::U8(value) => value.to_string(),
        Value::I8(value) => value.to_string(),
        Value::U16(value) => value.to_string(),
        Value::I16(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Bytes(value) => value.escape_ascii().to_string(),
        Value::Array(array) => show_array(array),
    }
}

fn show_array(array: &Array) -> String {
    const SHOWN: usize = 6;
    macro_rules! first {
        ($elements:expr) => {
            $elements.iter().take(SHOWN).map(|element| format!("{element:?}")).collect::<Vec<_>>()
        };
    }
    let first = match array {
        Array::U8(elements) => first!(elements),
        Array::I8(elements) => first!(elements),
        Array::U16(elements) => first!(elements),
        Array::I16(elements) => first!(elements),
        Array::U32(elements) => first!(elements),
        Array::I32(elements) => first!(elements),
        Array::U64(elements) => first!(elements),
        Array::I64(elements) => first!(elements),
        Array::F32(elements) => first!(elements),
        Array::F64(elements) => first!(elements),
        Array::Bool(elements) => first!(elements),
        Array::String(elements) => {
            elements.iter().take(SHOWN).map(|element| format!("\"{element}\"")).collect()
        }
        Array::Bytes(elements) => elements
            .iter()
            .take(SHOWN)
            .map(|element| match str::from_utf8(element) {
                Ok(text) => format!("\"{text}\""),
                Err(_) => format!("\"{}\"", element.escape_ascii()),
            })
            .collect(),
    };
    let rest =
        if array.len() > SHOWN { format!(", … {} in all", array.len()) } else { String::new() };
    format!("[{}{rest}]", first.join(", "))
}
