//! GPTQ, formats v1 and v2: words of codes down the inputs, one scale and zero point
//! per group and output. Sources: GPTQModel 7.7 (`nn_modules/qlinear/__init__.py`,
//! `utils/model.py`), vLLM 0.33 (`layers/quantization/auto_gptq.py`).

use std::ops::Range;

use qz_tensor::{DataType, FileError, SideFile, TensorIndex};
use serde_json::{Value, json};

use super::gptq_rules::rules;
use super::integer_layout::{IntegerLayout, put_scales_by_group, read_scales_by_group};
use super::integers::{Convention, GroupedCodes, IntegerGroups};
use super::numbers::ScaleType;
use super::words::{GroupIndex, WeightReader, WholeRuns};
use crate::bits;
use crate::error::{Error, Fault};
use crate::exceptions::{Exception, Patterns};
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, Unfit};
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Mixing, Quantized, Scheme, SchemeFamily};
use crate::schemes::Words;

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "gptq",
    examples: &["w4g128", "w8g128", "w4g128+v2", "w4g128+asym", "w3g128", "w2g64", "w4"],
    form: "bits and group: gptq:w4g128 (2, 3, 4 or 8 bits; without g one group for each row; \
           +v2, +asym)",
    method: "gptq",
    mixing: Mixing::Fused,
    cache_part: None,
    parse,
};

pub(crate) const METHOD: Method = Method {
    name: "gptq",
    aliases: &[],
    looks_like: "`qweight`, `qzeros` and `scales`, packed along the inputs",
    recognise,
    open,
};

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

    fn with_group(&self, group: Option<u64>) -> Option<Box<dyn Scheme>> {
        Some(Box::new(Self { group, ..*self }))
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

    fn entry(&self) -> Value {
        json!({
            "bits": self.bits,
            "group_size": group_size(self.group),
            "sym": self.symmetric,
        })
    }

    fn common(&self) -> Option<(&'static str, &'static str)> {
        let format = if self.version == Version::V2 { "gptq_v2" } else { "gptq" };
        Some(("checkpoint_format", format))
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        let format = self.common().map(|(_, format)| format);
        let rules = rules(quantized);
        let mut config = json!({
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": group_size(self.group),
            "desc_act": false,
            "sym": self.symmetric,
            "lm_head": false,
            "checkpoint_format": format,
            "format": format,
            "pack_dtype": "int32",
            "dynamic": if rules.is_empty() { Value::Null } else { Value::Object(rules) },
            "meta": quantized.provenance.meta(),
        });
        if let (Some(feedback), Value::Object(config)) =
            (quantized.provenance.feedback, &mut config)
        {
            config.insert("damp_percent".to_owned(), json!(feedback.damping));
            config.insert("true_sequential".to_owned(), json!(feedback.sequential));
            config.insert("static_groups".to_owned(), json!(feedback.static_groups));
        }
        let file = SideFile { name: "quantize_config.json".to_owned(), content: pretty(&config) };
        Configuration { entries: vec![("quantization_config", config)], files: vec![file] }
    }
}

/// As configurations say it.
fn group_size(group: Option<u64>) -> Value {
    group.map_or(json!(-1), |group| json!(group))
}

/// JSON as people read it.
fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// What shares a word in a column of them.
fn run(integers: &IntegerGroups) -> u64 {
    bits::codes_per_run(integers.bits)
}

/// Undoes the "one less" of v1 as GPTQModel does: word by word, which also brings back
/// a zero that its writer's subtraction borrowed for; fields of three bits one by one.
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "bits are 2, 3, 4 or 8, and words of zero points fit their matrix"
)]
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

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Gptq {
    /// Zero points as they are stored.
    fn stored_zeros(&self, zeros: &[u8]) -> Vec<u8> {
        let mask = u8::MAX >> (8 - self.integers.bits);
        let stored = |zero: &u8| match self.version {
            Version::V1 => zero.wrapping_sub(1) & mask,
            Version::V2 => *zero,
        };
        zeros.iter().map(stored).collect()
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl IntegerLayout for Gptq {
    fn integers(&self) -> &IntegerGroups {
        &self.integers
    }

    fn index(&self) -> &GroupIndex {
        &self.index
    }

    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let (bits, run) = (self.integers.bits, run(&self.integers));
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
        let groups = self.integers.groups(matrix);
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
        run(&self.integers)
    }

    fn is_strided(&self) -> bool {
        true
    }

    fn write_constants(&self, matrix: Matrix, put: &mut Put<'_>) {
        let group = self.integers.group.unwrap_or(matrix.columns).max(1);
        let index = (0..matrix.columns).map(|column| (column / group) as i32);
        let bytes: Vec<u8> = index.flat_map(i32::to_le_bytes).collect();
        put(GROUP_INDEX, 0, &bytes);
    }

    fn put(&self, matrix: Matrix, first_row: u64, codes: &GroupedCodes, put: &mut Put<'_>) {
        let bits = self.integers.bits;
        let GroupedCodes { rows, columns, groups, .. } = *codes;
        let row_words = bits::words(columns as u64, bits) as usize;
        let words = bits::pack_lines(&codes.codes, columns, bits);
        let mut bytes = Vec::new();
        for (row, words) in bits::transposed(&words, rows, row_words).chunks(rows).enumerate() {
            bits::to_bytes(words, &mut bytes);
            put(WEIGHT, (row as u64 * matrix.rows + first_row) * 4, &bytes);
        }
        let zeros = bits::transposed(&self.stored_zeros(&codes.zeros), rows, groups);
        let mut words = vec![0; bits::words(rows as u64, bits) as usize];
        let group_words = bits::words(matrix.rows, bits);
        let first_word = first_row * u64::from(bits) / 32;
        for (group, zeros) in zeros.chunks(rows).enumerate() {
            bits::pack(zeros, bits, &mut words);
            bits::to_bytes(&words, &mut bytes);
            put(ZEROS, (group as u64 * group_words + first_word) * 4, &bytes);
        }
        put_scales_by_group(SCALES, self.integers.scale, matrix, first_row, codes, put);
    }

    fn read_codes(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let bits = self.integers.bits;
        let count = (rows.end - rows.start) as usize;
        let row_words = bits::words(matrix.columns, bits) as usize;
        let mut reader = WeightReader::new(parts);
        let mut down = vec![0; row_words * count];
        for (row, words) in down.chunks_mut(count).enumerate() {
            reader.words(WEIGHT, (row as u64 * matrix.rows + rows.start) * 4, words)?;
        }
        let words = bits::transposed(&down, row_words, count);
        Ok(bits::unpack_lines(&words, matrix.columns as usize, bits))
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
        let bits = self.integers.bits;
        // Zero points of neighbouring rows share words.
        let whole = WholeRuns::around(&rows, run(&self.integers), matrix);
        let count = (rows.end - rows.start) as usize;
        let groups = self.integers.groups(matrix) as usize;
        let mut words = vec![0; bits::words(whole.len() as u64, bits) as usize];
        let group_words = bits::words(matrix.rows, bits);
        let first_word = whole.rows.start * u64::from(bits) / 32;
        let mut reader = WeightReader::new(parts);
        let (mut zeros, mut of_groups) = (vec![0; whole.len()], vec![0; groups * count]);
        for (group, own) in of_groups.chunks_mut(count).enumerate() {
            reader.words(ZEROS, (group as u64 * group_words + first_word) * 4, &mut words)?;
            if self.version == Version::V1 {
                add_one(&mut words, bits);
            }
            bits::unpack(&words, bits, &mut zeros);
            own.copy_from_slice(whole.wanted(&zeros));
        }
        Ok(bits::transposed(&of_groups, groups, count))
    }
}

fn recognise(request: &OpenRequest<'_>) -> Option<TensorIndex> {
    let weight = request.first_with(&["qweight", "qzeros", "scales"])?;
    let module = request.info(weight).name.strip_suffix(".qweight")?;
    let outputs = |tensor: TensorIndex| request.dimensions(tensor).last().copied();
    let is_along_inputs = outputs(weight) == outputs(request.tensor(module, "scales")?);
    is_along_inputs.then_some(weight)
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let text = |key: &str| request.config.get(key).and_then(Value::as_str);
    let format = text("checkpoint_format").or_else(|| text("format")).unwrap_or("gptq");
    let version = match format {
        "gptq" => Version::V1,
        "gptq_v2" => Version::V2,
        other => {
            let detail = format!("the format {other} is not supported; there are: gptq, gptq_v2");
            return Err(request.config_fault("checkpoint_format", detail));
        }
    };
    open_as(request, version, Exceptions::Patterns)
}

/// How a configuration has exceptions for modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceptions {
    /// `dynamic`.
    Patterns,
    /// `extra_config`.
    Names,
}

/// Opens a checkpoint whose zero points are said to be stored in this way.
pub(super) fn open_as(
    request: &OpenRequest<'_>,
    version: Version,
    exceptions: Exceptions,
) -> Result<Vec<PackedTensor>, Error> {
    let patterns = Patterns::default();
    let mut packed = Vec::new();
    for (module, weight) in request.modules_with("qweight") {
        let stated = Stated::of(request, module, exceptions, &patterns);
        packed.push(open_module(request, module, weight, &stated)?);
    }
    let versions = packed.iter().map(|(gptq, tensor)| gptq.shown_version(request, tensor));
    let versions = versions.collect::<Result<Vec<Option<Version>>, Error>>()?;
    let other = Some(if version == Version::V1 { Version::V2 } else { Version::V1 });
    // Zero points of an asymmetric matrix may happen to be alike; of all matrices they
    // are not.
    let is_symmetric = request.config.get("sym").and_then(Value::as_bool) != Some(false);
    let believed = is_symmetric || versions.iter().all(|shown| *shown == other);
    let tensor = |((mut gptq, mut tensor), shown): ((Gptq, PackedTensor), Option<Version>)| {
        gptq.version = version;
        if believed && shown == other {
            tensor.remark = Some(gptq.read_as_the_other());
        }
        PackedTensor { layout: Box::new(gptq), ..tensor }
    };
    Ok(packed.into_iter().zip(versions).map(tensor).collect())
}

/// What a configuration allows a module.
struct Stated {
    bits: Vec<i64>,
    groups: Vec<i64>,
}

impl Stated {
    /// Where it cannot be known which exception is about the module, what any says.
    fn of(
        request: &OpenRequest<'_>,
        module: &str,
        exceptions: Exceptions,
        patterns: &Patterns,
    ) -> Self {
        let (exception, key) = match exceptions {
            Exceptions::Patterns => {
                (Exception::of_patterns(request.config, module, patterns), "dynamic")
            }
            Exceptions::Names => (Exception::of_names(request.config, module), "extra_config"),
        };
        let stated = |name: &str| match exception {
            Exception::Unknown => request.stated(&[name], key),
            known => known.number(request.config, name).into_iter().collect(),
        };
        Self { bits: stated("bits"), groups: stated("group_size") }
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "bits are 2, 3, 4 or 8, and the words' number is that of a tensor of the file"
)]
impl Gptq {
    /// How zero points are stored, if all of the matrix are those of symmetric codes.
    fn shown_version(
        &self,
        request: &OpenRequest<'_>,
        tensor: &PackedTensor,
    ) -> Result<Option<Version>, Error> {
        /// Words that are looked at together: whole runs of codes, whatever the bits.
        const WORDS: u64 = 24 << 10;
        let (bits, zeros) = (self.integers.bits, tensor.parts[ZEROS.0]);
        let count = request.info(zeros).bytes / 4;
        let middle = 1u8 << (bits - 1);
        let mut shown = None;
        let (mut bytes, mut words, mut fields) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..count).step_by(WORDS as usize) {
            let taken = WORDS.min(count - first) as usize;
            bytes.resize(taken * 4, 0);
            request.source.read(zeros, first * 4, &mut bytes)?;
            words.resize(taken, 0);
            bits::from_bytes(&bytes, &mut words);
            fields.resize(taken * 32 / bits as usize, 0);
            bits::unpack(&words, bits, &mut fields);
            for field in &fields {
                let version = match *field {
                    zero if zero == middle => Version::V2,
                    zero if zero == middle - 1 => Version::V1,
                    _ => return Ok(None),
                };
                if *shown.get_or_insert(version) != version {
                    return Ok(None);
                }
            }
        }
        Ok(shown)
    }

    /// Takes the zero points for those of the other version; says so.
    fn read_as_the_other(&mut self) -> String {
        let middle = 1u32 << (self.integers.bits - 1);
        let (stored, own, other) = match self.version {
            Version::V1 => (middle, "gptq", "gptq_v2"),
            Version::V2 => (middle - 1, "gptq_v2", "gptq"),
        };
        self.version = if self.version == Version::V1 { Version::V2 } else { Version::V1 };
        format!(
            "every zero point is stored as {stored}, as symmetric codes of the format {other} \
             have it, and the configuration says {own}: read as {other}"
        )
    }
}

/// Bits and groups are those that the shapes say, since a configuration may have
/// exceptions for modules; others than those it states are an error. The version is
/// still to be found.
fn open_module(
    request: &OpenRequest<'_>,
    module: &str,
    weight: TensorIndex,
    stated: &Stated,
) -> Result<(Gptq, PackedTensor), Error> {
    let index = request.tensor(module, "g_idx");
    let scales = request.part(module, "scales")?;
    let [word_rows, rows] = *request.matrix_dimensions(weight)?;
    let [groups, _] = *request.matrix_dimensions(scales)?;
    let columns = match index {
        Some(index) => match request.info(index).shape.elements() {
            0 => {
                let (found, expected) = ("empty".to_owned(), "one group for each input".to_owned());
                return Err(request.tensor_fault(index, Fault::Part { found, expected }));
            }
            columns => columns,
        },
        None => {
            let stated = bits_without_index(request, module, [groups, rows], stated)?;
            word_rows.saturating_mul(32).checked_div(stated).unwrap_or(0)
        }
    };
    let bits = word_rows.saturating_mul(32).checked_div(columns).unwrap_or(0);
    // Other numbers of bits are GPTQModel's own planes, not a stream.
    if !matches!(bits, 2 | 3 | 4 | 8) {
        let detail = format!("codes of {bits} bits in {module}; there are 2, 3, 4 and 8");
        return Err(request.config_fault("bits", detail));
    }
    let found = || format!("codes of {bits} bits");
    request.check_stated("bits", &stated.bits, |known| known == bits as i64, weight, found)?;
    check_groups(request, &["group_size"], &stated.groups, columns, groups, scales)?;
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
        version: Version::V1,
        index,
    };
    let tensor = request.packed(module, Matrix { rows, columns }, Box::new(layout.clone()))?;
    Ok((layout, tensor))
}

/// Without `g_idx` nothing but the configuration says how many inputs there are; zero
/// points, which lie along the outputs, say which of its numbers of bits is meant.
fn bits_without_index(
    request: &OpenRequest<'_>,
    module: &str,
    [groups, rows]: [u64; 2],
    stated: &Stated,
) -> Result<u64, Error> {
    let missing = || request.config_fault("bits", "is missing");
    let first = *stated.bits.first().ok_or_else(missing)?;
    let zeros = request.part(module, "qzeros")?;
    let [lines, words] = *request.matrix_dimensions(zeros)?;
    let holds = |known: u64| known > 0 && words.saturating_mul(32) == rows.saturating_mul(known);
    let fits = |known: i64| u64::try_from(known).is_ok_and(holds);
    // Numbers of bits that there are not, and shapes that none makes, have messages of
    // their own.
    let is_known = matches!(first, 2 | 3 | 4 | 8);
    if is_known && lines == groups && [2, 3, 4, 8].into_iter().any(holds) {
        let found = || format!("{words} words for {rows} outputs");
        request.check_stated("bits", &stated.bits, fits, zeros, found)?;
    }
    let known = stated.bits.iter().copied().find(|known| fits(*known)).unwrap_or(first);
    Ok(u64::try_from(known).unwrap_or(1).max(1))
}

/// Fails if the groups that scales have are none that the configuration states; -1 is
/// one for all inputs.
pub(super) fn check_groups(
    request: &OpenRequest<'_>,
    keys: &[&str],
    stated: &[i64],
    columns: u64,
    groups: u64,
    scales: TensorIndex,
) -> Result<(), Error> {
    let key = keys.iter().find(|key| request.config.contains_key(**key)).unwrap_or(&"group_size");
    let fits = |known: i64| match u64::try_from(known) {
        Ok(known) => groups == columns.div_ceil(known.max(1)),
        Err(_) => groups <= 1,
    };
    let found = || {
        let of = columns.div_ceil(groups.max(1));
        format!("{groups} groups for {columns} inputs: one for {of} inputs")
    };
    request.check_stated(key, stated, fits, scales, found)
}
