//! AQLM, read: weights are sums of codewords, one from each codebook, times a scale of the
//! output. Sources: aqlm 1.1.7 (`inference.py`, `utils.py`, `_dequantize_weight`).

use std::ops::Range;

use qz_tensor::{DataType, FileError};

use super::numbers::ScaleType;
use super::words::WeightReader;
use crate::error::{Error, Fault};
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, RowBlock, Unfit};
use crate::method::{Method, OpenRequest, PackedTensor};

pub(crate) const METHOD: Method = Method {
    name: "aqlm",
    aliases: &[],
    looks_like: "`codes`, `codebooks` and `scales`",
    recognise: |request| request.first_with(&["codes", "codebooks", "scales"]),
    open,
};

const CODES: PartIndex = PartIndex(0);
const BOOKS: PartIndex = PartIndex(1);
const SCALES: PartIndex = PartIndex(2);

/// The layout.
#[derive(Clone, Copy, Debug)]
struct Aqlm {
    /// Signed bytes or words; codes are their lowest bits.
    code: DataType,
    books: u64,
    /// Codewords of a book, a power of two.
    words: u64,
    /// Outputs and inputs of a codeword.
    high: u64,
    wide: u64,
    scale: ScaleType,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Aqlm {
    /// The codes of rows of codewords.
    fn codes(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        groups: Range<u64>,
    ) -> Result<Vec<usize>, FileError> {
        let in_row = matrix.columns / self.wide * self.books;
        let size = self.code.block_bytes() as u64;
        let mut bytes = vec![0; ((groups.end - groups.start) * in_row * size) as usize];
        parts.read(CODES, groups.start * in_row * size, &mut bytes)?;
        let mask = self.words as usize - 1;
        Ok(match size {
            1 => bytes.iter().map(|byte| usize::from(*byte) & mask).collect(),
            _ => {
                let codes = bytes.as_chunks().0.iter();
                codes.map(|bytes| usize::from(u16::from_le_bytes(*bytes)) & mask).collect()
            }
        })
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Layout for Aqlm {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let (down, across) = (matrix.rows / self.high, matrix.columns / self.wide);
        let scale = self.scale.data_type();
        Ok(vec![
            Part::new("codes", self.code, &[down, across, self.books])?,
            Part::new("codebooks", scale, &[self.books, self.words, self.high, self.wide])?,
            Part::new("scales", scale, &[down, 1, 1, 1])?,
        ])
    }

    fn encode(&self, _rows: &RowBlock<'_>, _put: &mut Put<'_>) -> Result<(), usize> {
        unreachable!("AQLM is only read")
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let groups = rows.start / self.high..rows.end.div_ceil(self.high);
        let codes = self.codes(matrix, parts, groups.clone())?;
        let mut reader = WeightReader::new(parts);
        let (high, wide) = (self.high as usize, self.wide as usize);
        let word = high * wide;
        let mut books = vec![0.0; (self.books * self.words) as usize * word];
        reader.numbers(BOOKS, 0, self.scale, &mut books)?;
        let mut scales = vec![0.0; (groups.end - groups.start) as usize];
        let at = groups.start * self.scale.bytes() as u64;
        reader.numbers(SCALES, at, self.scale, &mut scales)?;
        let columns = matrix.columns as usize;
        let in_row = columns / wide * self.books as usize;
        for (row, out) in rows.zip(out.chunks_mut(columns.max(1))) {
            let group = (row / self.high - groups.start) as usize;
            let line = (row % self.high) as usize * wide;
            let codes = codes[group * in_row..][..in_row].chunks(self.books as usize);
            for (codes, out) in codes.zip(out.chunks_mut(wide)) {
                out.fill(0.0);
                for (book, code) in codes.iter().enumerate() {
                    let first = (book * self.words as usize + code) * word + line;
                    for (out, number) in out.iter_mut().zip(&books[first..first + wide]) {
                        *out += number;
                    }
                }
                out.iter_mut().for_each(|weight| *weight *= scales[group]);
            }
        }
        Ok(())
    }
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let modules = request.modules_with("codes").into_iter();
    modules.map(|(module, codes)| open_module(request, module, codes)).collect()
}

fn open_module(
    request: &OpenRequest<'_>,
    module: &str,
    codes: qz_tensor::TensorIndex,
) -> Result<PackedTensor, Error> {
    let books = request.part(module, "codebooks")?;
    let wrong = |tensor: qz_tensor::TensorIndex, expected: &str| {
        let info = request.info(tensor);
        let found = format!("{} {}", info.data_type, info.shape);
        request.tensor_fault(tensor, Fault::Part { found, expected: expected.to_owned() })
    };
    let code = request.data_type(codes);
    let &[down, across, _] = request.dimensions(codes) else {
        return Err(wrong(codes, "I8 or I16 [outputs, inputs, codebooks]"));
    };
    let &[count, words, high, wide] = request.dimensions(books) else {
        return Err(wrong(books, "[codebooks, codewords, outputs, inputs]"));
    };
    let most = match code {
        code if code == DataType::I8 => 1 << 8,
        code if code == DataType::I16 => 1 << 16,
        _ => return Err(wrong(codes, "I8 or I16 [outputs, inputs, codebooks]")),
    };
    let is_sound = words.is_power_of_two() && words <= most && count > 0 && high > 0 && wide > 0;
    if !is_sound {
        return Err(wrong(books, &format!("a power of two up to {most} of codewords")));
    }
    let scale = request.scale_type(books)?;
    let layout = Aqlm { code, books: count, words, high, wide, scale };
    let matrix = Matrix { rows: down.saturating_mul(high), columns: across.saturating_mul(wide) };
    request.packed(module, matrix, Box::new(layout))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::golden::{assert_golden, bytes_of, weights};
    use crate::testing::{Checkpoint, Tensor, refusal_after, seen};

    fn half(numbers: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        ScaleType::F16.write(numbers, &mut bytes);
        bytes
    }

    fn codes(count: usize, bits: u32) -> Vec<u64> {
        let mut state = 20u64;
        let mut draw = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        };
        (0..count).map(|_| draw() % (1 << bits)).collect()
    }

    fn checkpoint(bits: u32, books: u64, high: u64) -> Vec<Tensor<'static>> {
        let leak = |dimensions: Vec<u64>| -> &'static [u64] { Box::leak(dimensions.into()) };
        let codes = codes(6 * 4 * books as usize, bits);
        let (code, codes): (_, Vec<u8>) = match bits {
            8 => (DataType::I8, codes.iter().map(|code| *code as u8).collect()),
            _ => (
                DataType::I16,
                codes.iter().flat_map(|code| (*code as u16).to_le_bytes()).collect(),
            ),
        };
        let words = 1u64 << bits;
        let book = weights(21, (books * words) as usize, (high * 8) as usize, ScaleType::F32);
        let scales = weights(22, 6, 1, ScaleType::F32);
        vec![
            ("a.codes", code, leak(vec![6, 4, books]), codes),
            ("a.codebooks", DataType::F16, leak(vec![books, words, high, 8]), half(&book)),
            ("a.scales", DataType::F16, &[6, 1, 1, 1], half(&scales)),
        ]
    }

    #[test]
    fn sums_as_aqlm_makes_them() {
        let check = |case: &str, bits, books, high: u64| {
            let source = Checkpoint::new(checkpoint(bits, books, high));
            let seen = seen(&source.open(json!({"quant_method": "aqlm"})).expect("opens"));
            assert_eq!(seen["a.weight"].1, [6 * high, 32]);
            assert_golden(case, "decoded", &bytes_of(&seen["a.weight"].2));
        };
        check("aqlm-2x8", 8, 2, 1);
        check("aqlm-1x12", 12, 1, 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: fn(&mut Vec<Tensor<'static>>), expected: &str| {
            let config = json!({"quant_method": "aqlm"});
            assert_eq!(refusal_after(|all, _| change(all), checkpoint(8, 2, 1), config), expected);
        };
        check(|all| drop(all.remove(1)), "config.json: a: has no tensor `codebooks`");
        check(|all| drop(all.remove(2)), "config.json: a: has no tensor `scales`");
        check(
            |all| (all[2].2, all[2].3) = (&[5, 1, 1, 1], vec![0; 10]),
            "model.safetensors: a.scales: at byte 0: is F16 [5, 1, 1, 1], expected F16 [6, 1, 1, 1]",
        );
        check(
            |all| all[1].2 = &[1, 512, 1, 8],
            "model.safetensors: a.codebooks: at byte 0: is F16 [1, 512, 1, 8], expected a power of \
             two up to 256 of codewords",
        );
        check(
            |all| all[0].1 = DataType::U8,
            "model.safetensors: a.codes: at byte 0: is U8 [6, 4, 2], expected I8 or I16 [outputs, \
             inputs, codebooks]",
        );
    }
}
