//! `float-quantized` and what looks like it: E4M3 numbers, a byte each, with scales of
//! rows, of blocks, or of the tensor (`compressors/naive_quantized`, `compressors/mxfp8`).

use qz_tensor::DataType;
use serde_json::{Value, json};

use super::{Format, configuration, scale_type, stated};
use crate::error::Error;
use crate::layout::Layout;
use crate::layouts::float8::{Float8, Spread, StoredScale};
use crate::layouts::fp8::open_module;
use crate::method::{OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme};
use crate::schemes::Words;

pub(super) const FORMAT: Format = Format { parse, open };

const NAME: &str = "float-quantized";
const SUFFIX: &str = "weight_scale";

/// A scale for each row, activations by the token.
#[derive(Clone, Copy, Debug)]
struct FloatScheme;

fn parse(words: &Words) -> Option<Box<dyn Scheme>> {
    (words.head() == "fp8" && words.flags_are(&[]))
        .then(|| Box::new(FloatScheme) as Box<dyn Scheme>)
}

impl Scheme for FloatScheme {
    fn name(&self) -> String {
        "fp8".to_owned()
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let scale = StoredScale::Number(scale_type(model_type));
        let (code, spread) = (DataType::F8_E4M3, Spread::Row);
        Box::new(Float8 { code, spread, suffix: SUFFIX, scale, rank: 2 })
    }

    fn rounds_activations(&self) -> bool {
        true
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
        configuration(NAME, &number("channel", false), &number("token", true), quantized)
    }
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let block = block(request);
    let is_ours = |module: &str| {
        let weight = request.tensor(module, "weight");
        weight.is_some_and(|weight| request.data_type(weight) == DataType::F8_E4M3)
    };
    let modules = request.modules_with(SUFFIX).into_iter();
    let modules = modules.filter(|(module, _)| is_ours(module));
    modules.map(|(module, _)| open_module(request, module, SUFFIX, block)).collect()
}

/// The block that weights share a scale in, if the configuration has such: a structure of
/// its own, or a group of a row (MXFP8).
fn block(request: &OpenRequest<'_>) -> Option<(u64, u64)> {
    if let Some([rows, columns]) =
        stated(request, "block_structure").and_then(Value::as_array).map(Vec::as_slice)
    {
        return Some((rows.as_u64()?, columns.as_u64()?));
    }
    stated(request, "group_size").and_then(Value::as_u64).map(|group| (1, group))
}
