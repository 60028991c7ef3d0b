//! NF4 and FP4: blocks of 64 weights of the flattened matrix, the blocks' largest magnitudes
//! as they are or rounded a second time.

use std::ops::Range;

use qz_codec::grid::{
    Grid, LevelFormat, ParameterIndex, StoredNumber, listed_scales, scaled_levels,
};
use qz_tensor::{DataType, FileError, TensorIndex};

use super::blocks::{self, BLOCK, COUNT, Kind, NESTED_BLOCK, Rounder};
use super::configuration;
use super::dynamic_map;
use super::state::State;
use crate::error::{Error, Fault};
use crate::layout::{
    ChosenRows, Layout, Matrix, Measure, Part, PartBytes, PartIndex, Prepass, Put, RowBlock, Unfit,
    Whole,
};
use crate::layouts::batches;
use crate::layouts::float8_rounding::largest_magnitude;
use crate::layouts::numbers::{ScaleType, greatest_divisor};
use crate::layouts::words::WeightReader;
use crate::method::{OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme};
use crate::schemes::Words;

const WEIGHT: PartIndex = PartIndex(0);
const SCALES: PartIndex = PartIndex(1);
const MAP: PartIndex = PartIndex(2);
const STATE: PartIndex = PartIndex(3);
const NESTED_SCALES: PartIndex = PartIndex(4);
const NESTED_MAP: PartIndex = PartIndex(5);

const SCALES_SUFFIX: &str = "weight.absmax";
const STATE_SUFFIX: &str = "weight.quant_state.bitsandbytes__";

/// What stands behind the colon.
#[derive(Clone, Copy, Debug)]
struct FourBitScheme {
    kind: Kind,
    is_double: bool,
}

pub(super) fn parse(text: &str) -> Option<Box<dyn Scheme>> {
    let words = Words::of(text)?;
    let kind = Kind::of(words.head()).filter(|_| words.flags_are(&["double"]))?;
    Some(Box::new(FourBitScheme { kind, is_double: words.has("double") }))
}

impl Scheme for FourBitScheme {
    fn name(&self) -> String {
        format!("{}{}", self.kind.name(), if self.is_double { "+double" } else { "" })
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        Box::new(self.packed(model_type))
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        configuration(Some((self.kind.name(), self.is_double)), quantized)
    }
}

impl FourBitScheme {
    fn packed(self, data_type: DataType) -> FourBit {
        FourBit {
            kind: self.kind,
            block: BLOCK as u64,
            data_type,
            nested: self.is_double.then_some((NESTED_BLOCK as u64, None)),
            storage: DataType::U8,
            state_bytes: None,
        }
    }
}

/// The layout.
#[derive(Clone, Debug)]
struct FourBit {
    kind: Kind,
    block: u64,
    data_type: DataType,
    /// Blocks of the second quantization, and what was subtracted before, where that is
    /// known: where it is written it comes from the measure.
    nested: Option<(u64, Option<f32>)>,
    /// The type that the bytes are stored as: one of eight bits, but where a trainer wanted
    /// another one.
    storage: DataType,
    /// Bytes of the JSON, where it is read.
    state_bytes: Option<u64>,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl FourBit {
    fn state(&self, matrix: Matrix, offset: f32) -> State {
        State {
            kind: self.kind,
            block: self.block,
            data_type: self.data_type,
            rows: matrix.rows,
            columns: matrix.columns,
            nested: self.nested.map(|(block, _)| (block, offset)),
        }
    }

    fn blocks(&self, matrix: Matrix) -> Result<u64, Unfit> {
        let weights = matrix.rows.checked_mul(matrix.columns).filter(|weights| *weights > 0);
        let weights = weights.ok_or_else(|| Unfit("has no weights, or too many".to_owned()))?;
        Ok(weights.div_ceil(self.block))
    }

    /// What the largest magnitudes are rounded relative to: their mean.
    fn offset(measure: Measure) -> f32 {
        (measure.block_maxima / measure.blocks.max(1) as f64) as f32
    }

    /// Largest magnitudes rounded a second time, by nested block.
    fn put_nested(&self, first: u64, maxima: &[f32], offset: f32, put: &mut Put<'_>) {
        let map = dynamic_map::numbers();
        let mut codes = Vec::with_capacity(maxima.len());
        let mut scales = Vec::new();
        for maxima in maxima.chunks(NESTED_BLOCK) {
            let centred: Vec<f32> = maxima.iter().map(|maximum| maximum - offset).collect();
            let largest = largest_magnitude(&centred);
            let factor = 1.0 / largest;
            codes.extend(centred.iter().map(|value| match largest == 0.0 {
                true => 0,
                false => dynamic_map::code_of(&map, (value * factor).clamp(-1.0, 1.0)),
            }));
            scales.extend(largest.to_le_bytes());
        }
        put(SCALES, first, &codes);
        put(NESTED_SCALES, first / NESTED_BLOCK as u64 * 4, &scales);
    }

    /// What the largest magnitudes are rounded by where a method chooses them: one number
    /// for all nested blocks, since a grid is one of the whole matrix. They may grow by a
    /// quarter while errors are fed back.
    fn outer_scale(measure: Measure) -> f32 {
        const ROOM: f32 = 1.25;
        let offset = Self::offset(measure);
        (measure.largest * ROOM - offset).max(offset)
    }

    /// What was subtracted before the second quantization: known, or as it was written. A
    /// state that says nothing makes no number.
    fn stored_offset(&self, matrix: Matrix, parts: &dyn PartBytes) -> Result<f32, FileError> {
        if let Some((_, Some(offset))) = self.nested {
            return Ok(offset);
        }
        let mut text = vec![0; self.state(matrix, 0.0).room()];
        parts.read(STATE, 0, &mut text)?;
        let stored = State::parse(&text).ok().and_then(|state| state.nested);
        Ok(stored.map_or(f32::NAN, |(_, offset)| offset))
    }

    /// The scales of some blocks.
    fn scales(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        blocks: Range<u64>,
    ) -> Result<Vec<f32>, FileError> {
        let mut reader = WeightReader::new(parts);
        let mut scales = vec![0.0; (blocks.end - blocks.start) as usize];
        let Some((nested, _)) = self.nested else {
            reader.numbers(SCALES, blocks.start * 4, ScaleType::F32, &mut scales)?;
            return Ok(scales);
        };
        let offset = self.stored_offset(matrix, parts)?;
        let mut map = [0.0; dynamic_map::COUNT];
        reader.numbers(NESTED_MAP, 0, ScaleType::F32, &mut map)?;
        let first = blocks.start / nested;
        let count = blocks.end.div_ceil(nested).max(first + 1) - first;
        let mut outer = vec![0.0; count as usize];
        reader.numbers(NESTED_SCALES, first * 4, ScaleType::F32, &mut outer)?;
        let mut codes = vec![0; scales.len()];
        parts.read(SCALES, blocks.start, &mut codes)?;
        for ((scale, code), block) in scales.iter_mut().zip(codes).zip(blocks) {
            *scale = map[usize::from(code)] * outer[(block / nested - first) as usize] + offset;
        }
        Ok(scales)
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Layout for FourBit {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let blocks = self.blocks(matrix)?;
        let bytes = (matrix.rows * matrix.columns).div_ceil(2);
        let size = self.storage.block_bytes() as u64;
        if !bytes.is_multiple_of(size) {
            return Err(Unfit(format!("{bytes} bytes are no whole numbers of {}", self.storage)));
        }
        let scale = if self.nested.is_some() { DataType::U8 } else { DataType::F32 };
        let state = format!("{STATE_SUFFIX}{}", self.kind.name());
        let room = self.state_bytes.unwrap_or_else(|| self.state(matrix, 0.0).room() as u64);
        let mut parts = vec![
            Part::new("weight", self.storage, &[bytes / size, 1])?,
            Part::new(SCALES_SUFFIX, scale, &[blocks])?,
            Part::new("weight.quant_map", DataType::F32, &[COUNT as u64])?,
            Part::new(state, DataType::U8, &[room])?,
        ];
        if let Some((nested, _)) = self.nested {
            let (map, count) = (dynamic_map::COUNT as u64, blocks.div_ceil(nested));
            parts.push(Part::new("weight.nested_absmax", DataType::F32, &[count])?);
            parts.push(Part::new("weight.nested_quant_map", DataType::F32, &[map])?);
        }
        Ok(parts)
    }

    fn group_columns(&self, matrix: Matrix) -> u64 {
        greatest_divisor(self.block, matrix.columns)
    }

    /// Scales are stored as what they are beside their mean, in steps of up to a fourteenth of
    /// that: those far below it are lost.
    fn faint(&self, measure: Measure) -> f32 {
        if self.nested.is_some() { 0.3 * Self::offset(measure) } else { 0.0 }
    }

    /// Rows until a block ends with one, a nested block where there are such.
    fn row_unit(&self, matrix: Matrix) -> u64 {
        let block = self.block * self.nested.map_or(1, |(nested, _)| nested);
        block / greatest_divisor(block, matrix.columns)
    }

    fn prepass(&self) -> Prepass {
        if self.nested.is_some() { Prepass::Own } else { Prepass::None }
    }

    fn measure(&self, _matrix: Matrix, weights: &[f32]) -> Measure {
        Measure::of(weights, self.block as usize)
    }

    fn write_constants(&self, matrix: Matrix, measure: Measure, put: &mut Put<'_>) {
        let bytes = |numbers: &[f32]| -> Vec<u8> {
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
        };
        put(MAP, 0, &bytes(&self.kind.numbers()));
        let state = self.state(matrix, Self::offset(measure));
        // Its length must not depend on weights; readers of JSON pass over spaces.
        put(STATE, 0, format!("{:1$}", state.text(), state.room()).as_bytes());
        if self.nested.is_some() {
            put(NESTED_MAP, 0, &bytes(&dynamic_map::numbers()));
        }
    }

    fn encode(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<(), usize> {
        if batches::write_searched(self, rows, put) {
            return Ok(());
        }
        let block = self.block as usize;
        let mut maxima = Vec::new();
        blocks::maxima(rows.weights, block, &mut maxima);
        let mut bytes = vec![0; rows.weights.len().div_ceil(2)];
        Rounder::new(self.kind).encode(rows.weights, block, &maxima, &mut bytes);
        let first = rows.first_row * rows.matrix.columns;
        put(WEIGHT, first / 2, &bytes);
        if self.nested.is_some() {
            self.put_nested(first / self.block, &maxima, Self::offset(rows.measure), put);
        } else {
            let mut bytes = Vec::new();
            ScaleType::F32.write(&maxima, &mut bytes);
            put(SCALES, first / self.block * 4, &bytes);
        }
        Ok(())
    }

    /// None where blocks go on in the next row.
    fn grid(&self, whole: &Whole<'_>) -> Option<Box<dyn Grid>> {
        if whole.matrix.columns == 0 || !whole.matrix.columns.is_multiple_of(self.block) {
            return None;
        }
        let (name, levels) = (self.kind.name(), &self.kind.numbers());
        let format = LevelFormat { name, levels, unit_columns: self.block as usize };
        if self.nested.is_none() {
            return Some(Box::new(scaled_levels(format, StoredNumber::F32)));
        }
        let (offset, outer) = (Self::offset(whole.measure), Self::outer_scale(whole.measure));
        let scales = dynamic_map::numbers().map(|number| number * outer + offset).to_vec();
        let negative = scales.iter().filter(|scale| **scale < 0.0).count();
        Some(Box::new(listed_scales(format, scales, negative as u8..=u8::MAX)))
    }

    fn write(&self, chosen: &ChosenRows<'_>, put: &mut Put<'_>) {
        let (codes, first) =
            (batches::codes(chosen.batch), chosen.first_row * chosen.matrix.columns);
        let packed: Vec<u8> =
            codes.as_chunks::<2>().0.iter().map(|pair| pair[0] << 4 | pair[1]).collect();
        put(WEIGHT, first / 2, &packed);
        let first = first / self.block;
        let Some((nested, _)) = self.nested else {
            let mut bytes = Vec::new();
            ScaleType::F32.write(&batches::parameters(chosen.batch, ParameterIndex(0)), &mut bytes);
            put(SCALES, first * 4, &bytes);
            return;
        };
        let scales = batches::scale_bytes(chosen.batch);
        put(SCALES, first, &scales);
        let outer = Self::outer_scale(chosen.measure).to_le_bytes();
        put(NESTED_SCALES, first / nested * 4, &outer.repeat(scales.len().div_ceil(NESTED_BLOCK)));
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let (first, end) = (rows.start * matrix.columns, rows.end * matrix.columns);
        let mut bytes = vec![0; (end.div_ceil(2) - first / 2) as usize];
        parts.read(WEIGHT, first / 2, &mut bytes)?;
        let scales = self.scales(matrix, parts, first / self.block..end.div_ceil(self.block))?;
        let mut map = [0.0; COUNT];
        WeightReader::new(parts).numbers(MAP, 0, ScaleType::F32, &mut map)?;
        // Only what lies within a block and a byte matters, and that fits.
        let within = (first % (self.block * 2)) as usize;
        blocks::decode(&map, &bytes, &scales, self.block as usize, within, out);
        Ok(())
    }
}

pub(super) fn recognise(request: &OpenRequest<'_>) -> Option<TensorIndex> {
    request.first_with(&[SCALES_SUFFIX, "weight"])
}

pub(super) fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let modules = request.modules_with(SCALES_SUFFIX).into_iter();
    modules.map(|(module, _)| open_module(request, module)).collect()
}

fn open_module(request: &OpenRequest<'_>, module: &str) -> Result<PackedTensor, Error> {
    /// No state is longer.
    const LONGEST: u64 = 4096;
    let suffix = |kind: Kind| format!("{STATE_SUFFIX}{}", kind.name());
    let state_of = |kind: Kind| request.tensor(module, &suffix(kind));
    let missing = || request.fault(module, Fault::MissingPart(suffix(Kind::Nf4)));
    let tensor = state_of(Kind::Nf4).or_else(|| state_of(Kind::Fp4)).ok_or_else(missing)?;
    let fault = |detail: String| request.tensor_fault(tensor, Fault::Content(detail));
    let length = request.info(tensor).bytes;
    if length > LONGEST {
        return Err(fault(format!("has {length} bytes, more than {LONGEST}")));
    }
    let state = State::parse(&request.bytes(tensor)?).map_err(fault)?;
    if state_of(state.kind) != Some(tensor) {
        return Err(fault(format!("has the type {}, its name another", state.kind.name())));
    }
    let layout = FourBit {
        kind: state.kind,
        block: state.block,
        data_type: state.data_type,
        nested: state.nested.map(|(block, offset)| (block, Some(offset))),
        storage: request.data_type(request.part(module, "weight")?),
        state_bytes: Some(length),
    };
    let matrix = Matrix { rows: state.rows, columns: state.columns };
    request.packed(module, matrix, Box::new(layout))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::golden::{assert_golden, bytes_of, floats, golden, weights};
    use crate::testing::{Checkpoint, Tensor, refusal_after, seen, stored};

    fn layout(kind: Kind, is_double: bool, data_type: DataType) -> Box<dyn Layout> {
        FourBitScheme { kind, is_double }.layout(data_type)
    }

    const SHAPES: [(usize, usize); 2] = [(48, 512), (21, 50)];

    #[test]
    fn parts_hold_what_the_package_writes() {
        for kind in [Kind::Nf4, Kind::Fp4] {
            for (name, precision) in [("f32", ScaleType::F32), ("bf16", ScaleType::BF16)] {
                for (rows, columns) in SHAPES {
                    let layout = layout(kind, false, precision.data_type());
                    let weights = weights(16, rows, columns, precision);
                    let written = stored(&*layout, rows, columns, &weights, 3);
                    let case = format!("bnb-{}-{name}-{rows}", kind.name());
                    assert_golden(&case, "codes", &written.parts[0]);
                    assert_golden(&case, "absmax", &written.parts[1]);
                    assert_golden(&case, "state", &written.parts[3]);
                    if name == "f32" {
                        let decoded = written.decoded(&*layout);
                        assert_golden(&case, "decoded", &bytes_of(&decoded));
                    }
                }
            }
        }
    }

    /// The mean is summed in another order, so codes are compared with the package's own.
    #[test]
    fn largest_magnitudes_are_rounded_as_the_package_rounds_them() {
        for kind in [Kind::Nf4, Kind::Fp4] {
            for (name, precision) in [("f32", ScaleType::F32), ("bf16", ScaleType::BF16)] {
                for (rows, columns) in SHAPES {
                    let scheme = FourBitScheme { kind, is_double: true };
                    let layout = scheme.packed(precision.data_type());
                    let weights = weights(16, rows, columns, precision);
                    let case = format!("bnb-{}-{name}-{rows}-double", kind.name());
                    let offset = floats(&golden(&case, "offset"))[0];
                    let ours = FourBit::offset(Measure::of(&weights, 64));
                    assert!((ours / offset - 1.0).abs() < 1e-6, "{ours} {offset}");
                    let mut maxima = Vec::new();
                    blocks::maxima(&weights, 64, &mut maxima);
                    let (mut codes, mut scales) = (Vec::new(), Vec::new());
                    layout.put_nested(0, &maxima, offset, &mut |part, _, bytes| {
                        let to = if part == SCALES { &mut codes } else { &mut scales };
                        to.extend_from_slice(bytes);
                    });
                    assert_golden(&case, "absmax", &codes);
                    assert_golden(&case, "nested", &scales);
                    let matrix = Matrix { rows: rows as u64, columns: columns as u64 };
                    let text = layout.state(matrix, offset).text();
                    assert_golden(&case, "state", text.as_bytes());
                }
            }
        }
    }

    fn checkpoint(double: bool) -> Vec<Tensor<'static>> {
        let case = if double { "bnb-nf4-f32-21-double" } else { "bnb-nf4-f32-21" };
        let scale = if double { DataType::U8 } else { DataType::F32 };
        let state = golden(case, "state");
        let length: &'static [u64] = Box::leak(Box::new([state.len() as u64]));
        let mut tensors = vec![
            ("a.weight", DataType::U8, &[525, 1][..], golden(case, "codes")),
            ("a.weight.absmax", scale, &[17], golden(case, "absmax")),
            ("a.weight.quant_map", DataType::F32, &[16], golden("bnb-maps", "nf4")),
            ("a.weight.quant_state.bitsandbytes__nf4", DataType::U8, length, state),
        ];
        if double {
            let map = golden("bnb-maps", "dynamic");
            tensors.push(("a.weight.nested_absmax", DataType::F32, &[1], golden(case, "nested")));
            tensors.push(("a.weight.nested_quant_map", DataType::F32, &[256], map));
        }
        tensors
    }

    #[test]
    fn checkpoints_are_read() {
        for double in [false, true] {
            let config = json!({"quant_method": "bitsandbytes"});
            let source = Checkpoint::new(checkpoint(double)).open(config).expect("opens");
            let seen = seen(&source);
            assert_eq!(seen.len(), 1);
            let case = if double { "bnb-nf4-f32-21-double" } else { "bnb-nf4-f32-21" };
            assert_golden(case, "decoded", &bytes_of(&seen["a.weight"].2));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: fn(&mut Vec<Tensor<'static>>), expected: &str| {
            let config = json!({"quant_method": "bitsandbytes"});
            assert_eq!(refusal_after(|all, _| change(all), checkpoint(true), config), expected);
        };
        check(
            |all| drop(all.remove(3)),
            "config.json: a: has no tensor `weight.quant_state.bitsandbytes__nf4`",
        );
        check(|all| drop(all.pop()), "config.json: a: has no tensor `weight.nested_quant_map`");
        check(|all| drop(all.remove(0)), "config.json: a: has no tensor `weight`");
        check(
            |all| {
                all[3].3.truncate(40);
                all[3].2 = &[40];
            },
            "model.safetensors: a.weight.quant_state.bitsandbytes__nf4: at byte 0: is not JSON: \
             EOF while parsing a string at line 1 column 40",
        );
        check(
            |all| (all[1].1, all[1].3) = (DataType::F32, vec![0; 68]),
            "model.safetensors: a.weight.absmax: at byte 0: is F32 [17], expected U8 [17]",
        );
        check(
            |all| (all[0].2, all[0].3) = (&[524, 1], vec![0; 524]),
            "model.safetensors: a.weight: at byte 0: is U8 [524, 1], expected U8 [525, 1]",
        );
        check(
            |all| all[3].0 = "a.weight.quant_state.bitsandbytes__fp4",
            "model.safetensors: a.weight.quant_state.bitsandbytes__fp4: at byte 0: has the type \
             nf4, its name another",
        );
    }

    proptest! {
        /// Whatever the tiles, the same bytes; and what is decoded is near.
        #[test]
        fn weights_come_back(
            rows in 1usize..70, columns in 1usize..300, double: bool, fp4: bool, seed in any::<u64>(),
        ) {
            let kind = if fp4 { Kind::Fp4 } else { Kind::Nf4 };
            let layout = layout(kind, double, DataType::F32);
            let weights = weights(seed, rows, columns, ScaleType::F32);
            let once = stored(&*layout, rows, columns, &weights, rows);
            let tiles = stored(&*layout, rows, columns, &weights, 1);
            prop_assert_eq!(&once.parts, &tiles.parts);
            let decoded = once.decoded(&*layout);
            let maximum = |weights: &[f32]| weights.iter().fold(0.0f32, |most, weight| most.max(weight.abs()));
            let spread = maximum(&weights);
            for (back, weights) in decoded.chunks(64).zip(weights.chunks(64)) {
                // The widest gap is a sixth or a third; the scales' own error comes on top.
                let bound = maximum(weights) * 0.18 + if double { spread * 0.02 } else { 0.0 };
                for (back, weight) in back.iter().zip(weights) {
                    prop_assert!((back - weight).abs() <= bound * 1.01, "{} {}", back, weight);
                }
            }
        }
    }
}
