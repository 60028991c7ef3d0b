//! AWQ, the GEMM version: four-bit codes along the outputs in an order of their own,
//! one scale and zero point per group and output. Sources: AutoAWQ 0.2.9
//! (`awq/modules/linear/gemm.py`, `awq/utils/packing_utils.py`), GPTQModel 7.7
//! (`quantization/awq/utils/packing_utils.py`), vLLM 0.33 (`auto_awq.py`).

use std::ops::Range;

use qz_codec::grid::{Grid, RowBatch};
use qz_tensor::{DataType, FileError};
use serde_json::{Value, json};

use super::integers::{Convention, GroupedCodes, IntegerGroups};
use super::numbers::ScaleType;
use super::words::{GroupIndex, WeightReader, exact_only, nearest_block_type, pack_blocks};
use crate::bits;
use crate::error::Error;
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, RowBlock, Unfit};
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme, SchemeFamily};
use crate::schemes::Words;

pub(crate) const FAMILY: SchemeFamily =
    SchemeFamily { name: "awq", examples: &["w4g128", "w4g64", "w4g32"], parse };

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
    fn groups(&self, matrix: Matrix) -> u64 {
        self.integers.group.map_or(1, |group| matrix.columns / group.max(1))
    }

    fn put(&self, matrix: Matrix, first_row: u64, codes: &GroupedCodes, put: &mut Put<'_>) {
        let GroupedCodes { rows, columns, groups, .. } = *codes;
        let mut down = vec![0; codes.codes.len()];
        bits::transpose(&codes.codes, rows, columns, &mut down);
        let mut bytes = Vec::new();
        let at = |line: usize| (line as u64 * matrix.rows + first_row) / RUN * 4;
        for (column, codes) in down.chunks(rows).enumerate() {
            interleave(codes, &mut bytes);
            put(WEIGHT, at(column), &bytes);
        }
        let (mut zeros, mut scales) = (vec![0; rows * groups], vec![0.0; rows * groups]);
        bits::transpose(&codes.zeros, rows, groups, &mut zeros);
        bits::transpose(&codes.scales, rows, groups, &mut scales);
        let scale = self.integers.scale;
        for (group, (zeros, scales)) in zeros.chunks(rows).zip(scales.chunks(rows)).enumerate() {
            interleave(zeros, &mut bytes);
            put(ZEROS, at(group), &bytes);
            bytes.clear();
            scale.write(scales, &mut bytes);
            put(SCALES, (group as u64 * matrix.rows + first_row) * scale.bytes() as u64, &bytes);
        }
    }

    fn read(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<GroupedCodes, FileError> {
        let whole = rows.start / RUN * RUN..rows.end.div_ceil(RUN) * RUN;
        let (count, skipped) =
            ((rows.end - rows.start) as usize, (rows.start - whole.start) as usize);
        let (columns, groups) = (matrix.columns as usize, self.groups(matrix) as usize);
        let mut reader = WeightReader { parts, bytes: Vec::new() };
        let mut words = vec![0; ((whole.end - whole.start) / RUN) as usize];
        let mut line = vec![0; words.len() * RUN as usize];
        let mut lines = |part, lines: usize| -> Result<Vec<u8>, FileError> {
            let mut down = vec![0; lines * count];
            for (number, out) in down.chunks_mut(count).enumerate() {
                let at = (number as u64 * matrix.rows + whole.start) / RUN * 4;
                reader.words(part, at, &mut words)?;
                separate(&words, &mut line);
                out.copy_from_slice(&line[skipped..][..count]);
            }
            let mut across = vec![0; down.len()];
            bits::transpose(&down, lines, count, &mut across);
            Ok(across)
        };
        let codes = lines(WEIGHT, columns)?;
        let zeros = lines(ZEROS, groups)?;
        let (mut down, mut scales) = (vec![0.0; groups * count], vec![0.0; groups * count]);
        let scale = self.integers.scale;
        for (group, out) in down.chunks_mut(count).enumerate() {
            let at = (group as u64 * matrix.rows + rows.start) * scale.bytes() as u64;
            reader.numbers(SCALES, at, scale, out)?;
        }
        bits::transpose(&down, groups, count, &mut scales);
        Ok(GroupedCodes { rows: count, columns, groups, codes, scales, zeros })
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

impl Layout for Awq {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let Matrix { rows, columns } = matrix;
        if rows == 0 || !rows.is_multiple_of(RUN) {
            return Err(Unfit(format!("{rows} outputs are not a multiple of {RUN}")));
        }
        let group = self.integers.group.unwrap_or(columns);
        if columns == 0 || group == 0 || columns % group != 0 {
            return Err(Unfit(format!("{columns} inputs are not a multiple of the group {group}")));
        }
        let groups = self.groups(matrix);
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

    fn encode(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<(), usize> {
        let codes = self.integers.round(rows)?;
        self.put(rows.matrix, rows.first_row, &codes, put);
        Ok(())
    }

    fn grid(&self, columns: usize) -> Option<Box<dyn Grid>> {
        Some(self.integers.grid(columns))
    }

    fn write(&self, matrix: Matrix, first_row: u64, batch: &RowBatch, put: &mut Put<'_>) {
        self.put(matrix, first_row, &self.integers.of_batch(batch), put);
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let codes = self.read(matrix, parts, rows)?;
        let group = self.integers.group_columns(codes.columns);
        codes.decode(&GroupIndex::Absent, group, out);
        Ok(())
    }

    fn exact_type(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
    ) -> Result<Option<DataType>, FileError> {
        Ok(exact_only(self.nearest_type(matrix, parts)?))
    }

    fn nearest_type(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
    ) -> Result<Option<(DataType, f64)>, FileError> {
        nearest_block_type(&self.integers, matrix, &GroupIndex::Absent, || {
            let count = (self.groups(matrix) * matrix.rows) as usize;
            let mut reader = WeightReader { parts, bytes: Vec::new() };
            let mut scales = vec![0.0; count];
            reader.numbers(SCALES, 0, self.integers.scale, &mut scales)?;
            let mut words = vec![0; count / RUN as usize];
            reader.words(ZEROS, 0, &mut words)?;
            let mut zeros = vec![0; count];
            separate(&words, &mut zeros);
            Ok((scales, zeros))
        })
    }

    fn repack(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        pack_blocks(&self.integers, &self.read(matrix, parts, rows)?, out);
        Ok(())
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
