//! `inspect`: what a model is, without reading its weights.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use qz_tensor::{Array, Value};

use crate::error::Error;
use crate::model::{Model, ModelTensor, OpenOptions};
use crate::quantization::Quantization;

/// What a model is.
#[derive(Clone, Debug, serde::Serialize)]
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
    pub metadata: Vec<(String, String)>,
    /// The tensors.
    pub tensors: Vec<InspectedTensor>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// The tensors of one element type.
#[derive(Clone, Debug, serde::Serialize)]
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

/// One tensor.
#[derive(Clone, Debug, serde::Serialize)]
pub struct InspectedTensor {
    /// Its GGUF name.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// How it is stored.
    #[serde(rename = "type")]
    pub data_type: Cow<'static, str>,
    /// Its bytes.
    pub bytes: u64,
}

/// Describes the model at `path`.
///
/// # Errors
/// If it cannot be opened.
pub fn inspect(path: &Path, options: &OpenOptions) -> Result<Inspection, Error> {
    let model = Model::open(path, options)?;
    let quantization = model.quantization.clone().map(Quantization::of);
    let (weights, bits_per_weight) = (model.weights(), model.bits_per_weight());
    let types = shares(&model, quantization.as_ref());
    let own_type = |tensor: &ModelTensor| type_of(&model, tensor, quantization.as_ref());
    let data_types: Vec<Cow<'static, str>> = model.tensors.iter().map(own_type).collect();
    // Headers are large where somebody wants them to be: nothing is kept twice.
    let Model { container, metadata, tensors, source, warnings, .. } = model;
    drop(source);
    let tensors: Vec<InspectedTensor> =
        tensors.into_iter().zip(data_types).map(inspected).collect();
    Ok(Inspection {
        path: path.to_owned(),
        container,
        architecture: metadata.string("general.architecture").map(str::to_owned),
        name: metadata.string("general.name").map(str::to_owned),
        weights,
        tensor_bytes: tensors.iter().map(|tensor| tensor.bytes).sum(),
        bits_per_weight,
        quantization,
        types,
        metadata: metadata.into_iter().map(|(key, value)| (key, show(&value))).collect(),
        tensors,
        warnings,
    })
}

fn inspected((tensor, data_type): (ModelTensor, Cow<'static, str>)) -> InspectedTensor {
    InspectedTensor {
        bytes: tensor.stored_bytes(),
        data_type,
        shape: tensor.shape.dimensions().to_vec(),
        name: tensor.name,
    }
}

/// How a tensor is stored: its element type, or what its package calls it.
fn type_of(
    model: &Model,
    tensor: &ModelTensor,
    quantization: Option<&Quantization>,
) -> Cow<'static, str> {
    let packed = quantization.filter(|_| tensor.packed_bytes.is_some());
    let Some((quantization, source)) = packed.zip(tensor.first_source()) else {
        return tensor.source_type.name().into();
    };
    let name = &model.source.tensors()[source.0].name;
    quantization.type_of(name.strip_suffix(".weight").unwrap_or(name)).into()
}

fn shares(model: &Model, quantization: Option<&Quantization>) -> Vec<TypeShare> {
    let mut shares: Vec<TypeShare> = Vec::new();
    for tensor in &model.tensors {
        let data_type = type_of(model, tensor, quantization);
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
