//! How an output stores a matrix: what a method may choose among, and what becomes of its
//! choice. Rows of an element type are stored in one way, the parts of a packed layout
//! (`packed.rs`) in another; who quantizes a matrix sees no difference.

use std::borrow::Cow;
use std::ops::Range;

use qz_codec::grid::{Grid, RowBatch};
use qz_methods::Target;
use qz_packed::Hadamard;
use qz_tensor::DataType;

use crate::error::Error;
use crate::format::TargetPlan;
use crate::loss::Suspicion;
use crate::sinks::Sinks;
use crate::stream::Content;

/// Rows of a matrix as GGUF orders them, in a type that the forward pass can compute with.
pub(super) struct Numbers {
    pub(super) data_type: DataType,
    pub(super) bytes: Vec<u8>,
}

/// A matrix's place in an output.
pub(super) trait Storage: Send + Sync {
    /// What inputs are multiplied by, which weights in the order in which they are written have
    /// been, too.
    fn rotation(&self) -> Option<Hadamard> {
        None
    }

    /// Weights in the order in which they are written, and as they are.
    fn in_order<'w>(&self, weights: &'w [f32]) -> Cow<'w, [f32]>;

    /// The values that weights, which are in the order in which they are written, may take;
    /// none if no method can choose among them. `grid` keeps one that is made for these weights.
    fn target<'g>(
        &self,
        ordered: &[f32],
        grid: &'g mut Option<Box<dyn Grid>>,
    ) -> Option<Target<'g>>;

    /// Looks at other weights in the order in which they are written, where the values that
    /// they may take depend on all of them.
    fn remeasure(&mut self, _ordered: &[f32]) {}

    /// Takes what a method chose.
    fn writer(&self) -> Box<dyn Writer + '_>;

    /// What could not be held, of weights of which this is the largest.
    fn suspicion(&self, largest: f32) -> Suspicion;

    /// What an earlier run wrote; none if that cannot be read.
    ///
    /// # Errors
    /// If the disk refuses.
    fn read_back(&self, plans: &[TargetPlan], sinks: &Sinks) -> Result<Option<Numbers>, Error>;
}

/// Takes the rows of a matrix in the order in which they are written.
pub(super) trait Writer: Send {
    /// Takes the next rows.
    fn take(&mut self, rows: Range<usize>, batch: &RowBatch);

    /// What is written, and the same values for the forward pass.
    fn finish(self: Box<Self>) -> (Content, Numbers);
}

/// Rows of an element type.
#[derive(Clone, Copy)]
pub(super) struct TypedRows {
    pub(super) data_type: DataType,
    /// The model's tensor that they are of, and the first of them in it.
    pub(super) position: usize,
    pub(super) first_row: u64,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_bytes: usize,
}

impl Storage for TypedRows {
    fn in_order<'w>(&self, weights: &'w [f32]) -> Cow<'w, [f32]> {
        Cow::Borrowed(weights)
    }

    fn target<'g>(&self, _: &[f32], _: &'g mut Option<Box<dyn Grid>>) -> Option<Target<'g>> {
        Target::of_type(self.data_type)
    }

    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(TypedWriter { rows: *self, bytes: vec![0; self.rows * self.row_bytes] })
    }

    fn suspicion(&self, _: f32) -> Suspicion {
        Suspicion::of_type(self.data_type, self.columns)
    }

    fn read_back(&self, plans: &[TargetPlan], sinks: &Sinks) -> Result<Option<Numbers>, Error> {
        let Self { data_type, position, first_row, rows, row_bytes, .. } = *self;
        let mut bytes = vec![0; rows * row_bytes];
        let is_there = sinks.read_back(plans, 0, position, first_row, row_bytes, &mut bytes)?;
        Ok(is_there.then_some(Numbers { data_type, bytes }))
    }
}

/// Rows of an element type on their way out.
struct TypedWriter {
    rows: TypedRows,
    bytes: Vec<u8>,
}

impl Writer for TypedWriter {
    fn take(&mut self, rows: Range<usize>, batch: &RowBatch) {
        let TypedRows { data_type, row_bytes, .. } = self.rows;
        let target = Target::of_type(data_type).expect("rows were chosen among its values");
        let own = &mut self.bytes[rows.start * row_bytes..rows.end * row_bytes];
        for (row, bytes) in own.chunks_mut(row_bytes).enumerate() {
            batch.pack(target.grid(), row, bytes);
        }
    }

    fn finish(self: Box<Self>) -> (Content, Numbers) {
        let TypedRows { data_type, row_bytes, .. } = self.rows;
        let numbers = Numbers { data_type, bytes: self.bytes.clone() };
        (Content::Rows { row_bytes, bytes: self.bytes }, numbers)
    }
}
