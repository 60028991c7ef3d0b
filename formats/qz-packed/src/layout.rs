//! What a layout can be asked.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use qz_codec::grid::{Grid, RowBatch};
use qz_tensor::{DataType, FileError, Shape};

use crate::hadamard::Hadamard;

/// A weight matrix: `rows` outputs of `columns` inputs, row after row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Outputs.
    pub rows: u64,
    /// Inputs.
    pub columns: u64,
}

impl Matrix {
    /// Fails if groups of so many columns do not divide the rows.
    pub(crate) fn check_groups(self, group: u64) -> Result<(), Unfit> {
        let columns = self.columns;
        if columns == 0 || group == 0 || !columns.is_multiple_of(group) {
            return Err(Unfit(format!("{columns} inputs are not a multiple of the group {group}")));
        }
        Ok(())
    }
}

/// One of the tensors that a matrix is stored as.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What follows the module's name and a dot: `qweight` of `….q_proj.qweight`.
    pub suffix: Cow<'static, str>,
    /// How its elements are stored.
    pub data_type: DataType,
    /// Its dimensions, outermost first.
    pub shape: Shape,
}

impl Part {
    /// A part of these dimensions.
    ///
    /// # Errors
    /// If they are too large to count.
    pub fn new(
        suffix: impl Into<Cow<'static, str>>,
        data_type: DataType,
        dimensions: &[u64],
    ) -> Result<Self, Unfit> {
        let shape = Shape::new(dimensions).map_err(|error| Unfit(error.to_string()))?;
        Ok(Self { suffix: suffix.into(), data_type, shape })
    }
}

/// A part's place in [`Layout::parts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartIndex(pub usize);

/// Takes bytes of a part, from `offset` within it. Calls may come in any order, and
/// never overlap.
pub type Put<'a> = dyn FnMut(PartIndex, u64, &[u8]) + 'a;

/// The parts of a stored matrix.
pub trait PartBytes {
    /// Fills `out` with bytes of a part, from `offset` within it.
    ///
    /// # Errors
    /// If the file cannot be read or has become shorter since it was opened.
    fn read(&self, part: PartIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError>;
}

/// A matrix that a layout cannot store, and why, as a message goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(pub String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

/// How weights are rounded where no method has chosen their codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// As the layout's reference package does without data.
    #[default]
    Nearest,
    /// The scale of a group with the least error, as the reference packages search it.
    LeastError,
    /// The scale and zero point of a group with the least error, weighed by importance
    /// where there is some.
    Importance,
}

/// What a matrix's rows have to know of all rows. Two are merged in order of their
/// rows, so that the sum does not depend on threads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measure {
    /// The largest magnitude of a weight.
    pub largest: f32,
    /// The sum of the blocks' largest magnitudes.
    pub block_maxima: f64,
    /// How many blocks there are.
    pub blocks: u64,
}

impl Measure {
    /// Measures weights in blocks of so many.
    pub fn of(weights: &[f32], block: usize) -> Self {
        let mut measure = Self::default();
        for block in weights.chunks(block.max(1)) {
            let largest = block.iter().fold(0.0f32, |most, weight| most.max(weight.abs()));
            measure.largest = measure.largest.max(largest);
            measure.block_maxima += f64::from(largest);
            measure.blocks = measure.blocks.saturating_add(1);
        }
        measure
    }

    /// Both together; the rows of `next` come after those of this one.
    pub fn merged(self, next: Self) -> Self {
        Self {
            largest: self.largest.max(next.largest),
            block_maxima: self.block_maxima + next.block_maxima,
            blocks: self.blocks.saturating_add(next.blocks),
        }
    }
}

/// Whether a layout needs a [`Measure`] of a matrix before it can encode a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepass {
    /// No; the measure it gets is empty.
    None,
    /// Of the matrix itself.
    Own,
    /// Of the matrix and of those that an engine multiplies together with it: queries,
    /// keys and values; gate and up projection. They get the same one.
    Fused,
}

/// Some rows of a matrix, to be encoded.
#[derive(Clone, Copy, Debug)]
pub struct RowBlock<'a> {
    /// The whole matrix; one that [`Layout::parts`] accepts.
    pub matrix: Matrix,
    /// The first row: a multiple of the layout's row unit.
    pub first_row: u64,
    /// Whole rows: a multiple of the row unit, or up to the matrix's end. Finite.
    pub weights: &'a [f32],
    /// What the square of each column's error counts.
    pub importance: Option<&'a [f32]>,
    /// How to round.
    pub rounding: Rounding,
    /// What the layout's prepass asked for.
    pub measure: Measure,
}

impl RowBlock<'_> {
    /// Weights in a row. A row is in memory, so the cast is exact.
    pub fn columns(&self) -> usize {
        self.matrix.columns as usize
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.weights.len().checked_div(self.columns()).unwrap_or(0)
    }
}

/// A matrix whose values a method chooses.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// Its size.
    pub matrix: Matrix,
    /// All its weights, in the order in which rows are written. A scale that several
    /// rows share is fixed by them, before any is rounded.
    pub weights: &'a [f32],
    /// What the layout's prepass asked for.
    pub measure: Measure,
}

/// Rows whose values a method has chosen.
#[derive(Clone, Copy, Debug)]
pub struct ChosenRows<'a> {
    /// The whole matrix.
    pub matrix: Matrix,
    /// What the grid was made with.
    pub measure: Measure,
    /// The first row: a multiple of the layout's row unit.
    pub first_row: u64,
    /// The rows.
    pub batch: &'a RowBatch,
}

/// How one matrix is stored as several tensors.
///
/// Rows go in by tiles and come out by position; no call sees a whole matrix.
pub trait Layout: Send + Sync + fmt::Debug {
    /// The tensors that the matrix is stored as, always in the same order.
    ///
    /// # Errors
    /// If this layout cannot store a matrix of this size.
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit>;

    /// Rows that have to be encoded together, since they share a word or a block. At
    /// least 1.
    fn row_unit(&self, _matrix: Matrix) -> u64 {
        1
    }

    /// Weights of a row that share a scale, where they begin at a multiple of it.
    fn group_columns(&self, matrix: Matrix) -> u64 {
        matrix.columns
    }

    /// Groups whose weights are all smaller may be lost, since the numbers that their scales are
    /// stored with depend on other groups. 0 where each scale is a number of its own.
    fn faint(&self, _measure: Measure) -> f32 {
        0.0
    }

    /// True if the bytes of a row lie apart, so that many rows at once make longer runs
    /// of bytes.
    fn is_strided(&self) -> bool {
        false
    }

    /// Whether [`RowBlock::measure`] is wanted.
    fn prepass(&self) -> Prepass {
        Prepass::None
    }

    /// Measures whole row units, if there is a prepass.
    fn measure(&self, _matrix: Matrix, weights: &[f32]) -> Measure {
        Measure::of(weights, weights.len())
    }

    /// Writes what does not depend on rows: fixed tables, sizes, tensor-wide scales.
    /// Called once for each matrix.
    fn write_constants(&self, _matrix: Matrix, _measure: Measure, _put: &mut Put<'_>) {}

    /// Rounds rows, and writes their bytes in every part.
    ///
    /// # Errors
    /// The position in `rows.weights` of a weight whose scale does not fit the type
    /// that stores it.
    fn encode(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<(), usize>;

    /// What rows are multiplied by before they are stored: [`Layout::grid`] and
    /// [`Layout::write`] know rotated ones alone.
    fn rotation(&self) -> Option<Hadamard> {
        None
    }

    /// The values that a matrix can have, for methods that choose among them. None if there
    /// is no such grid, as [`Layout::has_grid`] says.
    fn grid(&self, _whole: &Whole<'_>) -> Option<Box<dyn Grid>> {
        None
    }

    /// Whether methods can choose the values of a matrix of this size.
    fn has_grid(&self, matrix: Matrix) -> bool {
        self.grid(&Whole { matrix, weights: &[], measure: Measure::default() }).is_some()
    }

    /// Writes rows, whole row units, whose codes and units a method has chosen on
    /// [`Layout::grid`].
    ///
    /// # Panics
    /// If there is no grid, or the batch is not of it.
    fn write(&self, _chosen: &ChosenRows<'_>, _put: &mut Put<'_>) {
        unreachable!("a batch of rows for a layout without a grid")
    }

    /// True if blocks of this element type can be stored with the very same values.
    fn takes(&self, _data_type: DataType) -> bool {
        false
    }

    /// Writes rows that are blocks of a type that it takes.
    ///
    /// # Panics
    /// If it takes none.
    fn put_blocks(&self, _matrix: Matrix, _first_row: u64, _blocks: &[u8], _put: &mut Put<'_>) {
        unreachable!("blocks for a layout that takes none")
    }

    /// Decodes any rows. `out` holds exactly their weights.
    ///
    /// # Errors
    /// If the file cannot be read or has become shorter since it was opened.
    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError>;

    /// The element type whose blocks can hold every weight of the matrix exactly as it
    /// is decoded, if there is one. May read scales to find out.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn exact_type(
        &self,
        _matrix: Matrix,
        _parts: &dyn PartBytes,
    ) -> Result<Option<DataType>, FileError> {
        Ok(None)
    }

    /// The element type whose blocks hold the same codes, where offsets have to be
    /// rounded for that; and by how much of a step, at most. 0 for the
    /// [`Layout::exact_type`].
    ///
    /// # Errors
    /// If the file cannot be read.
    fn nearest_type(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
    ) -> Result<Option<(DataType, f64)>, FileError> {
        Ok(self.exact_type(matrix, parts)?.map(|exact| (exact, 0.0)))
    }

    /// Fills `out` with rows as blocks of the [`Layout::exact_type`] or the
    /// [`Layout::nearest_type`].
    ///
    /// # Errors
    /// If the file cannot be read or has become shorter since it was opened.
    fn repack(
        &self,
        _matrix: Matrix,
        _parts: &dyn PartBytes,
        _rows: Range<u64>,
        _out: &mut [u8],
    ) -> Result<(), FileError> {
        unreachable!("blocks of a layout without an exact type")
    }
}
