//! HQQ, read: codes of 8, 4, 3, 2 or 1 bits in groups along the outputs or the inputs, with a
//! scale and a zero point that is any number. Sources: hqq 0.2.8 (`core/quantize.py`,
//! `core/bitpack.py`, `core/utils.py`).
//!
//! The matrix is seen as lines: of a group each (`axis` 1), or of a group's first, second, …
//! weights (`axis` 0). The lines are folded: the first half of them is in the high halves of
//! bytes, and so on for less bits; ten lines of three bits are in a word of 32.

use std::ops::Range;

use qz_tensor::{DataType, FileError, Shape, TensorIndex};

use super::numbers::ScaleType;
use super::words::WeightReader;
use crate::error::{Error, Fault};
use crate::inputs::Inputs;
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, RowBlock, Unfit};
use crate::method::{Method, OpenRequest, PackedTensor};

pub(crate) const METHOD: Method = Method {
    name: "hqq",
    aliases: &[],
    looks_like: "`W_q`, `scale` and `zero`",
    recognise: |request| request.first_with(&["W_q", "scale", "zero"]),
    open,
};

const CODES: PartIndex = PartIndex(0);
const SCALES: PartIndex = PartIndex(1);
const ZEROS: PartIndex = PartIndex(2);

/// How lines are folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fold {
    name: &'static str,
    bits: u32,
    /// Lines in one.
    count: u64,
    /// Bytes that hold a code of each.
    bytes: u64,
}

static FOLDS: &[Fold] = &[
    Fold { name: "8bit_u8", bits: 8, count: 1, bytes: 1 },
    Fold { name: "4bit_u8", bits: 4, count: 2, bytes: 1 },
    Fold { name: "3bit_32", bits: 3, count: 10, bytes: 4 },
    Fold { name: "2bit_u8", bits: 2, count: 4, bytes: 1 },
    Fold { name: "1bit_u8", bits: 1, count: 8, bytes: 1 },
];

/// The layout.
#[derive(Clone, Copy, Debug)]
struct Hqq {
    fold: Fold,
    /// True if a line is a group, false if it holds a weight of each.
    by_line: bool,
    lines: u64,
    width: u64,
    scale: ScaleType,
    zero: ScaleType,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Hqq {
    /// Lines of one fold.
    fn step(&self) -> u64 {
        self.lines.div_ceil(self.fold.count)
    }

    /// The scales and zero points of weights from one place of the flattened matrix to
    /// another, with what the first is of.
    fn groups(&self, weights: &Range<u64>) -> Range<u64> {
        if self.by_line {
            return weights.start / self.width..weights.end.div_ceil(self.width);
        }
        let first = weights.start / self.width;
        if (weights.end - 1) / self.width == first {
            let begin = first * self.width;
            return weights.start - begin..weights.end - begin;
        }
        0..self.width
    }

    fn group_of(&self, weight: u64) -> u64 {
        if self.by_line { weight / self.width } else { weight % self.width }
    }

    /// The codes of weights that are in the same fold, as numbers.
    fn read_codes(
        &self,
        parts: &dyn PartBytes,
        weights: Range<u64>,
        bytes: &mut Vec<u8>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let fold = weights.start / (self.step() * self.width);
        let first = weights.start - fold * self.step() * self.width;
        bytes.resize(((weights.end - weights.start) * self.fold.bytes) as usize, 0);
        parts.read(CODES, first * self.fold.bytes, bytes)?;
        let shift = self.fold.bits * (self.fold.count - 1 - fold) as u32;
        let mask = u8::MAX >> (8 - self.fold.bits);
        if self.fold.bytes == 1 {
            for (byte, out) in bytes.iter().zip(out) {
                *out = f32::from(byte >> shift & mask);
            }
        } else {
            for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
                *out = f32::from((u32::from_le_bytes(*bytes) >> shift) as u8 & mask);
            }
        }
        Ok(())
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Layout for Hqq {
    /// The codes' tensor may have another type and shape, so only the others are said.
    fn parts(&self, _matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let groups: &[u64] = if self.by_line { &[self.lines, 1] } else { &[1, self.width] };
        let bytes = self.step().checked_mul(self.width * self.fold.bytes);
        let bytes = bytes.ok_or_else(|| Unfit("has too many weights".to_owned()))?;
        Ok(vec![
            Part::new("W_q", DataType::U8, &[bytes])?,
            Part::new("scale", self.scale.data_type(), groups)?,
            Part::new("zero", self.zero.data_type(), groups)?,
        ])
    }

    fn encode(&self, _rows: &RowBlock<'_>, _put: &mut Put<'_>) -> Result<(), usize> {
        unreachable!("HQQ is only read")
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let weights = rows.start * matrix.columns..rows.end * matrix.columns;
        if weights.is_empty() {
            return Ok(());
        }
        let in_fold = self.step() * self.width;
        let (mut bytes, mut begin) = (Vec::new(), weights.start);
        while begin < weights.end {
            let end = weights.end.min((begin / in_fold + 1) * in_fold);
            let own = (begin - weights.start) as usize..(end - weights.start) as usize;
            self.read_codes(parts, begin..end, &mut bytes, &mut out[own])?;
            begin = end;
        }
        let groups = self.groups(&weights);
        let mut reader = WeightReader { parts, bytes };
        let mut numbers = |part, of: ScaleType| -> Result<Vec<f32>, FileError> {
            let mut numbers = vec![0.0; (groups.end - groups.start) as usize];
            reader.numbers(part, groups.start * of.bytes() as u64, of, &mut numbers)?;
            Ok(numbers)
        };
        let (scales, zeros) = (numbers(SCALES, self.scale)?, numbers(ZEROS, self.zero)?);
        for (weight, out) in weights.zip(out) {
            let group = (self.group_of(weight) - groups.start) as usize;
            *out = (*out - zeros[group]) * scales[group];
        }
        Ok(())
    }
}

/// What lies beside the codes and is not read with the weights.
const SETTINGS: &[&str] = &[
    "nbits",
    "group_size",
    "shape",
    "axis",
    "packing",
    "unpack_view_dtype",
    "view_as_float",
    "quant_scale",
    "quant_zero",
    "compute_dtype",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
    "channel_wise",
    "optimize",
    "round_zero",
];

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let modules = request.modules_with("W_q").into_iter();
    modules.map(|(module, codes)| open_module(request, module, codes)).collect()
}

/// A module's settings, each a small tensor.
struct Settings<'a, 'r> {
    request: &'a OpenRequest<'r>,
    module: &'a str,
}

impl Settings<'_, '_> {
    fn bytes(&self, name: &str) -> Result<(TensorIndex, Vec<u8>), Error> {
        /// No setting is longer.
        const LONGEST: u64 = 64;
        let tensor = self.request.part(self.module, name)?;
        let bytes = self.request.info(tensor).bytes;
        if bytes > LONGEST {
            return Err(self.fault(tensor, format!("has {bytes} bytes, more than {LONGEST}")));
        }
        Ok((tensor, self.request.bytes(tensor)?))
    }

    fn fault(&self, tensor: TensorIndex, detail: String) -> Error {
        self.request.tensor_fault(tensor, Fault::Content(detail))
    }

    /// Integers, of any type that holds them.
    fn integers(&self, name: &str) -> Result<(TensorIndex, Vec<u64>), Error> {
        let (tensor, bytes) = self.bytes(name)?;
        let data_type = self.request.data_type(tensor);
        let integers: Option<Vec<u64>> = match data_type.name() {
            "U8" => Some(bytes.iter().map(|byte| u64::from(*byte)).collect()),
            "I32" => {
                let numbers = bytes.as_chunks().0.iter();
                numbers.map(|bytes| u64::try_from(i32::from_le_bytes(*bytes)).ok()).collect()
            }
            "I64" => {
                let numbers = bytes.as_chunks().0.iter();
                numbers.map(|bytes| u64::try_from(i64::from_le_bytes(*bytes)).ok()).collect()
            }
            _ => None,
        };
        let wrong = || self.fault(tensor, format!("is {data_type}, or below zero"));
        Ok((tensor, integers.ok_or_else(wrong)?))
    }

    fn integer(&self, name: &str) -> Result<(TensorIndex, u64), Error> {
        let (tensor, integers) = self.integers(name)?;
        match *integers {
            [integer] => Ok((tensor, integer)),
            _ => Err(self.fault(tensor, "is not one number".to_owned())),
        }
    }
}

fn open_module(
    request: &OpenRequest<'_>,
    module: &str,
    codes: TensorIndex,
) -> Result<PackedTensor, Error> {
    let settings = Settings { request, module };
    let (packing, name) = settings.bytes("packing")?;
    let fold = FOLDS.iter().find(|fold| fold.name.as_bytes() == &*name).ok_or_else(|| {
        let known: Vec<&str> = FOLDS.iter().map(|fold| fold.name).collect();
        let name = String::from_utf8_lossy(&name).escape_debug().to_string();
        let detail =
            format!("codes packed as {name} are not known; there are: {}", known.join(", "));
        settings.fault(packing, detail)
    })?;
    let (shape, dimensions) = settings.integers("shape")?;
    let &[rows, columns] = &*dimensions else {
        return Err(settings.fault(shape, "is not that of a matrix".to_owned()));
    };
    let (axis, number) = settings.integer("axis")?;
    if number > 1 {
        return Err(settings.fault(axis, format!("is {number}, not 0 or 1")));
    }
    let (group_size, group) = settings.integer("group_size")?;
    let weights = rows.checked_mul(columns).filter(|weights| *weights > 0);
    let weights = weights.ok_or_else(|| settings.fault(shape, "has no size".to_owned()))?;
    if group == 0 || !weights.is_multiple_of(group) {
        let detail = format!("{weights} weights are not a multiple of the group {group}");
        return Err(settings.fault(group_size, detail));
    }
    let by_line = number == 1;
    let groups = weights.checked_div(group).unwrap_or(0);
    let (lines, width) = if by_line { (groups, group) } else { (group, groups) };
    let (scales, zeros) = (request.part(module, "scale")?, request.part(module, "zero")?);
    let (scale, zero) = (request.scale_type(scales)?, request.scale_type(zeros)?);
    let layout = Hqq { fold: *fold, by_line, lines, width, scale, zero };
    check_parts(request, &layout, Matrix { rows, columns }, [codes, scales, zeros])?;
    let shape = Shape::new([rows, columns])
        .map_err(|error| request.fault(module, Fault::Unfit(error.to_string())))?;
    Ok(PackedTensor {
        name: format!("{module}.weight"),
        shape,
        layout: Box::new(layout),
        parts: vec![codes, scales, zeros],
        unused: request.tensors(module, SETTINGS),
        code_bits: None,
        inputs: Inputs::default(),
        remark: None,
    })
}

/// The codes may be stored as numbers of any type (`view_as_float`): only their bytes count.
fn check_parts(
    request: &OpenRequest<'_>,
    layout: &Hqq,
    matrix: Matrix,
    tensors: [TensorIndex; 3],
) -> Result<(), Error> {
    let fault = |tensor, found: String, expected: String| {
        Err(request.tensor_fault(tensor, Fault::Part { found, expected }))
    };
    let parts = layout.parts(matrix);
    let [codes, ..] = tensors;
    let parts = parts.map_err(|unfit| request.tensor_fault(codes, Fault::Unfit(unfit.0)))?;
    for (tensor, part) in tensors.iter().zip(&parts) {
        let info = request.info(*tensor);
        if *tensor == codes {
            if info.bytes != part.shape.elements() {
                let expected = format!("{} bytes", part.shape.elements());
                return fault(*tensor, format!("{} bytes", info.bytes), expected);
            }
        } else if info.shape != part.shape {
            let expected = format!("{} {}", part.data_type, part.shape);
            return fault(*tensor, format!("{} {}", info.data_type, info.shape), expected);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::golden::{assert_golden, bytes_of, golden, weights};
    use crate::layouts::numbers::number_over_tensor;
    use crate::testing::{Checkpoint, Tensor, refusal_after, seen};

    const ROWS: u64 = 40;
    const COLUMNS: u64 = 128;
    const GROUP: u64 = 64;

    /// As hqq folds codes, written here the other way round.
    fn folded(fold: &Fold, lines: usize, width: usize, codes: &[u8]) -> Vec<u8> {
        let step = lines.div_ceil(fold.count as usize);
        let mut words = vec![0u32; step * width];
        for (position, code) in codes.iter().enumerate() {
            let (line, column) = (position / width, position % width);
            let shift = fold.bits * (fold.count as u32 - 1 - (line / step) as u32);
            words[line % step * width + column] |= u32::from(*code) << shift;
        }
        let bytes = fold.bytes as usize;
        words.iter().flat_map(|word| word.to_le_bytes()[..bytes].to_vec()).collect()
    }

    /// The package's scales and zero points, and codes as it rounds them.
    fn checkpoint(fold: &'static Fold, axis: u8) -> Vec<Tensor<'static>> {
        let case = format!("hqq-{}-{axis}", fold.bits);
        let (scale, zero) = (golden(&case, "scale"), golden(&case, "zero"));
        let groups = ROWS * COLUMNS / GROUP;
        let (lines, width) = if axis == 1 { (groups, GROUP) } else { (GROUP, groups) };
        let codes = codes(&case, fold, axis, width);
        let packed = folded(fold, lines as usize, width as usize, &codes);
        assert_golden(&case, "codes", &packed);
        let leak = |dimensions: Vec<u64>| -> &'static [u64] { Box::leak(dimensions.into()) };
        let of_groups = leak(if axis == 1 { vec![groups, 1] } else { vec![1, groups] });
        let step = lines.div_ceil(fold.count);
        let code_type = if fold.bytes == 4 { DataType::I32 } else { DataType::U8 };
        let long = |value: u64| value.to_le_bytes().to_vec();
        vec![
            ("a.W_q", code_type, leak(vec![step, width]), packed),
            ("a.scale", DataType::F32, of_groups, scale),
            ("a.zero", DataType::F32, of_groups, zero),
            ("a.packing", DataType::U8, &[7], fold.name.as_bytes().to_vec()),
            ("a.shape", DataType::I64, &[2], [long(ROWS), long(COLUMNS)].concat()),
            ("a.axis", DataType::I32, &[], i32::from(axis).to_le_bytes().to_vec()),
            ("a.group_size", DataType::I32, &[], (GROUP as i32).to_le_bytes().to_vec()),
            ("a.nbits", DataType::I32, &[], (fold.bits as i32).to_le_bytes().to_vec()),
        ]
    }

    /// Its rule multiplies with the inverse of the scale that is stored.
    fn codes(case: &str, fold: &Fold, axis: u8, width: u64) -> Vec<u8> {
        let zeros = crate::golden::floats(&golden(case, "zero"));
        let highest = ((1u32 << fold.bits) - 1) as f32;
        let weights = weights(19, ROWS as usize, COLUMNS as usize, ScaleType::F32);
        let width = width as usize;
        let group = |position: usize| if axis == 1 { position / width } else { position % width };
        let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); zeros.len()];
        for (position, weight) in weights.iter().enumerate() {
            let range = &mut ranges[group(position)];
            *range = (range.0.min(*weight), range.1.max(*weight));
        }
        let factor = |(low, high): (f32, f32)| {
            let wide = number_over_tensor(ScaleType::F32, highest, high - low);
            if high - low <= 1e-4 { 1.0 } else { wide.min(2e4) }
        };
        let code = |(position, weight): (usize, &f32)| {
            let group = group(position);
            let steps = weight * factor(ranges[group]) + zeros[group];
            steps.round_ties_even().clamp(0.0, highest) as u8
        };
        weights.iter().enumerate().map(code).collect()
    }

    #[test]
    fn codes_are_unfolded_as_hqq_folds_them() {
        for fold in FOLDS {
            for axis in [0, 1] {
                let source = Checkpoint::new(checkpoint(fold, axis));
                let source = source.open(json!({"quant_method": "hqq"})).expect("opens");
                let seen = seen(&source);
                assert_eq!(seen.len(), 1, "settings are hidden");
                let case = format!("hqq-{}-{axis}", fold.bits);
                assert_golden(&case, "decoded", &bytes_of(&seen["a.weight"].2));
            }
        }
    }

    #[test]
    fn rows_are_read_alone() {
        for fold in FOLDS {
            for axis in [0, 1] {
                let source = Checkpoint::new(checkpoint(fold, axis));
                let source = source.open(json!({"quant_method": "hqq"})).expect("opens");
                let all = &seen(&source)["a.weight"].2;
                for rows in [0..1u64, 3..4, 19..27, 39..40] {
                    let row_bytes = COLUMNS * 4;
                    let mut bytes = vec![0; ((rows.end - rows.start) * row_bytes) as usize];
                    use qz_tensor::TensorSource;
                    let read = source.read(TensorIndex(0), rows.start * row_bytes, &mut bytes);
                    read.expect("memory can be read");
                    let expected = (rows.start * COLUMNS) as usize..(rows.end * COLUMNS) as usize;
                    assert_eq!(crate::golden::floats(&bytes), all[expected]);
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: fn(&mut Vec<Tensor<'static>>), expected: &str| {
            let (tensors, config) = (checkpoint(&FOLDS[1], 1), json!({"quant_method": "hqq"}));
            assert_eq!(refusal_after(|all, _| change(all), tensors, config), expected);
        };
        check(|all| drop(all.remove(2)), "config.json: a: has no tensor `zero`");
        check(|all| drop(all.remove(4)), "config.json: a: has no tensor `shape`");
        check(
            |all| all[3].3 = b"5bit_u8".to_vec(),
            "model.safetensors: a.packing: at byte 0: codes packed as 5bit_u8 are not known; there \
             are: 8bit_u8, 4bit_u8, 3bit_32, 2bit_u8, 1bit_u8",
        );
        check(
            |all| all[3].3 = b"2bit_u8".to_vec(),
            "model.safetensors: a.W_q: at byte 0: is 2560 bytes, expected 1280 bytes",
        );
        check(
            |all| all[5].3 = vec![2, 0, 0, 0],
            "model.safetensors: a.axis: at byte 0: is 2, not 0 or 1",
        );
        check(
            |all| all[6].3 = vec![7, 0, 0, 0],
            "model.safetensors: a.group_size: at byte 0: 5120 weights are not a multiple of the \
             group 7",
        );
        check(
            |all| all[1].2 = &[1, 80],
            "model.safetensors: a.scale: at byte 0: is F32 [1, 80], expected F32 [80, 1]",
        );
    }
}
