//! GPTQ, formats v1 and v2: words of codes down the inputs, one scale and zero point
//! per group and output. Sources: GPTQModel 7.7 (`nn_modules/qlinear/__init__.py`,
//! `utils/model.py`), vLLM 0.33 (`layers/quantization/auto_gptq.py`).

use std::ops::Range;

use qz_codec::grid::{Grid, RowBatch};
use qz_tensor::{DataType, FileError, SideFile};
use serde_json::{Map, Value, json};

use super::integers::{Convention, GroupedCodes, IntegerGroups};
use super::numbers::ScaleType;
use super::words::{GroupIndex, WeightReader, exact_only, nearest_block_type, pack_blocks};
use crate::bits;
use crate::error::Error;
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, RowBlock, Unfit};
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme, SchemeFamily};
use crate::schemes::Words;

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "gptq",
    examples: &["w4g128", "w8g128", "w4g128+v2", "w4g128+asym", "w3g128", "w2g64", "w4"],
    parse,
};

pub(crate) const METHOD: Method = Method { name: "gptq", open };

const WEIGHT: PartIndex = PartIndex(0);
const ZEROS: PartIndex = PartIndex(1);
const SCALES: PartIndex = PartIndex(2);
const GROUP_INDEX: PartIndex = PartIndex(3);

/// How zero points are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One less than they are: zero cannot be stored.
    V1,
    /// As they are.
    V2,
}

/// The layout.
#[derive(Clone, Debug)]
pub struct Gptq {
    integers: IntegerGroups,
    version: Version,
    /// Which group each column is of; only read.
    index: GroupIndex,
}

/// What stands behind the colon.
#[derive(Clone, Copy, Debug)]
struct GptqScheme {
    bits: u32,
    group: Option<u64>,
    symmetric: bool,
    version: Version,
}

fn parse(text: &str) -> Option<Box<dyn Scheme>> {
    let words = Words::of(text)?;
    let (bits, group) = words.bits_and_group()?;
    if !matches!(bits, 2 | 3 | 4 | 8) || !words.flags_are(&["v2", "asym"]) {
        return None;
    }
    let version = if words.has("v2") { Version::V2 } else { Version::V1 };
    Some(Box::new(GptqScheme { bits, group, symmetric: !words.has("asym"), version }))
}

impl Scheme for GptqScheme {
    fn name(&self) -> String {
        let group = self.group.map_or_else(String::new, |group| format!("g{group}"));
        let version = if self.version == Version::V2 { "+v2" } else { "" };
        let asymmetric = if self.symmetric { "" } else { "+asym" };
        format!("w{}{group}{version}{asymmetric}", self.bits)
    }

    fn layout(&self, _model_type: DataType) -> Box<dyn Layout> {
        let least_zero = u8::from(self.version == Version::V1 && !self.symmetric);
        Box::new(Gptq {
            integers: IntegerGroups {
                bits: self.bits,
                group: self.group,
                symmetric: self.symmetric,
                least_zero,
                scale: ScaleType::F16,
                convention: Convention::Gptq,
            },
            version: self.version,
            index: GroupIndex::InOrder,
        })
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        let format = if self.version == Version::V2 { "gptq_v2" } else { "gptq" };
        // Every module that stays as it is, as GPTQModel leaves modules out. Engines
        // know of the output matrix by `lm_head`.
        let left: Map<String, Value> = quantized
            .left
            .iter()
            .filter(|module| *module != "lm_head")
            .map(|module| (format!("-:^{}$", module.replace('.', "\\.")), json!({})))
            .collect();
        let config = json!({
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group.map_or(json!(-1), |group| json!(group)),
            "desc_act": false,
            "sym": self.symmetric,
            "lm_head": false,
            "checkpoint_format": format,
            "format": format,
            "pack_dtype": "int32",
            "static_groups": false,
            "true_sequential": true,
            "damp_percent": 0.05,
            "dynamic": if left.is_empty() { Value::Null } else { Value::Object(left) },
            "meta": {"quantizer": [concat!("quantize:", env!("CARGO_PKG_VERSION"))]},
        });
        let file = SideFile { name: "quantize_config.json".to_owned(), content: pretty(&config) };
        Configuration { entries: vec![("quantization_config", config)], files: vec![file] }
    }
}

/// JSON as people read it.
fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

impl Gptq {
    fn groups(&self, matrix: Matrix) -> u64 {
        self.integers.group.map_or(1, |group| matrix.columns.div_ceil(group.max(1)))
    }

    fn zero_mask(&self) -> u8 {
        (u8::MAX) >> (8 - self.integers.bits)
    }

    fn put(&self, matrix: Matrix, first_row: u64, codes: &GroupedCodes, put: &mut Put<'_>) {
        let bits = self.integers.bits;
        let GroupedCodes { rows, columns, groups, .. } = *codes;
        let row_words = bits::words(columns as u64, bits) as usize;
        let mut words = vec![0; rows * row_words];
        for (codes, words) in codes.codes.chunks(columns).zip(words.chunks_mut(row_words)) {
            bits::pack(codes, bits, words);
        }
        let mut down = vec![0; words.len()];
        bits::transpose(&words, rows, row_words, &mut down);
        let mut bytes = Vec::new();
        for (row, words) in down.chunks(rows).enumerate() {
            bits::to_bytes(words, &mut bytes);
            put(WEIGHT, (row as u64 * matrix.rows + first_row) * 4, &bytes);
        }
        let stored = |zero: u8| match self.version {
            Version::V1 => zero.wrapping_sub(1) & self.zero_mask(),
            Version::V2 => zero,
        };
        let zeros: Vec<u8> = codes.zeros.iter().map(|zero| stored(*zero)).collect();
        let (mut of_groups, mut scales) = (vec![0; zeros.len()], vec![0.0; zeros.len()]);
        bits::transpose(&zeros, rows, groups, &mut of_groups);
        bits::transpose(&codes.scales, rows, groups, &mut scales);
        let mut words = vec![0; bits::words(rows as u64, bits) as usize];
        let group_words = bits::words(matrix.rows, bits);
        let first_word = first_row * u64::from(bits) / 32;
        let scale = self.integers.scale;
        for (group, (zeros, scales)) in of_groups.chunks(rows).zip(scales.chunks(rows)).enumerate()
        {
            bits::pack(zeros, bits, &mut words);
            bits::to_bytes(&words, &mut bytes);
            put(ZEROS, (group as u64 * group_words + first_word) * 4, &bytes);
            bytes.clear();
            scale.write(scales, &mut bytes);
            put(SCALES, (group as u64 * matrix.rows + first_row) * scale.bytes() as u64, &bytes);
        }
    }

    /// Rows as codes, scales and zero points.
    fn read(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<GroupedCodes, FileError> {
        let bits = self.integers.bits;
        // Zero points of neighbouring rows share words.
        let unit = bits::codes_per_run(bits);
        let whole = rows.start / unit * unit..(rows.end.div_ceil(unit) * unit).min(matrix.rows);
        let (count, skipped) =
            ((rows.end - rows.start) as usize, (rows.start - whole.start) as usize);
        let columns = matrix.columns as usize;
        let groups = self.groups(matrix) as usize;
        let mut reader = WeightReader { parts, bytes: Vec::new() };

        let row_words = bits::words(matrix.columns, bits) as usize;
        let mut down = vec![0; row_words * count];
        for (row, words) in down.chunks_mut(count).enumerate() {
            reader.words(WEIGHT, (row as u64 * matrix.rows + rows.start) * 4, words)?;
        }
        let mut words = vec![0; down.len()];
        bits::transpose(&down, row_words, count, &mut words);
        let mut codes = vec![0; count * columns];
        for (words, codes) in words.chunks(row_words).zip(codes.chunks_mut(columns)) {
            bits::unpack(words, bits, codes);
        }

        let all = (whole.end - whole.start) as usize;
        let mut zero_words = vec![0; bits::words(all as u64, bits) as usize];
        let group_words = bits::words(matrix.rows, bits);
        let first_word = whole.start * u64::from(bits) / 32;
        let (mut zeros, mut scales) = (vec![0; all], vec![0.0; count]);
        let (mut all_zeros, mut all_scales) = (vec![0; groups * count], vec![0.0; groups * count]);
        let scale = self.integers.scale;
        for group in 0..groups {
            let at = (group as u64 * group_words + first_word) * 4;
            reader.words(ZEROS, at, &mut zero_words)?;
            if self.version == Version::V1 {
                add_one(&mut zero_words, bits);
            }
            bits::unpack(&zero_words, bits, &mut zeros);
            all_zeros[group * count..][..count].copy_from_slice(&zeros[skipped..][..count]);
            let at = (group as u64 * matrix.rows + rows.start) * scale.bytes() as u64;
            reader.numbers(SCALES, at, scale, &mut scales)?;
            all_scales[group * count..][..count].copy_from_slice(&scales);
        }
        let (mut zeros, mut scales) = (all_zeros.clone(), all_scales.clone());
        bits::transpose(&all_zeros, groups, count, &mut zeros);
        bits::transpose(&all_scales, groups, count, &mut scales);
        Ok(GroupedCodes { rows: count, columns, groups, codes, scales, zeros })
    }
}

/// Undoes the "one less" of v1 as GPTQModel does: word by word, which also brings back
/// a zero that its writer's subtraction borrowed for; fields of three bits one by one.
fn add_one(words: &mut [u32], bits: u32) {
    if bits == 3 {
        let mut zeros = vec![0; words.len() * 32 / 3];
        let count = zeros.len();
        let whole = bits::words(count as u64, bits) as usize;
        bits::unpack(&words[..whole], bits, &mut zeros);
        zeros.iter_mut().for_each(|zero| *zero = (*zero + 1) & 7);
        bits::pack(&zeros, bits, &mut words[..whole]);
        return;
    }
    let ones = (0..32 / bits).fold(0, |word, field| word | 1u32 << (field * bits));
    words.iter_mut().for_each(|word| *word = word.wrapping_add(ones));
}

impl Layout for Gptq {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let (bits, run) = (self.integers.bits, bits::codes_per_run(self.integers.bits));
        let Matrix { rows, columns } = matrix;
        for (count, what) in [(columns, "inputs"), (rows, "outputs")] {
            if count == 0 || count % run != 0 {
                return Err(Unfit(format!(
                    "{count} {what} do not fill words of {bits}-bit codes: not a multiple of {run}"
                )));
            }
        }
        let is_read = !matches!(self.index, GroupIndex::InOrder);
        if let Some(group) = self.integers.group
            && (group == 0 || (!is_read && columns % group != 0))
        {
            return Err(Unfit(format!("{columns} inputs are not a multiple of the group {group}")));
        }
        let groups = self.groups(matrix);
        let mut parts = vec![
            Part::new("qweight", DataType::I32, &[bits::words(columns, bits), rows])?,
            Part::new("qzeros", DataType::I32, &[groups, bits::words(rows, bits)])?,
            Part::new("scales", self.integers.scale.data_type(), &[groups, rows])?,
        ];
        if !matches!(self.index, GroupIndex::Absent) {
            parts.push(Part::new("g_idx", DataType::I32, &[columns])?);
        }
        Ok(parts)
    }

    fn row_unit(&self, _matrix: Matrix) -> u64 {
        bits::codes_per_run(self.integers.bits)
    }

    fn is_strided(&self) -> bool {
        true
    }

    fn write_constants(&self, matrix: Matrix, _measure: crate::Measure, put: &mut Put<'_>) {
        let group = self.integers.group.unwrap_or(matrix.columns).max(1);
        let index = (0..matrix.columns).map(|column| (column / group) as i32);
        let bytes: Vec<u8> = index.flat_map(i32::to_le_bytes).collect();
        put(GROUP_INDEX, 0, &bytes);
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
        codes.decode(&self.index, self.integers.group_columns(codes.columns), out);
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
        nearest_block_type(&self.integers, matrix, &self.index, || {
            self.read_scales_and_zeros(matrix, parts)
        })
    }

    fn repack(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        let codes = self.read(matrix, parts, rows)?;
        pack_blocks(&self.integers, &codes, out);
        Ok(())
    }
}

impl Gptq {
    /// All scales and zero points, for a look at what they are.
    fn read_scales_and_zeros(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
    ) -> Result<(Vec<f32>, Vec<u8>), FileError> {
        let (bits, groups) = (self.integers.bits, self.groups(matrix) as usize);
        let rows = matrix.rows as usize;
        let mut reader = WeightReader { parts, bytes: Vec::new() };
        let mut scales = vec![0.0; groups * rows];
        reader.numbers(SCALES, 0, self.integers.scale, &mut scales)?;
        let group_words = bits::words(matrix.rows, bits) as usize;
        let mut words = vec![0; groups * group_words];
        reader.words(ZEROS, 0, &mut words)?;
        let mut zeros = vec![0; groups * rows];
        for (words, zeros) in words.chunks_mut(group_words).zip(zeros.chunks_mut(rows)) {
            if self.version == Version::V1 {
                add_one(words, bits);
            }
            bits::unpack(words, bits, zeros);
        }
        Ok((scales, zeros))
    }
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let config = request.config;
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let stated_bits = config.get("bits").and_then(Value::as_u64);
    let format = text("checkpoint_format").or_else(|| text("format")).unwrap_or("gptq");
    let version = match format {
        "gptq" => Version::V1,
        "gptq_v2" => Version::V2,
        other => {
            let detail = format!("the format {other} is not supported; there are: gptq, gptq_v2");
            return Err(request.config_fault("checkpoint_format", detail));
        }
    };
    let mut packed = Vec::new();
    for (module, weight) in request.modules_with("qweight") {
        packed.push(open_module(request, module, weight, stated_bits, version)?);
    }
    Ok(packed)
}

/// Bits and groups are those that the shapes say, since a configuration may have
/// exceptions for modules.
fn open_module(
    request: &OpenRequest<'_>,
    module: &str,
    weight: qz_tensor::TensorIndex,
    stated_bits: Option<u64>,
    version: Version,
) -> Result<PackedTensor, Error> {
    let index = request.tensor(module, "g_idx");
    let scales = request.part(module, "scales")?;
    let [word_rows, rows] = *request.matrix_dimensions(weight)?;
    let [groups, _] = *request.matrix_dimensions(scales)?;
    let columns = match index {
        Some(index) => request.source.tensors()[index.0].shape.elements(),
        None => {
            let bits = stated_bits.ok_or_else(|| request.config_fault("bits", "is missing"))?;
            word_rows * 32 / bits.max(1)
        }
    };
    let bits = word_rows * 32 / columns.max(1);
    // Other numbers of bits are GPTQModel's own planes, not a stream.
    if !matches!(bits, 2 | 3 | 4 | 8) {
        let detail = format!("codes of {bits} bits in {module}; there are 2, 3, 4 and 8");
        return Err(request.config_fault("bits", detail));
    }
    let group = match groups {
        0 | 1 => None,
        groups => Some(columns.div_ceil(groups)),
    };
    let scale = request.scale_type(scales)?;
    let index = match index {
        None => GroupIndex::Absent,
        Some(index) => GroupIndex::read(request, module, index, group, groups)?,
    };
    let layout = Gptq {
        integers: IntegerGroups {
            bits: bits as u32,
            group,
            // Unless scales and zero points say otherwise.
            symmetric: false,
            least_zero: 0,
            scale,
            convention: Convention::Gptq,
        },
        version,
        index,
    };
    request.packed(module, Matrix { rows, columns }, Box::new(layout))
}
