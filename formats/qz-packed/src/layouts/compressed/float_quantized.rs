//! `float-quantized` and, for weights alone, `naive-quantized`: E4M3 numbers, a byte each, with
//! scales of rows, of blocks, or of the tensor (`compressors/naive_quantized`).

use qz_tensor::DataType;
use serde_json::{Value, json};

use super::{Format, configuration, microscaled, scale_type, stated};
use crate::error::Error;
use crate::layout::Layout;
use crate::layouts::float8::{Float8, Spread, StoredScale};
use crate::layouts::fp8::open_module;
use crate::method::{OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme};
use crate::schemes::Words;

pub(super) const FORMAT: Format = Format { parse, open };

const SUFFIX: &str = "weight_scale";

/// A scale for each row; activations by the token, or as they are.
#[derive(Clone, Copy, Debug)]
struct FloatScheme {
    activations: bool,
}

fn parse(words: &Words) -> Option<Box<dyn Scheme>> {
    let activations = match words.head() {
        "fp8" => true,
        "fp8a16" => false,
        _ => return None,
    };
    words.flags_are(&[]).then(|| Box::new(FloatScheme { activations }) as Box<dyn Scheme>)
}

impl Scheme for FloatScheme {
    fn name(&self) -> String {
        if self.activations { "fp8" } else { "fp8a16" }.to_owned()
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let scale = StoredScale::Number(scale_type(model_type));
        let (code, spread) = (DataType::F8_E4M3, Spread::Row);
        Box::new(Float8 { code, spread, suffix: SUFFIX, scale, rank: 2 })
    }

    fn rounds_activations(&self) -> bool {
        self.activations
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        let number = |strategy: &str, dynamic: bool| {
            json!({
                "num_bits": 8,
                "type": "float",
                "symmetric": true,
                "strategy": strategy,
                "dynamic": dynamic,
            })
        };
        let (format, activations) = match self.activations {
            true => ("float-quantized", number("token", true)),
            false => ("naive-quantized", Value::Null),
        };
        configuration(format, &number("channel", false), &activations, quantized)
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
