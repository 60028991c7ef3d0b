//! AWQ, the GEMM version: four-bit codes along the outputs in an order of their own,
//! one scale and zero point per group and output. Sources: AutoAWQ 0.2.9
//! (`awq/modules/linear/gemm.py`, `awq/utils/packing_utils.py`), GPTQModel 7.7
//! (`quantization/awq/utils/packing_utils.py`), vLLM 0.33 (`auto_awq.py`).

use std::ops::Range;

use qz_tensor::{DataType, FileError};
use serde_json::{Value, json};

use super::integer_layout::{IntegerLayout, put_scales_by_group, read_scales_by_group};
use super::integers::{Convention, GroupedCodes, IntegerGroups};
use super::numbers::ScaleType;
use super::words::{WeightReader, whole_runs};
use crate::bits;
use crate::error::Error;
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, Unfit};
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme, SchemeFamily};
use crate::schemes::Words;

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "awq",
    examples: &["w4g128", "w4g64", "w4g32"],
    form: "4 bits and a group: awq:w4g128 (without g one group for each row)",
    method: "awq",
    parse,
};

pub(crate) const METHOD: Method = Method { name: "awq", open };

const WEIGHT: PartIndex = PartIndex(0);
const ZEROS: PartIndex = PartIndex(1);
const SCALES: PartIndex = PartIndex(2);

/// Codes in a word.
const RUN: u64 = 8;
const BITS: u32 = 4;

/// Nibble `i` of a word holds the output of this number.
const ORDER: [usize; RUN as usize] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The layout.
#[derive(Clone, Debug)]
pub struct Awq {
    integers: IntegerGroups,
}

/// What stands behind the colon.
#[derive(Clone, Copy, Debug)]
struct AwqScheme {
    group: Option<u64>,
}

fn parse(text: &str) -> Option<Box<dyn Scheme>> {
    let words = Words::of(text)?;
    let (bits, group) = words.bits_and_group()?;
    (bits == BITS && words.flags_are(&[])).then(|| Box::new(AwqScheme { group }) as Box<dyn Scheme>)
}

fn integers(group: Option<u64>, scale: ScaleType) -> IntegerGroups {
    IntegerGroups {
        bits: BITS,
        group,
        symmetric: false,
        least_zero: 0,
        scale,
        convention: Convention::Awq,
    }
}

impl Scheme for AwqScheme {
    fn name(&self) -> String {
        format!("w4{}", self.group.map_or_else(String::new, |group| format!("g{group}")))
    }

    fn with_group(&self, group: Option<u64>) -> Option<Box<dyn Scheme>> {
        Some(Box::new(Self { group }))
    }

    fn layout(&self, _model_type: DataType) -> Box<dyn Layout> {
        Box::new(Awq { integers: integers(self.group, ScaleType::F16) })
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        // Engines look for these names anywhere in a module's.
        let mut left: Vec<&str> = quantized.left.iter().map(|module| short(module)).collect();
        left.sort_unstable();
        left.dedup();
        let config = json!({
            "quant_method": "awq",
            "bits": BITS,
            "group_size": self.group.map_or(json!(-1), |group| json!(group)),
            "zero_point": true,
            "version": "gemm",
            "modules_to_not_convert": left,
        });
        Configuration { entries: vec![("quantization_config", config)], files: Vec::new() }
    }
}

/// A module's name without the layer it is in: `mlp.gate` of `model.layers.3.mlp.gate`.
fn short(module: &str) -> &str {
    let is_number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    match module.split('.').rfind(is_number) {
        Some(layer) => {
            let marker = format!(".{layer}.");
            module.rsplit_once(&marker).map_or(module, |(_, rest)| rest)
        }
        None => module,
    }
}

impl Awq {
    /// Packs lines of codes, each of all rows, down the outputs.
    fn put_lines(
        part: PartIndex,
        matrix: Matrix,
        first_row: u64,
        lines: &[u8],
        rows: usize,
        put: &mut Put<'_>,
    ) {
        let mut bytes = Vec::new();
        for (line, codes) in lines.chunks(rows).enumerate() {
            interleave(codes, &mut bytes);
            put(part, (line as u64 * matrix.rows + first_row) / RUN * 4, &bytes);
        }
    }

    /// Reads lines of codes, as rows.
    fn read_lines(
        part: PartIndex,
        matrix: Matrix,
        lines: usize,
        parts: &dyn PartBytes,
        rows: &Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let whole = whole_runs(rows, RUN, matrix);
        let (count, skipped) =
            ((rows.end - rows.start) as usize, (rows.start - whole.start) as usize);
        let mut reader = WeightReader { parts, bytes: Vec::new() };
        let mut words = vec![0; ((whole.end - whole.start) / RUN) as usize];
        let mut line = vec![0; words.len() * RUN as usize];
        let mut down = vec![0; lines * count];
        for (number, out) in down.chunks_mut(count).enumerate() {
            let at = (number as u64 * matrix.rows + whole.start) / RUN * 4;
            reader.words(part, at, &mut words)?;
            separate(&words, &mut line);
            out.copy_from_slice(&line[skipped..][..count]);
        }
        Ok(bits::transposed(&down, lines, count))
    }
}

/// Packs whole words of codes.
fn interleave(codes: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for codes in codes.as_chunks::<{ RUN as usize }>().0 {
        let nibbles = ORDER.iter().enumerate();
        let word = nibbles
            .fold(0u32, |word, (nibble, output)| word | u32::from(codes[*output]) << (4 * nibble));
        out.extend(word.to_le_bytes());
    }
}

/// Undoes [`interleave`].
fn separate(words: &[u32], codes: &mut [u8]) {
    for (word, codes) in words.iter().zip(codes.as_chunks_mut::<{ RUN as usize }>().0) {
        for (nibble, output) in ORDER.iter().enumerate() {
            codes[*output] = (word >> (4 * nibble)) as u8 & 15;
        }
    }
}

impl IntegerLayout for Awq {
    fn integers(&self) -> &IntegerGroups {
        &self.integers
    }

    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let Matrix { rows, columns } = matrix;
        if rows == 0 || !rows.is_multiple_of(RUN) {
            return Err(Unfit(format!("{rows} outputs are not a multiple of {RUN}")));
        }
        self.integers.check_groups(matrix)?;
        let groups = self.integers.groups(matrix);
        Ok(vec![
            Part::new("qweight", DataType::I32, &[columns, rows / RUN])?,
            Part::new("qzeros", DataType::I32, &[groups, rows / RUN])?,
            Part::new("scales", self.integers.scale.data_type(), &[groups, rows])?,
        ])
    }

    fn row_unit(&self, _matrix: Matrix) -> u64 {
        RUN
    }

    fn is_strided(&self) -> bool {
        true
    }

    fn put(&self, matrix: Matrix, first_row: u64, codes: &GroupedCodes, put: &mut Put<'_>) {
        let GroupedCodes { rows, columns, groups, .. } = *codes;
        let lines = bits::transposed(&codes.codes, rows, columns);
        Self::put_lines(WEIGHT, matrix, first_row, &lines, rows, put);
        let lines = bits::transposed(&codes.zeros, rows, groups);
        Self::put_lines(ZEROS, matrix, first_row, &lines, rows, put);
        put_scales_by_group(SCALES, self.integers.scale, matrix, first_row, codes, put);
    }

    fn read_codes(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        Self::read_lines(WEIGHT, matrix, matrix.columns as usize, parts, &rows)
    }

    fn read_scales(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<f32>, FileError> {
        let groups = self.integers.groups(matrix);
        read_scales_by_group(SCALES, self.integers.scale, matrix, groups, parts, rows)
    }

    fn read_zeros(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let groups = self.integers.groups(matrix) as usize;
        Self::read_lines(ZEROS, matrix, groups, parts, &rows)
    }
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let config = request.config;
    if let Some(version) = config.get("version").and_then(Value::as_str)
        && !version.eq_ignore_ascii_case("gemm")
    {
        let detail = format!("the version {version} is not supported; there is: gemm");
        return Err(request.config_fault("version", detail));
    }
    let key = if config.contains_key("bits") { "bits" } else { "w_bit" };
    match config.get(key).and_then(Value::as_u64) {
        None | Some(4) => {}
        Some(bits) => {
            let detail = format!("codes of {bits} bits are not supported; there are 4");
            return Err(request.config_fault(key, detail));
        }
    }
    let mut packed = Vec::new();
    for (module, weight) in request.modules_with("qweight") {
        let scales = request.part(module, "scales")?;
        let [columns, words] = *request.matrix_dimensions(weight)?;
        let [groups, _] = *request.matrix_dimensions(scales)?;
        let group = (groups > 1).then(|| columns / groups);
        let scale = request.scale_type(scales)?;
        let layout = Awq { integers: integers(group, scale) };
        let matrix = Matrix { rows: words.saturating_mul(RUN), columns };
        packed.push(request.packed(module, matrix, Box::new(layout))?);
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_even_outputs_first() {
        let mut bytes = Vec::new();
        interleave(&[0, 1, 2, 3, 4, 5, 6, 7], &mut bytes);
        assert_eq!(bytes, 0x7531_6420u32.to_le_bytes());
        let mut codes = [0; 8];
        separate(&[0x7531_6420], &mut codes);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn names_without_their_layer() {
        let check = |module: &str, expected: &str| assert_eq!(short(module), expected);
        check("lm_head", "lm_head");
        check("model.layers.3.mlp.gate", "mlp.gate");
        check("model.layers.13.block_sparse_moe.gate", "block_sparse_moe.gate");
    }
}
