//! `pack-quantized`: integers of 2 to 8 bits along the inputs
//! (`compressors/pack_quantized`).

use std::ops::Range;

use qz_tensor::{DataType, FileError};
use serde_json::Value;

use qz_codec::activations::Activations;

use super::integer::IntegerScheme;
use super::{Format, activations, configuration, entry, scale_type, stated_by_all};
use crate::bits;
use crate::error::{Error, Fault};
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, Unfit};
use crate::layouts::integer_layout::{IntegerLayout, read_codes_by_row, read_scales_by_row};
use crate::layouts::integers::{GroupedCodes, IntegerGroups};
use crate::layouts::words::{GroupIndex, WeightReader, WholeRuns};
use crate::method::{OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme};
use crate::schemes::Words;

pub(super) const FORMAT: Format = Format { parse, open };

const NAME: &str = "pack-quantized";

const WEIGHT: PartIndex = PartIndex(0);
const SCALES: PartIndex = PartIndex(1);
const SHAPE: PartIndex = PartIndex(2);
/// Only where zero points are stored.
const ZEROS: PartIndex = PartIndex(3);

/// The layout.
#[derive(Clone, Debug)]
struct PackQuantized {
    integers: IntegerGroups,
    /// Which group each column is of; only read, from old checkpoints.
    index: GroupIndex,
}

#[derive(Clone, Copy, Debug)]
struct PackScheme(IntegerScheme);

fn parse(words: &Words) -> Option<Box<dyn Scheme>> {
    let scheme = IntegerScheme::parse(words)?;
    scheme.packed.then(|| Box::new(PackScheme(scheme)) as Box<dyn Scheme>)
}

impl Scheme for PackScheme {
    fn name(&self) -> String {
        self.0.name()
    }

    fn with_group(&self, group: Option<u64>) -> Option<Box<dyn Scheme>> {
        Some(Box::new(Self(self.0.with_group(group)?)))
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let integers = self.0.integers(scale_type(model_type));
        Box::new(PackQuantized { integers, index: GroupIndex::Absent })
    }

    fn activations(&self) -> Activations {
        self.0.activations
    }

    fn entry(&self) -> Value {
        let inputs = activations::arguments(self.0.activations);
        entry(NAME, &self.0.weights(), &inputs)
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        configuration(&self.entry(), quantized)
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl IntegerLayout for PackQuantized {
    fn integers(&self) -> &IntegerGroups {
        &self.integers
    }

    fn index(&self) -> &GroupIndex {
        &self.index
    }

    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let Matrix { rows, columns } = matrix;
        let bits = self.integers.bits;
        self.integers.check_groups(matrix)?;
        let groups = self.integers.groups(matrix);
        let scale = self.integers.scale.data_type();
        let mut parts = vec![
            Part::new("weight_packed", DataType::I32, &[rows, bits::words(columns, bits)])?,
            Part::new("weight_scale", scale, &[rows, groups])?,
            Part::new("weight_shape", DataType::I64, &[2])?,
        ];
        if !self.integers.symmetric {
            let words = bits::words(rows, bits);
            parts.push(Part::new("weight_zero_point", DataType::I32, &[words, groups])?);
        }
        Ok(parts)
    }

    fn row_unit(&self, _matrix: Matrix) -> u64 {
        if self.integers.symmetric { 1 } else { bits::codes_per_run(self.integers.bits) }
    }

    fn write_constants(&self, matrix: Matrix, put: &mut Put<'_>) {
        put(SHAPE, 0, &[matrix.rows.to_le_bytes(), matrix.columns.to_le_bytes()].concat());
    }

    fn put(&self, _matrix: Matrix, first_row: u64, codes: &GroupedCodes, put: &mut Put<'_>) {
        let bits = self.integers.bits;
        let GroupedCodes { rows, columns, groups, .. } = *codes;
        let mut bytes = Vec::new();
        bits::to_bytes(&bits::pack_lines(&codes.codes, columns, bits), &mut bytes);
        put(WEIGHT, first_row * bits::words(columns as u64, bits) * 4, &bytes);
        bytes.clear();
        self.integers.scale.write(&codes.scales, &mut bytes);
        let row_bytes = (groups * self.integers.scale.bytes()) as u64;
        put(SCALES, first_row * row_bytes, &bytes);
        if self.integers.symmetric {
            return;
        }
        // Packed down the outputs: a word holds neighbours of one group.
        let down = bits::transposed(&codes.zeros, rows, groups);
        let words = bits::pack_lines(&down, rows, bits);
        bits::to_bytes(&bits::transposed(&words, groups, words.len() / groups), &mut bytes);
        put(ZEROS, first_row * u64::from(bits) / 32 * groups as u64 * 4, &bytes);
    }

    fn read_codes(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        read_codes_by_row(WEIGHT, self.integers.bits, matrix.columns, parts, rows)
    }

    fn read_scales(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<f32>, FileError> {
        let groups = self.integers.groups(matrix);
        read_scales_by_row(SCALES, self.integers.scale, groups, parts, rows)
    }

    fn read_zeros(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let (bits, groups) = (self.integers.bits, self.integers.groups(matrix) as usize);
        let count = (rows.end - rows.start) as usize;
        if self.integers.symmetric {
            return Ok(vec![1 << (bits - 1); count * groups]);
        }
        let whole = WholeRuns::around(&rows, bits::codes_per_run(bits), matrix);
        let lines = bits::words(whole.len() as u64, bits) as usize;
        let mut across = vec![0; lines * groups];
        let first_word = whole.rows.start * u64::from(bits) / 32;
        let mut reader = WeightReader::new(parts);
        reader.words(ZEROS, first_word * groups as u64 * 4, &mut across)?;
        let words = bits::transposed(&across, lines, groups);
        let all = bits::unpack_lines(&words, whole.len(), bits);
        let down: Vec<u8> =
            all.chunks(whole.len()).flat_map(|zeros| whole.wanted(zeros)).copied().collect();
        Ok(bits::transposed(&down, groups, count))
    }
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let mut packed = Vec::new();
    for (module, weight) in request.modules_with("weight_packed") {
        // Floats of four bits have the same name, and are bytes.
        if request.data_type(weight) == DataType::I32 {
            packed.push(open_module(request, module, weight)?);
        }
    }
    Ok(packed)
}

fn open_module(
    request: &OpenRequest<'_>,
    module: &str,
    weight: qz_tensor::TensorIndex,
) -> Result<PackedTensor, Error> {
    let (scales, shape) =
        (request.part(module, "weight_scale")?, request.part(module, "weight_shape")?);
    let bytes = request.bytes(shape)?;
    let &[rows, columns] = bytes.as_chunks::<8>().0 else {
        let found = format!("{} bytes", bytes.len());
        let fault = Fault::Part { found, expected: "two 64-bit integers".to_owned() };
        return Err(request.tensor_fault(shape, fault));
    };
    let matrix = Matrix { rows: u64::from_le_bytes(rows), columns: u64::from_le_bytes(columns) };
    let [_, words] = *request.matrix_dimensions(weight)?;
    let [_, groups] = *request.matrix_dimensions(scales)?;
    let fitting = |bits: &u32| bits::words(matrix.columns, *bits) == words;
    // Rows of few columns may fit several numbers of bits.
    let bits = stated_by_all(request, |weights| weights.get("num_bits")?.as_i64());
    let fits = |bits: i64| u32::try_from(bits).is_ok_and(|bits| fitting(&bits));
    let bits = bits.into_iter().find(|bits| fits(*bits)).map(|bits| bits as u32);
    let bits = bits.or_else(|| (2..=8).find(fitting)).ok_or_else(|| {
        let found = format!("{words} words in a row");
        let expected = format!("those of {} codes of 2 to 8 bits", matrix.columns);
        request.tensor_fault(weight, Fault::Part { found, expected })
    })?;
    if !(2..=8).contains(&bits) {
        return Err(request.config_fault("config_groups", format!("codes of {bits} bits")));
    }
    let group = matrix.columns.checked_div(groups).filter(|_| groups > 1);
    let index = match request.tensor(module, "weight_g_idx") {
        None => GroupIndex::Absent,
        Some(index) => match GroupIndex::read(request, module, index, group, groups)? {
            GroupIndex::InOrder => GroupIndex::Absent,
            index => index,
        },
    };
    let symmetric = request.tensor(module, "weight_zero_point").is_none();
    let scale = request.scale_type(scales)?;
    let activations = Activations::Full;
    let scheme = IntegerScheme { bits, activations, group, symmetric, packed: true };
    let layout = PackQuantized { integers: scheme.integers(scale), index };
    let mut packed = request.packed(module, matrix, Box::new(layout))?;
    packed.unused = request
        .tensors(module, &["weight_g_idx", "input_scale", "input_zero_point", "output_scale"]);
    Ok(packed)
}
