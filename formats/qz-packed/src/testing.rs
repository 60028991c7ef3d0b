//! A matrix's parts, and a whole checkpoint, in memory, for tests.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use qz_tensor::{
    DataType, FileError, MemorySource, MemoryTensor, TensorIndex, TensorInfo, TensorSource,
};
use serde_json::Value;

use crate::error::Error;
use crate::layout::{
    Layout, Matrix, Measure, Part, PartBytes, PartIndex, Prepass, Rounding, RowBlock,
};
use crate::source::PackedSource;

/// A matrix as a layout wrote it.
pub(crate) struct Stored {
    pub(crate) matrix: Matrix,
    pub(crate) parts: Vec<Vec<u8>>,
}

/// Writes weights in tiles of about so many rows. Every byte of every part has to be written
/// exactly once.
pub(crate) fn stored(
    layout: &dyn Layout,
    rows: usize,
    columns: usize,
    weights: &[f32],
    tile: usize,
) -> Stored {
    let matrix = Matrix { rows: rows as u64, columns: columns as u64 };
    let mut stored = Stored::empty(layout, matrix);
    let mut written: Vec<Vec<bool>> =
        stored.parts.iter().map(|part| vec![false; part.len()]).collect();
    let mut put = |part: PartIndex, offset: u64, bytes: &[u8]| {
        let range = offset as usize..offset as usize + bytes.len();
        assert!(!written[part.0][range.clone()].contains(&true), "{part:?} {range:?} again");
        written[part.0][range].fill(true);
        stored.put(part, offset, bytes);
    };
    let unit = layout.row_unit(matrix) as usize;
    let tile = tile.div_ceil(unit).max(1) * unit;
    let tiles = || weights.chunks(tile * columns);
    let measure = match layout.prepass() {
        Prepass::None => Measure::default(),
        _ => tiles()
            .map(|weights| layout.measure(matrix, weights))
            .fold(Measure::default(), Measure::merged),
    };
    layout.write_constants(matrix, measure, &mut put);
    for (position, weights) in tiles().enumerate() {
        let first_row = (position * tile) as u64;
        let rounding = Rounding::Nearest;
        let rows = RowBlock { matrix, first_row, weights, importance: None, rounding, measure };
        layout.encode(&rows, &mut put).expect("scales fit");
    }
    for (part, written) in written.iter().enumerate() {
        assert!(!written.contains(&false), "a hole in part {part}");
    }
    stored
}

impl Stored {
    /// Parts of zeros.
    pub(crate) fn empty(layout: &dyn Layout, matrix: Matrix) -> Self {
        let described = layout.parts(matrix).expect("the layout fits");
        let size = |part: &Part| part.shape.byte_size(part.data_type).expect("a size") as usize;
        Self { matrix, parts: described.iter().map(|part| vec![0; size(part)]).collect() }
    }

    pub(crate) fn put(&mut self, part: PartIndex, offset: u64, bytes: &[u8]) {
        self.parts[part.0][offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// All its weights, read in runs of rows that fit no block.
    pub(crate) fn decoded(&self, layout: &dyn Layout) -> Vec<f32> {
        let mut all = Vec::new();
        let mut row = 0;
        while row < self.matrix.rows {
            let rows = row..(row + 7).min(self.matrix.rows);
            all.extend(self.decoded_rows(layout, rows.clone()));
            row = rows.end;
        }
        all
    }

    /// Some rows' weights.
    pub(crate) fn decoded_rows(&self, layout: &dyn Layout, rows: Range<u64>) -> Vec<f32> {
        let mut out = vec![0.0; ((rows.end - rows.start) * self.matrix.columns) as usize];
        layout.decode(self.matrix, self, rows, &mut out).expect("memory can be read");
        out
    }
}

impl PartBytes for Stored {
    fn read(&self, part: PartIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        out.copy_from_slice(&self.parts[part.0][offset as usize..][..out.len()]);
        Ok(())
    }
}

/// A checkpoint's tensors.
pub(crate) struct Checkpoint(MemorySource);

/// A tensor of a checkpoint: name, type, dimensions, bytes.
pub(crate) type Tensor<'a> = MemoryTensor<'a>;

impl Checkpoint {
    pub(crate) fn new(tensors: Vec<Tensor<'_>>) -> Self {
        Self(MemorySource::new(tensors).expect("sizes"))
    }

    /// Opens it as its configuration says.
    pub(crate) fn open(self, config: Value) -> Result<PackedSource, Error> {
        let Value::Object(config) = config else { panic!("a configuration is an object") };
        PackedSource::open(Box::new(self.0), &config, Path::new("config.json"))
    }

    /// The message of its refusal.
    pub(crate) fn refusal(self, config: Value) -> String {
        self.open(config).err().expect("it is refused").to_string()
    }
}

/// What makes a sound checkpoint and its configuration wrong.
pub(crate) type Change = fn(&mut Vec<Tensor<'static>>, &mut Value);

/// The message of the refusal after a change.
pub(crate) fn refusal_after(
    change: impl FnOnce(&mut Vec<Tensor<'static>>, &mut Value),
    mut tensors: Vec<Tensor<'static>>,
    mut config: Value,
) -> String {
    change(&mut tensors, &mut config);
    Checkpoint::new(tensors).refusal(config)
}

/// The seen tensors by name: type, dimensions, and weights where they are plain.
pub(crate) fn seen(source: &PackedSource) -> HashMap<String, (DataType, Vec<u64>, Vec<f32>)> {
    let tensors = source.tensors().iter().enumerate();
    let read = |(position, info): (usize, &TensorInfo)| {
        let mut bytes = vec![0; info.bytes as usize];
        source.read(TensorIndex(position), 0, &mut bytes).expect("memory can be read");
        let weights = match qz_codec::codec_for(info.data_type) {
            Some(codec) => {
                let mut weights = vec![0.0; info.shape.elements() as usize];
                codec.decode(&bytes, &mut weights);
                weights
            }
            None => Vec::new(),
        };
        let dimensions = info.shape.dimensions().to_vec();
        (info.name.to_string(), (info.data_type, dimensions, weights))
    };
    tensors.map(read).collect()
}
