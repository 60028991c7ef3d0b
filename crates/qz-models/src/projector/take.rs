//! What a projector's tensor takes of the stored one: which rows, in which order and shape.

use qz_tensor::{Shape, TensorIndex};

use super::{ProjectorConfig, TowerKind};
use crate::error::Error;
use crate::recipe::{RowSlice, StackedRows};
use crate::row_order::RowOrder;
use crate::tensor_map::{Change, TensorMap, Transposed, ValueChange};

/// What of the stored tensor is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// All; a single number becomes a vector of one.
    All,
    /// One of three equal runs of rows: queries, keys, values.
    Third(u64),
    /// One of the two frames of a convolution over frames, height and width.
    Frame(u64),
    /// All, and one more than each value.
    AddOne,
    /// All, and the softplus of each value.
    Softplus,
    /// The rows of each head as llama.cpp turns pairs of them.
    TurnedHeads,
    /// The vector of the token by which rows of an image end.
    RowEnd,
    /// A vector as a column.
    Column,
    /// Without dimensions of one behind the first.
    Squeezed,
    /// The first two dimensions as one.
    Merged,
    /// Rows of square patches, whose pixels have their colours side by side, as filters.
    Filters,
}

/// A stored tensor.
pub(super) struct Stored<'a> {
    pub(super) index: TensorIndex,
    pub(super) shape: &'a Shape,
}

/// The colours of a pixel.
const COLOURS: u64 = 3;

impl Take {
    /// The shape of what is taken, and the rows of the stored tensor that it is; `None` if the
    /// stored shape does not allow it.
    pub(super) fn of(
        self,
        stored: &Stored<'_>,
        config: &ProjectorConfig,
    ) -> Result<Option<(Shape, TensorMap)>, Error> {
        if self == Self::TurnedHeads {
            let heads = config.first_integer(TowerKind::Vision, HEADS)?;
            return Ok(stored.turned(heads));
        }
        Ok(self.of_shape(stored, config))
    }

    fn of_shape(self, stored: &Stored<'_>, config: &ProjectorConfig) -> Option<(Shape, TensorMap)> {
        let dimensions = stored.shape.dimensions();
        match self {
            Self::All if dimensions.is_empty() => stored.reshaped(vec![1]),
            Self::All => stored.changed(Change::NONE),
            Self::AddOne => stored.changed(Change { values: ValueChange::AddOne, ..Change::NONE }),
            Self::Softplus => {
                stored.changed(Change { values: ValueChange::Softplus, ..Change::NONE })
            }
            Self::Third(part) => stored.third(part),
            Self::Frame(frame) => stored.frame(frame),
            Self::RowEnd => stored.row(config.row_end?),
            Self::Column => match *dimensions {
                [rows] => stored.reshaped(vec![rows, 1]),
                _ => None,
            },
            Self::Squeezed => {
                let (first, rest) = dimensions.split_first()?;
                let rest = rest.iter().copied().filter(|size| *size != 1);
                stored.reshaped([*first].into_iter().chain(rest).collect())
            }
            Self::Merged => match dimensions {
                [first, second, rest @ ..] => {
                    let all = first.checked_mul(*second)?;
                    stored.reshaped([&[all], rest].concat())
                }
                _ => None,
            },
            Self::Filters => stored.filters(),
            Self::TurnedHeads => None,
        }
    }
}

const HEADS: &[&str] = &["num_attention_heads", "num_heads"];

impl Stored<'_> {
    fn whole(&self) -> StackedRows {
        StackedRows::whole(self.index)
    }

    fn changed(&self, change: Change) -> Option<(Shape, TensorMap)> {
        Some((self.shape.clone(), TensorMap::changed(self.whole(), change)))
    }

    fn reshaped(&self, dimensions: Vec<u64>) -> Option<(Shape, TensorMap)> {
        Some((Shape::new(dimensions).ok()?, TensorMap::of(self.whole())))
    }

    fn turned(&self, heads: u64) -> Option<(Shape, TensorMap)> {
        let rows = *self.shape.dimensions().first()?;
        let head_rows = rows.is_multiple_of(heads.checked_mul(2)?).then_some(rows / heads)?;
        self.changed(Change::ordered(RowOrder::InterleavedHalves { head_rows }))
    }

    fn third(&self, part: u64) -> Option<(Shape, TensorMap)> {
        let (first, rest) = self.shape.dimensions().split_first()?;
        let rows = first.is_multiple_of(3).then_some(first / 3)?;
        let shape = Shape::new([&[rows], rest].concat()).ok()?;
        let slice = RowSlice { tensor: self.index, first_row: part * rows };
        Some((shape, TensorMap::of(StackedRows::new(rows, vec![slice])?)))
    }

    fn frame(&self, frame: u64) -> Option<(Shape, TensorMap)> {
        let [outputs, channels, 2, height, width] = *self.shape.dimensions() else { return None };
        let first = |filter: u64| (filter * 2 + frame) * height;
        let slices = (0..outputs * channels)
            .map(|filter| RowSlice { tensor: self.index, first_row: first(filter) })
            .collect();
        let shape = Shape::new([outputs, channels, height, width]).ok()?;
        Some((shape, TensorMap::of(StackedRows::new(height, slices)?)))
    }

    /// A row as a vector; the elements of one are its rows.
    fn row(&self, row: u64) -> Option<(Shape, TensorMap)> {
        let [rows, columns] = *self.shape.dimensions() else { return None };
        let first_row = (row < rows).then_some(row * columns)?;
        let slice = RowSlice { tensor: self.index, first_row };
        let shape = Shape::new([columns]).ok()?;
        Some((shape, TensorMap::of(StackedRows::new(columns, vec![slice])?)))
    }

    fn filters(&self) -> Option<(Shape, TensorMap)> {
        let [outputs, elements] = *self.shape.dimensions() else { return None };
        let pixels = elements.is_multiple_of(COLOURS).then_some(elements / COLOURS)?;
        let side = pixels.isqrt();
        (side > 0 && side * side == pixels).then_some(())?;
        let matrix = Transposed { rows: COLOURS, columns: pixels };
        let change = Change { transposed: Some(matrix), ..Change::NONE };
        let shape = Shape::new([outputs, COLOURS, side, side]).ok()?;
        Some((shape, TensorMap::changed(self.whole(), change)))
    }
}
