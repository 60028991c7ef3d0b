//! What a tensor of the GGUF file is, and which rows of the checkpoint it takes.

use qz_tensor::{Shape, TensorIndex};

use crate::rules::{LayerIndex, Part, Role};
use crate::tensor_map::TensorMap;

/// A tensor of the GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorRecipe {
    /// Its name.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Whether it is the role's weight or its bias.
    pub part: Part,
    /// Its layer.
    pub layer: Option<LayerIndex>,
    /// Its dimensions, outermost first.
    pub shape: Shape,
    /// Where its values come from.
    pub origin: TensorOrigin,
}

/// Where a tensor's values come from.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorOrigin {
    /// From tensors of the checkpoint.
    Mapped(TensorMap),
    /// From the configuration; always written as `F32`.
    Computed(Vec<f32>),
}

/// Runs of rows, all equally long, one behind the other. Their tensors have the
/// same element type and the same columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackedRows(Runs);

/// Most maps take one whole tensor, and a file may have millions of those: that case is small.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Runs {
    /// One run, of however many rows there are, and all columns.
    One(RowSlice),
    Several(Box<Several>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Several {
    /// Rows of each run; at least 1.
    rows: u64,
    /// Where they begin; at least one.
    slices: Vec<RowSlice>,
    /// Which columns of the stored rows, if not all.
    columns: Option<PickedColumns>,
}

/// Some columns of stored rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PickedColumns {
    /// The first.
    pub first: u64,
    /// How far one is from the next; at least 1.
    pub step: u64,
    /// How many there are.
    pub count: u64,
    /// All columns of a stored row.
    pub of: u64,
}

/// Where a run of rows begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSlice {
    /// The tensor of the checkpoint.
    pub tensor: TensorIndex,
    /// The first of its rows.
    pub first_row: u64,
}

impl PickedColumns {
    /// The elements of a row, which take `size` bytes each, that are taken.
    pub fn of_row<'a>(&self, row: &'a [u8], size: usize) -> impl Iterator<Item = &'a [u8]> {
        self.of_columns(row.chunks_exact(size))
    }

    /// The same, to be written to.
    pub fn of_row_mut<'a>(
        &self,
        row: &'a mut [u8],
        size: usize,
    ) -> impl Iterator<Item = &'a mut [u8]> {
        self.of_columns(row.chunks_exact_mut(size))
    }

    /// Those of all columns' elements that are taken.
    pub fn of_columns<Element>(
        &self,
        all: impl Iterator<Item = Element>,
    ) -> impl Iterator<Item = Element> {
        let (first, step) = (self.first as usize, self.step as usize);
        all.skip(first).step_by(step).take(self.count as usize)
    }
}

impl StackedRows {
    /// Runs of `rows` rows each; `None` if there are none.
    pub fn new(rows: u64, slices: Vec<RowSlice>) -> Option<Self> {
        let is_any = rows > 0 && !slices.is_empty();
        is_any.then(|| Self::several(rows, slices, None))
    }

    fn several(rows: u64, slices: Vec<RowSlice>, columns: Option<PickedColumns>) -> Self {
        Self(Runs::Several(Box::new(Several { rows, slices, columns })))
    }

    /// One run, of however many rows there are.
    pub fn one(slice: RowSlice) -> Self {
        Self(Runs::One(slice))
    }

    /// All rows of a tensor.
    pub fn whole(tensor: TensorIndex) -> Self {
        Self::one(RowSlice { tensor, first_row: 0 })
    }

    /// The same runs, of some columns.
    pub fn of_columns(self, columns: PickedColumns) -> Self {
        Self::several(self.rows(), self.slices().to_vec(), Some(columns))
    }

    /// Which columns of the stored rows, if not all.
    pub fn columns(&self) -> Option<PickedColumns> {
        match &self.0 {
            Runs::One(_) => None,
            Runs::Several(several) => several.columns,
        }
    }

    /// The first `rows` rows of each tensor, one tensor after the other; `None` if
    /// there are none.
    pub fn of_tensors(rows: u64, tensors: &[TensorIndex]) -> Option<Self> {
        let slice = |tensor: &TensorIndex| RowSlice { tensor: *tensor, first_row: 0 };
        Self::new(rows, tensors.iter().map(slice).collect())
    }

    /// The same runs of tensors with other numbers.
    pub fn renumbered(&self, mut number: impl FnMut(TensorIndex) -> TensorIndex) -> Self {
        let mut slice = |slice: &RowSlice| RowSlice { tensor: number(slice.tensor), ..*slice };
        match &self.0 {
            Runs::One(own) => Self::one(slice(own)),
            Runs::Several(own) => {
                Self::several(own.rows, own.slices.iter().map(slice).collect(), own.columns)
            }
        }
    }

    /// Rows of each run.
    fn rows(&self) -> u64 {
        match &self.0 {
            Runs::One(_) => u64::MAX,
            Runs::Several(several) => several.rows,
        }
    }

    /// Where each run begins.
    pub fn slices(&self) -> &[RowSlice] {
        match &self.0 {
            Runs::One(slice) => std::slice::from_ref(slice),
            Runs::Several(several) => &several.slices,
        }
    }

    /// Where row `row` of the whole lies, and how many rows of its run there are
    /// from it on. A row past the end is taken for one of the last run.
    pub fn locate(&self, row: u64) -> (RowSlice, u64) {
        let (rows, slices) = (self.rows(), self.slices());
        let last = slices.len().saturating_sub(1);
        let run = usize::try_from(row / rows).unwrap_or(last).min(last);
        let within = row - run as u64 * rows;
        let RowSlice { tensor, first_row } = slices[run];
        let slice = RowSlice { tensor, first_row: first_row + within };
        (slice, rows.saturating_sub(within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_stack_have_a_place() {
        let slice = |tensor, first_row| RowSlice { tensor: TensorIndex(tensor), first_row };
        let stack = StackedRows::new(3, vec![slice(7, 0), slice(2, 10)]).expect("rows");
        let check = |row: u64, expected: (RowSlice, u64)| assert_eq!(stack.locate(row), expected);
        check(0, (slice(7, 0), 3));
        check(2, (slice(7, 2), 1));
        check(3, (slice(2, 10), 3));
        check(5, (slice(2, 12), 1));
        assert_eq!(StackedRows::new(0, vec![slice(0, 0)]), None);
        assert_eq!(StackedRows::new(1, Vec::new()), None);
    }
}
