//! What the reference library wrote (`encodings.txt`), as records. Included by path
//! where it is needed.

use qz_tensor::DataType;

use super::inputs;

/// The bytes of a case on which the reference ended the process. Ours have to be
/// known for useless.
pub(crate) const ABORTS: &str = "aborts";

/// A line of the golden file.
pub(crate) struct Golden<'a> {
    pub(crate) data_type: DataType,
    pub(crate) weights: Vec<f32>,
    pub(crate) importance: Option<Vec<f32>>,
    pub(crate) columns: usize,
    /// In hexadecimal digits, or [`ABORTS`].
    pub(crate) bytes: &'a str,
    /// Of the values that decoding gives.
    pub(crate) digest: &'a str,
}

impl Golden<'_> {
    /// The encoder's bytes.
    pub(crate) fn stored(&self) -> Vec<u8> {
        let digits = self.bytes.as_bytes().as_chunks::<2>().0.iter();
        digits
            .map(|pair| {
                let pair = std::str::from_utf8(pair).expect("digits");
                u8::from_str_radix(pair, 16).expect("digits")
            })
            .collect()
    }
}

fn parse(line: &str) -> Golden<'_> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [name, kind, importance, seed, rows, columns, bytes, digest] = fields[..] else {
        panic!("eight fields: {line}")
    };
    let seed: u64 = seed.parse().expect("a seed");
    let rows: usize = rows.parse().expect("a count");
    let columns: usize = columns.parse().expect("a count");
    let weights = inputs::find(inputs::WEIGHTS, kind).expect("a kind of weights");
    Golden {
        data_type: DataType::from_name(name).expect("an element type"),
        weights: inputs::values(weights, seed, rows * columns),
        importance: inputs::find(inputs::IMPORTANCE, importance)
            .map(|kind| inputs::values(kind, seed + 1, columns)),
        columns,
        bytes,
        digest,
    }
}

/// All of them, with what to call each.
pub(crate) fn goldens() -> impl Iterator<Item = (&'static str, Golden<'static>)> {
    let lines = include_str!("encodings.txt").lines();
    let label = |line: &'static str| line.split_at(line.len().min(60)).0;
    lines.filter(|line| !line.starts_with('#')).map(move |line| (label(line), parse(line)))
}

/// 64-bit FNV-1a over the values' little-endian bytes.
pub(crate) fn digest(values: &[f32]) -> String {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
