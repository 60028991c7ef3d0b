//! MLX's affine groups: codes of 2, 3, 4, 5, 6 or 8 bits in a dense stream along the row, a
//! scale and a bias for 32, 64 or 128 of them. Source: mlx 0.32
//! (`mlx/backend/cpu/quantized.cpp`, `quantize`), and how mlx-lm's configuration says it.

use std::ops::Range;

use qz_codec::grid::{Grid, ParameterIndex, affine};
use qz_tensor::{DataType, FileError, TensorIndex};
use serde_json::{Value, json};

use super::batches;
use super::integer_layout::{read_codes_by_row, read_scales_by_row};
use super::numbers::ScaleType;
use crate::bits;
use crate::error::Error;
use crate::layout::{
    ChosenRows, Layout, Matrix, Part, PartBytes, PartIndex, Put, RowBlock, Unfit, Whole,
};
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Mixing, OtherScheme, Quantized, Scheme, SchemeFamily};
use crate::schemes::Words;

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "mlx",
    examples: &["w4g64", "w8g64", "w6g64", "w5g64", "w3g64", "w2g32"],
    form: "bits and group: mlx:w4g64 (2, 3, 4, 5, 6 or 8 bits; groups of 32, 64 or 128, 64 \
           without g)",
    method: "mlx",
    mixing: Mixing::Free,
    cache_part: None,
    parse,
};

pub(crate) const METHOD: Method = Method {
    name: "mlx",
    aliases: &[],
    looks_like: "`weight` of 32-bit words, `scales` and `biases`",
    recognise,
    open,
};

const WEIGHT: PartIndex = PartIndex(0);
const SCALES: PartIndex = PartIndex(1);
const BIASES: PartIndex = PartIndex(2);

/// Bits of a code, and columns of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    bits: u32,
    group: u64,
}

impl Form {
    fn known(bits: u64, group: u64) -> Option<Self> {
        let is_known = [2, 3, 4, 5, 6, 8].contains(&bits) && [32, 64, 128].contains(&group);
        is_known.then_some(Self { bits: bits as u32, group })
    }
}

#[derive(Clone, Copy, Debug)]
struct MlxScheme(Form);

fn parse(text: &str) -> Option<Box<dyn Scheme>> {
    let words = Words::of(text)?;
    let (bits, group) = words.bits_and_group()?;
    let form = Form::known(u64::from(bits), group.unwrap_or(64))?;
    words.flags_are(&[]).then(|| Box::new(MlxScheme(form)) as Box<dyn Scheme>)
}

impl Scheme for MlxScheme {
    fn name(&self) -> String {
        format!("w{}g{}", self.0.bits, self.0.group)
    }

    fn with_group(&self, group: Option<u64>) -> Option<Box<dyn Scheme>> {
        Some(Box::new(Self(Form::known(self.0.bits.into(), group?)?)))
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let scale = ScaleType::of(model_type).unwrap_or(ScaleType::BF16);
        Box::new(Mlx { form: self.0, scale })
    }

    /// mlx-lm's `quantize_model` packs whatever has a `to_quantized`.
    fn packs_embeddings(&self) -> bool {
        true
    }

    fn entry(&self) -> Value {
        json!({"group_size": self.0.group, "bits": self.0.bits, "mode": "affine"})
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        // mlx-lm quantizes the modules that have scales, whatever their names.
        let mut config = self.entry();
        if let Value::Object(config) = &mut config {
            config.insert("meta".to_owned(), quantized.provenance.meta());
            for OtherScheme { entry, modules } in quantized.others {
                let names = modules.iter().flat_map(|module| names(module));
                config.extend(names.map(|name| (name, entry.clone())));
            }
        }
        Configuration { entries: vec![("quantization", config)], files: Vec::new() }
    }
}

/// What a module is called here, and in mlx-lm, which stacks a layer's experts
/// (`mlx_lm/models/*.py`, `sanitize`).
fn names(module: &str) -> Vec<String> {
    let stacked = module.split_once(".experts.").and_then(|(before, own)| {
        let last = match own.split_once('.')?.1 {
            "w1" => "gate_proj",
            "w2" => "down_proj",
            "w3" => "up_proj",
            last => last,
        };
        Some(format!("{before}.switch_mlp.{last}"))
    });
    std::iter::once(module.to_owned()).chain(stacked).collect()
}

/// The layout.
#[derive(Clone, Copy, Debug)]
struct Mlx {
    form: Form,
    scale: ScaleType,
}

/// A group's numbers.
#[derive(Clone, Copy, Debug)]
struct Affine {
    scale: f32,
    bias: f32,
}

impl Affine {
    /// The end of the range that is further from zero becomes exact, and zero a code.
    fn of(weights: &[f32], highest: f32) -> Self {
        const LEAST_SCALE: f32 = 1e-7;
        let (low, high) = range(weights);
        let is_below = low.abs() > high.abs();
        let scale = ((high - low) / highest).max(LEAST_SCALE);
        let scale = if is_below { scale } else { -scale };
        let edge = if is_below { low } else { high };
        let steps = (edge / scale).round_ties_even();
        if steps == 0.0 {
            Self { scale, bias: 0.0 }
        } else {
            Self { scale: edge / steps, bias: edge }
        }
    }
}

/// The least and the largest of some weights, whose number is a multiple of sixteen: lanes
/// of their own, so that the compiler may keep them in registers.
fn range(weights: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
    for chunk in weights.as_chunks::<16>().0 {
        for ((low, high), weight) in low.iter_mut().zip(&mut high).zip(chunk) {
            *low = if *weight < *low { *weight } else { *low };
            *high = if *weight > *high { *weight } else { *high };
        }
    }
    (low.into_iter().fold(low[0], f32::min), high.into_iter().fold(high[0], f32::max))
}

/// Adding it to a small number leaves the nearest integer in the lowest bits: 1.5 · 2^23.
const ROUNDING_OFFSET: f32 = 12_582_912.0;

/// Rounds a group's weights.
#[inline(always)]
fn round(weights: &[f32], affine: Affine, highest: f32, codes: &mut [u8]) {
    for (weight, code) in weights.iter().zip(codes) {
        let steps = (weight - affine.bias) / affine.scale;
        let bounded = if steps > 0.0 { steps } else { 0.0 };
        let bounded = if bounded < highest { bounded } else { highest };
        *code = (bounded + ROUNDING_OFFSET).to_bits() as u8;
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Mlx {
    fn words(&self, matrix: Matrix) -> u64 {
        bits::words(matrix.columns, self.form.bits)
    }

    fn groups(&self, matrix: Matrix) -> u64 {
        matrix.columns / self.form.group
    }

    /// Writes codes, and the groups' scales and biases.
    fn put(
        &self,
        matrix: Matrix,
        first_row: u64,
        codes: &[u8],
        numbers: &[Vec<f32>; 2],
        put: &mut Put<'_>,
    ) {
        let words = bits::pack_lines(codes, matrix.columns as usize, self.form.bits);
        let mut bytes = Vec::new();
        bits::to_bytes(&words, &mut bytes);
        put(WEIGHT, first_row * self.words(matrix) * 4, &bytes);
        let at = first_row * self.groups(matrix) * self.scale.bytes() as u64;
        for (part, numbers) in [SCALES, BIASES].into_iter().zip(numbers) {
            bytes.clear();
            self.scale.write(numbers, &mut bytes);
            put(part, at, &bytes);
        }
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Layout for Mlx {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        matrix.check_groups(self.form.group)?;
        let rows = matrix.rows;
        let (scale, groups) = (self.scale.data_type(), self.groups(matrix));
        Ok(vec![
            Part::new("weight", DataType::U32, &[rows, self.words(matrix)])?,
            Part::new("scales", scale, &[rows, groups])?,
            Part::new("biases", scale, &[rows, groups])?,
        ])
    }

    fn group_columns(&self, _matrix: Matrix) -> u64 {
        self.form.group
    }

    /// Fails with the first weight of a group whose numbers the scales' type does not hold.
    fn encode(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<(), usize> {
        if batches::write_searched(self, rows, put) {
            return Ok(());
        }
        let group = self.form.group as usize;
        let highest = ((1u32 << self.form.bits) - 1) as f32;
        let mut codes = vec![0; rows.weights.len()];
        let (mut scales, mut biases) = (Vec::new(), Vec::new());
        let groups = rows.weights.chunks(group).zip(codes.chunks_mut(group));
        for (position, (weights, codes)) in groups.enumerate() {
            let affine = Affine::of(weights, highest);
            let fits = |number: f32| self.scale.rounded(number).is_finite();
            if !fits(affine.scale) || !fits(affine.bias) {
                return Err(position * group);
            }
            round(weights, affine, highest, codes);
            scales.push(affine.scale);
            biases.push(affine.bias);
        }
        self.put(rows.matrix, rows.first_row, &codes, &[scales, biases], put);
        Ok(())
    }

    fn grid(&self, _whole: &Whole<'_>) -> Option<Box<dyn Grid>> {
        let (bits, group) = (self.form.bits as u8, self.form.group as usize);
        Some(Box::new(affine(bits, group, self.scale.stored())))
    }

    fn write(&self, chosen: &ChosenRows<'_>, put: &mut Put<'_>) {
        let ChosenRows { matrix, first_row, batch, .. } = *chosen;
        let numbers = [0, 1].map(|number| batches::parameters(batch, ParameterIndex(number)));
        self.put(matrix, first_row, &batches::codes(batch), &numbers, put);
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let numbers =
            |part| read_scales_by_row(part, self.scale, self.groups(matrix), parts, rows.clone());
        let (scales, biases) = (numbers(SCALES)?, numbers(BIASES)?);
        let codes = read_codes_by_row(WEIGHT, self.form.bits, matrix.columns, parts, rows.clone())?;
        let group = self.form.group as usize;
        let of_groups = out.chunks_mut(group).zip(codes.chunks(group));
        for ((out, codes), (scale, bias)) in of_groups.zip(scales.iter().zip(&biases)) {
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * f32::from(*code) + bias;
            }
        }
        Ok(())
    }
}

fn recognise(request: &OpenRequest<'_>) -> Option<TensorIndex> {
    let weight = request.first_with(&["weight", "scales", "biases"])?;
    (request.data_type(weight) == DataType::U32).then_some(weight)
}

/// What the configuration says of a module: its own entry, or what holds for all.
fn form(request: &OpenRequest<'_>, module: &str) -> Result<Form, Error> {
    let own = request.config.get(module).and_then(Value::as_object);
    let stated = |key: &str| {
        let value = own.and_then(|own| own.get(key)).or_else(|| request.config.get(key));
        let number = value.and_then(Value::as_u64);
        number.ok_or_else(|| request.config_fault(key, "is missing or no number"))
    };
    let (bits, group) = (stated("bits")?, stated("group_size")?);
    Form::known(bits, group).ok_or_else(|| {
        let detail = format!("codes of {bits} bits in groups of {group} are not known");
        request.config_fault("bits", detail)
    })
}

/// Bits and groups, which nothing but the configuration states, have to make the same
/// inputs of the words and of the scales.
fn check_words(
    request: &OpenRequest<'_>,
    module: &str,
    form: Form,
    matrix: Matrix,
) -> Result<(), Error> {
    let weight = request.part(module, "weight")?;
    let [_, words] = *request.matrix_dimensions(weight)?;
    if words == bits::words(matrix.columns, form.bits) {
        return Ok(());
    }
    let Form { bits, group } = form;
    let (name, inputs) = (
        &request.info(weight).name,
        words.saturating_mul(32).checked_div(bits.into()).unwrap_or(0),
    );
    let detail = format!(
        "says {bits}, and group_size {group}, but {name} has {inputs} inputs of {bits} bits and \
         its scales are of {}",
        matrix.columns
    );
    Err(request.config_fault("bits", detail))
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    if let Some(mode) = request.config.get("mode").and_then(Value::as_str)
        && mode != "affine"
    {
        let detail = format!("the mode {mode} is not supported; there is: affine");
        return Err(request.config_fault("mode", detail));
    }
    let mut packed = Vec::new();
    for (module, scales) in request.modules_with("scales") {
        let layout = Mlx { form: form(request, module)?, scale: request.scale_type(scales)? };
        let [rows, groups] = *request.matrix_dimensions(scales)?;
        let matrix = Matrix { rows, columns: groups.saturating_mul(layout.form.group) };
        check_words(request, module, layout.form, matrix)?;
        packed.push(request.packed(module, matrix, Box::new(layout))?);
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::golden::{assert_golden, bytes_of, weights};
    use crate::testing::{Checkpoint, Tensor, refusal_after, seen, stored};

    #[test]
    fn parts_hold_what_mlx_writes() {
        let types = [("f32", ScaleType::F32), ("bf16", ScaleType::BF16), ("f16", ScaleType::F16)];
        for (name, scale) in types {
            for bits in [2, 3, 4, 5, 6, 8] {
                for group in [32, 64, 128] {
                    let layout = Mlx { form: Form { bits, group }, scale };
                    let written = stored(&layout, 4, 256, &weights(18, 4, 256, scale), 3);
                    let case = format!("mlx-{bits}-{group}-{name}");
                    let numbers = |part: usize| {
                        let mut numbers = vec![0.0; written.parts[part].len() / scale.bytes()];
                        scale.read(&written.parts[part], &mut numbers);
                        bytes_of(&numbers)
                    };
                    assert_golden(&case, "codes", &written.parts[0]);
                    assert_golden(&case, "scales", &numbers(1));
                    assert_golden(&case, "biases", &numbers(2));
                    if name == "f32" && group == 64 {
                        assert_golden(&case, "decoded", &bytes_of(&written.decoded(&layout)));
                    }
                }
            }
        }
    }

    fn checkpoint() -> Vec<Tensor<'static>> {
        vec![
            ("a.weight", DataType::U32, &[1, 4], vec![0x10; 16]),
            ("a.scales", DataType::F32, &[1, 1], bytes_of(&[2.0])),
            ("a.biases", DataType::F32, &[1, 1], bytes_of(&[-1.0])),
        ]
    }

    #[test]
    fn checkpoints_are_read() {
        let check = |config: Value| {
            let seen = seen(&Checkpoint::new(checkpoint()).open(config).expect("opens"));
            let expected: Vec<f32> = (0..32).map(|column| [-1.0, 1.0][column % 2]).collect();
            assert_eq!(seen["a.weight"].2, expected);
        };
        check(json!({"quant_method": "mlx", "bits": 4, "group_size": 32}));
        let own = json!({"bits": 4, "group_size": 32});
        check(json!({"quant_method": "mlx", "bits": 8, "group_size": 64, "a": own}));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: fn(&mut Vec<Tensor<'static>>), config: Value, expected: &str| {
            assert_eq!(refusal_after(|all, _| change(all), checkpoint(), config), expected);
        };
        let sound = || json!({"quant_method": "mlx", "bits": 4, "group_size": 32});
        check(|all| drop(all.pop()), sound(), "config.json: a: has no tensor `biases`");
        check(|all| drop(all.remove(0)), sound(), "config.json: a: has no tensor `weight`");
        check(
            |_| (),
            json!({"quant_method": "mlx", "bits": 7, "group_size": 32}),
            "config.json: quantization_config.bits: codes of 7 bits in groups of 32 are not known",
        );
        check(
            |_| (),
            json!({"quant_method": "mlx", "bits": 4, "group_size": 32, "mode": "mxfp4"}),
            "config.json: quantization_config.mode: the mode mxfp4 is not supported; there is: affine",
        );
        check(
            |_| (),
            json!({"quant_method": "mlx", "bits": 3, "group_size": 32}),
            "config.json: quantization_config.bits: says 3, and group_size 32, but a.weight has 42 \
             inputs of 3 bits and its scales are of 32",
        );
        check(
            |all| (all[1].1, all[1].3) = (DataType::I32, vec![0; 4]),
            sound(),
            "model.safetensors: a.scales: at byte 0: is I32, expected F16, BF16 or F32",
        );
    }

    proptest! {
        #[test]
        fn weights_come_back(
            rows in 1usize..20, groups in 1usize..5, bits in 0usize..6, seed in any::<u64>(),
        ) {
            let form = Form { bits: [2, 3, 4, 5, 6, 8][bits], group: 32 };
            let layout = Mlx { form, scale: ScaleType::F32 };
            let columns = groups * 32;
            let weights = weights(seed, rows, columns, ScaleType::F32);
            let once = stored(&layout, rows, columns, &weights, rows);
            let tiles = stored(&layout, rows, columns, &weights, 3);
            prop_assert_eq!(&once.parts, &tiles.parts);
            let decoded = once.decoded(&layout);
            for (back, weights) in decoded.chunks(32).zip(weights.chunks(32)) {
                let low = weights.iter().fold(f32::INFINITY, |low, weight| low.min(*weight));
                let high = weights.iter().fold(f32::NEG_INFINITY, |high, weight| high.max(*weight));
                // Zero becomes a code, so that the range may move by a step.
                let step = (high - low).max(high.abs()).max(low.abs()) / ((1 << form.bits) - 1) as f32;
                for (back, weight) in back.iter().zip(weights) {
                    prop_assert!((back - weight).abs() <= step * 1.6 + 1e-6, "{} {}", back, weight);
                }
            }
        }
    }
}
