//! AWQ, the GEMM version: four-bit codes along the outputs in an order of their own,
//! one scale and zero point per group and output. Sources: AutoAWQ 0.2.9
//! (`awq/modules/linear/gemm.py`, `awq/utils/packing_utils.py`), GPTQModel 7.7
//! (`quantization/awq/utils/packing_utils.py`), vLLM 0.33 (`auto_awq.py`).

use std::ops::Range;

use qz_tensor::{DataType, FileError, TensorIndex};
use serde_json::{Value, json};

use super::gptq::check_groups;
use super::integer_layout::{IntegerLayout, put_scales_by_group, read_scales_by_group};
use super::integers::{Convention, GroupedCodes, IntegerGroups};
use super::numbers::ScaleType;
use super::words::{WeightReader, WholeRuns};
use super::{awq_fast, awq_gemv};
use crate::bits;
use crate::error::{Error, Fault};
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, Unfit};
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Mixing, Quantized, Scheme, SchemeFamily};
use crate::schemes::Words;

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "awq",
    examples: &["w4g128", "w4g64", "w4g32"],
    form: "4 bits and a group: awq:w4g128 (without g one group for each row)",
    method: "awq",
    mixing: Mixing::None,
    cache_part: None,
    parse,
};

pub(crate) const METHOD: Method = Method {
    name: "awq",
    aliases: &[],
    looks_like: "`qweight`, `qzeros` and `scales`, packed along the outputs",
    recognise,
    open,
};

const WEIGHT: PartIndex = PartIndex(0);
/// Where zero points are stored; else scales are here.
const ZEROS: PartIndex = PartIndex(1);

/// Codes in a word.
const RUN: u64 = 8;
const BITS: u32 = 4;
/// The zero point of symmetric codes.
pub(super) const MIDDLE: u8 = 8;

/// Nibble `i` of a word holds the output of this number.
const ORDER: [usize; RUN as usize] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The layout.
#[derive(Clone, Debug)]
pub struct Awq {
    integers: IntegerGroups,
    /// Else every zero point is in the middle; only read.
    has_zeros: bool,
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

pub(super) fn integers(group: Option<u64>, scale: ScaleType) -> IntegerGroups {
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
        Box::new(Awq { integers: integers(self.group, ScaleType::F16), has_zeros: true })
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        // Engines look for these names anywhere in a module's, so a short one stands for
        // all layers, unless it is found in a module that is packed.
        let is_free = |name: &str| !quantized.modules.iter().any(|packed| packed.contains(name));
        let name = |module: &'_ String| match short(module) {
            short if is_free(short) => short.to_owned(),
            _ => module.clone(),
        };
        let mut left: Vec<String> = quantized.left.iter().map(name).collect();
        left.sort_unstable();
        left.dedup();
        let config = json!({
            "quant_method": "awq",
            "bits": BITS,
            "group_size": self.group.map_or(json!(-1), |group| json!(group)),
            "zero_point": true,
            "version": "gemm",
            "modules_to_not_convert": left,
            "meta": quantized.provenance.meta(),
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

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Awq {
    fn scales(&self) -> PartIndex {
        PartIndex(ZEROS.0 + usize::from(self.has_zeros))
    }

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
        let whole = WholeRuns::around(rows, RUN, matrix);
        let count = (rows.end - rows.start) as usize;
        let mut reader = WeightReader::new(parts);
        let mut words = vec![0; whole.len() / RUN as usize];
        let mut line = vec![0; words.len() * RUN as usize];
        let mut down = vec![0; lines * count];
        for (number, out) in down.chunks_mut(count).enumerate() {
            let at = (number as u64 * matrix.rows + whole.rows.start) / RUN * 4;
            reader.words(part, at, &mut words)?;
            separate(&words, &mut line);
            out.copy_from_slice(whole.wanted(&line));
        }
        Ok(bits::transposed(&down, lines, count))
    }
}

/// Packs whole words of codes.
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "eight codes of four bits, in an order of eight"
)]
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
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "eight codes of four bits, in an order of eight"
)]
fn separate(words: &[u32], codes: &mut [u8]) {
    for (word, codes) in words.iter().zip(codes.as_chunks_mut::<{ RUN as usize }>().0) {
        for (nibble, output) in ORDER.iter().enumerate() {
            codes[*output] = (word >> (4 * nibble)) as u8 & 15;
        }
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
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
        let mut parts = vec![Part::new("qweight", DataType::I32, &[columns, rows / RUN])?];
        if self.has_zeros {
            parts.push(Part::new("qzeros", DataType::I32, &[groups, rows / RUN])?);
        }
        parts.push(Part::new("scales", self.integers.scale.data_type(), &[groups, rows])?);
        Ok(parts)
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
        if self.has_zeros {
            let lines = bits::transposed(&codes.zeros, rows, groups);
            Self::put_lines(ZEROS, matrix, first_row, &lines, rows, put);
        }
        put_scales_by_group(self.scales(), self.integers.scale, matrix, first_row, codes, put);
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
        read_scales_by_group(self.scales(), self.integers.scale, matrix, groups, parts, rows)
    }

    fn read_zeros(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let groups = self.integers.groups(matrix) as usize;
        if !self.has_zeros {
            return Ok(vec![MIDDLE; (rows.end - rows.start) as usize * groups]);
        }
        Self::read_lines(ZEROS, matrix, groups, parts, &rows)
    }
}

fn recognise(request: &OpenRequest<'_>) -> Option<TensorIndex> {
    request.first_with(&["qweight", "qzeros", "scales"])
}

pub(super) fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let config = request.config;
    let version = config.get("version").and_then(Value::as_str).unwrap_or("gemm");
    let open_module = match &*version.to_ascii_lowercase() {
        "gemm" => open_module,
        "gemv" => awq_gemv::open_module,
        "gemv_fast" => awq_fast::open_module,
        _ => {
            let detail =
                format!("the version {version} is not supported; there are: gemm, gemv, gemv_fast");
            return Err(request.config_fault("version", detail));
        }
    };
    let key = if config.contains_key("bits") { "bits" } else { "w_bit" };
    match config.get(key).and_then(Value::as_u64) {
        None | Some(4) => {}
        Some(bits) => {
            let detail = format!("codes of {bits} bits are not supported; there are 4");
            return Err(request.config_fault(key, detail));
        }
    }
    let stated = request.stated(GROUP_KEYS, "extra_config");
    let modules = request.modules_with("qweight").into_iter();
    modules.map(|(module, weight)| open_module(request, module, weight, &stated)).collect()
}

/// What the number of inputs with a scale is called; llm-awq has the second.
const GROUP_KEYS: &[&str] = &["group_size", "q_group_size"];

fn open_module(
    request: &OpenRequest<'_>,
    module: &str,
    weight: TensorIndex,
    stated: &[i64],
) -> Result<PackedTensor, Error> {
    let scales = request.part(module, "scales")?;
    let [columns, words] = *request.matrix_dimensions(weight)?;
    let [groups, outputs] = *request.matrix_dimensions(scales)?;
    let found = || format!("{words} words for {outputs} outputs");
    let bits = [i64::from(BITS)];
    request.check_stated("bits", &bits, |_| words.saturating_mul(RUN) == outputs, weight, found)?;
    check_groups(request, GROUP_KEYS, stated, columns, groups, scales)?;
    let group = columns.checked_div(groups).filter(|_| groups > 1);
    let (has_zeros, remark) = zero_points(request, module)?;
    let layout = Awq { integers: integers(group, request.scale_type(scales)?), has_zeros };
    let matrix = Matrix { rows: words.saturating_mul(RUN), columns };
    let tensor = request.packed(module, matrix, Box::new(layout))?;
    // Of no use where they are not read.
    let unused = if has_zeros { Vec::new() } else { request.tensors(module, &["qzeros"]) };
    Ok(PackedTensor { unused, remark, ..tensor })
}

/// How many inputs have a scale, where only the configuration says it.
pub(super) fn stated_group(request: &OpenRequest<'_>, stated: &[i64]) -> Result<i64, Error> {
    let missing = || request.config_fault("group_size", "is missing");
    stated.first().copied().ok_or_else(missing)
}

/// The matrix, unless its scales do not fit the stated groups.
pub(super) fn packed_as_stated(
    request: &OpenRequest<'_>,
    module: &str,
    matrix: Matrix,
    layout: Box<dyn Layout>,
    scales: TensorIndex,
) -> Result<PackedTensor, Error> {
    let unfit = |unfit: Unfit| request.tensor_fault(scales, Fault::Unfit(unfit.0));
    layout.parts(matrix).map_err(unfit)?;
    request.packed(module, matrix, layout)
}

/// Whether zero points are stored. Without them (`zero_point` false) there is nothing, or
/// zeros: codes around zero would have no negative weights.
pub(super) fn zero_points(
    request: &OpenRequest<'_>,
    module: &str,
) -> Result<(bool, Option<String>), Error> {
    if request.config.get("zero_point").and_then(Value::as_bool) != Some(false) {
        return Ok((true, None));
    }
    let Some(zeros) = request.tensor(module, "qzeros") else { return Ok((false, None)) };
    if request.bytes(zeros)?.iter().any(|byte| *byte != 0) {
        return Ok((true, None));
    }
    let remark = format!(
        "zero_point is false and every stored zero point is 0: read as symmetric codes around \
         {MIDDLE}"
    );
    Ok((false, Some(remark)))
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
