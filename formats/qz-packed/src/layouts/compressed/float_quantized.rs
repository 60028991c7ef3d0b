//! `float-quantized` and, for weights alone, `naive-quantized`: E4M3 numbers, a byte each, with
//! scales of rows, of blocks, or of the tensor (`compressors/naive_quantized`).

use qz_codec::activations::{Activations, Number};
use qz_tensor::DataType;
use serde_json::{Value, json};

use super::integer::input_scale;
use super::{Format, activations, configuration, entry, microscaled, scale_type, stated};
use crate::error::Error;
use crate::inputs::InputPart;
use crate::layout::Layout;
use crate::layouts::float8::{Float8, Spread, StoredScale};
use crate::layouts::fp8::open_module;
use crate::method::{OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme};
use crate::schemes::Words;

pub(super) const FORMAT: Format = Format { parse, open };

const SUFFIX: &str = "weight_scale";

/// A scale for each row or the tensor; inputs by the token, by the tensor, or as they are.
#[derive(Clone, Copy, Debug)]
struct FloatScheme {
    /// One scale for all weights: with static inputs the package's preset `FP8`.
    is_of_tensor: bool,
    inputs: Activations,
}

fn parse(words: &Words) -> Option<Box<dyn Scheme>> {
    let inputs = match (words.head(), words.has("static")) {
        ("fp8", false) => Activations::Token(Number::E4M3),
        ("fp8", true) => Activations::Tensor(Number::E4M3),
        ("fp8a16", false) => Activations::Full,
        _ => return None,
    };
    let scheme = FloatScheme { is_of_tensor: words.has("tensor"), inputs };
    words.flags_are(&["tensor", "static"]).then(|| Box::new(scheme) as Box<dyn Scheme>)
}

impl Scheme for FloatScheme {
    fn name(&self) -> String {
        let inputs = if self.inputs.rounds() { "" } else { "a16" };
        let tensor = if self.is_of_tensor { "+tensor" } else { "" };
        let fixed = if self.inputs.is_stored() { "+static" } else { "" };
        format!("fp8{inputs}{tensor}{fixed}")
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let scale = StoredScale::Number(scale_type(model_type));
        let (spread, rank) = match self.is_of_tensor {
            true => (Spread::Tensor { fused: false }, 1),
            false => (Spread::Row, 2),
        };
        let (code, suffix) = (DataType::F8_E4M3, SUFFIX);
        Box::new(Float8 { code, spread, suffix, scale, rank, quotient: None })
    }

    fn activations(&self) -> Activations {
        self.inputs
    }

    fn input_part(&self, model_type: DataType) -> Option<InputPart> {
        input_scale(self.inputs, model_type)
    }

    fn entry(&self) -> Value {
        let weights = json!({
            "num_bits": 8,
            "type": "float",
            "symmetric": true,
            "strategy": if self.is_of_tensor { "tensor" } else { "channel" },
            "dynamic": false,
        });
        let format = if self.inputs.rounds() { "float-quantized" } else { "naive-quantized" };
        entry(format, &weights, &activations::arguments(self.inputs))
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        configuration(&self.entry(), quantized)
    }
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let block = block(request);
    let is_ours = |module: &str| {
        let weight = request.tensor(module, "weight");
        weight.is_some_and(|weight| request.data_type(weight) == DataType::F8_E4M3)
            && microscaled::element(request, module).is_none()
    };
    let modules = request.modules_with(SUFFIX).into_iter();
    let modules = modules.filter(|(module, _)| is_ours(module));
    modules.map(|(module, _)| open_module(request, module, SUFFIX, block)).collect()
}

/// The block that weights share a scale in, if the configuration has such: a structure of
/// its own, or a group of a row.
fn block(request: &OpenRequest<'_>) -> Option<(u64, u64)> {
    if let Some([rows, columns]) =
        stated(request, "block_structure").and_then(Value::as_array).map(Vec::as_slice)
    {
        return Some((rows.as_u64()?, columns.as_u64()?));
    }
    stated(request, "group_size").and_then(Value::as_u64).map(|group| (1, group))
}
