//! Edits: what becomes of a model's stored numbers before anybody else sees them.
//!
//! What belongs here: which edits there are, their arithmetic, the source that carries them
//! out while rows are read, and how an edit of a model's tensor becomes one of the stored
//! tensors it is made of. What does not: why a tensor is edited, and by how much.
//!
//! Invariant: [`EditedSource`] alone carries edits out. It stands where the source stood, so
//! every job sees the same edited numbers. A model without edits keeps its source as it is.

mod low_rank;
mod of_model;
mod operand;
mod operations;
mod source;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use qz_tensor::{DataType, TensorIndex, TensorInfo, TensorSource};
use sha2::{Digest, Sha256};

pub use low_rank::{Factor, FactorStrides, LowRank};
pub use of_model::Axis;
pub(crate) use operand::Kept;
pub use operand::Operand;
pub(crate) use source::EditedSource;

/// The element type that tensors have after their edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditedType {
    /// The type they are stored in, as of a model that was edited and saved. Blocks are
    /// refused: nothing rounds weights to blocks twice in silence.
    AsStored,
    /// The type they are stored in; blocks become `F32`.
    AsStoredOrDecoded,
    /// `F32`, so that no edit is rounded.
    F32,
}

/// Edits of a source's tensors. They are computed in `f32`, one after the other, and rounded
/// once.
#[derive(Clone)]
pub struct Edits {
    result: EditedType,
    of: BTreeMap<TensorIndex, Vec<Edit>>,
    /// Tensors that become `F32` whatever the others do.
    decoded: BTreeSet<TensorIndex>,
    /// Sources that edits take numbers from.
    operands: Vec<Arc<dyn TensorSource>>,
}

/// Something that is done to rows of a stored tensor. Elements of a vector of plain numbers
/// are rows of one column.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The rows.
    pub rows: Range<u64>,
    /// Which of their columns.
    pub columns: EditedColumns,
    /// What is done.
    pub operation: Operation,
}

/// Columns at a fixed distance, at most up to the last that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EditedColumns {
    /// The first.
    pub first: usize,
    /// How far one is from the next; at least 1.
    pub step: usize,
    /// How many there are at most.
    pub count: usize,
}

impl EditedColumns {
    /// All of them.
    pub const ALL: Self = Self { first: 0, step: 1, count: usize::MAX };

    /// Those of a row's values.
    pub(super) fn of(self, row: &mut [f32]) -> impl Iterator<Item = &mut f32> {
        row.iter_mut().skip(self.first).step_by(self.step).take(self.count)
    }
}

/// What an edit does.
#[derive(Clone, Debug)]
pub enum Operation {
    /// `(w + offset) · factor − offset`, with a factor for each of the edit's rows.
    ScaleRows {
        /// The factors.
        factors: Arc<[f32]>,
        /// What a reader of the tensor adds to it before it multiplies: 1 for norms that are
        /// stored as their distance from 1.
        offset: f32,
    },
    /// `w · factor`, with a factor for each of the edit's columns.
    ScaleColumns {
        /// The factors.
        factors: Arc<[f32]>,
    },
    /// `w + scale · (L R)`, for all columns.
    AddLowRank(LowRank),
    /// Rows of another tensor of the same shape take the place of these, in all columns.
    Set(Operand),
    /// Each of the edit's rows is scaled to a Euclidean length.
    SetLengths {
        /// The lengths.
        lengths: Arc<[f32]>,
    },
}

impl Edits {
    /// No edits, of a model whose edited tensors get this type.
    pub fn new(result: EditedType) -> Self {
        Self { result, of: BTreeMap::new(), decoded: BTreeSet::new(), operands: Vec::new() }
    }

    /// True if nothing is edited.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// The tensors that are edited.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &TensorIndex> {
        self.of.keys()
    }

    /// The product that is added to a tensor, if one is.
    pub(crate) fn low_rank(&self, tensor: TensorIndex) -> Option<&LowRank> {
        self.of.get(&tensor)?.iter().find_map(|edit| match &edit.operation {
            Operation::AddLowRank(added) => Some(added),
            _ => None,
        })
    }

    /// Adds an edit behind those that a tensor has.
    pub fn push(&mut self, tensor: TensorIndex, edit: Edit) {
        self.of.entry(tensor).or_default().push(edit);
    }

    /// Has a tensor's edited numbers stay as they are: those that are rounded to something
    /// else anyway.
    pub fn decode(&mut self, tensor: TensorIndex) {
        self.decoded.insert(tensor);
    }

    /// Adds a source that edits take numbers from: one more file that the model is made of.
    pub fn add_operand(&mut self, source: Arc<dyn TensorSource>) {
        self.operands.push(source);
    }

    /// The type that a tensor has after its edits; none if such tensors are refused.
    fn type_of(&self, stored: DataType) -> Option<DataType> {
        match self.result {
            EditedType::F32 => Some(DataType::F32),
            _ if !stored.is_block() => Some(stored),
            EditedType::AsStoredOrDecoded => Some(DataType::F32),
            EditedType::AsStored => None,
        }
    }

    /// What tells these edits from others, but for the bytes of the files they read.
    pub(crate) fn digest(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(format!("{:?} {:?}", self.result, self.decoded));
        for (tensor, edits) in &self.of {
            digest.update(format!("{tensor:?}"));
            for Edit { rows, columns, operation } in edits {
                digest.update(format!("{rows:?} {columns:?}"));
                operation.add_to(&mut digest);
            }
        }
        format!("{:x}", digest.finalize())
    }
}

impl Operation {
    fn add_to(&self, digest: &mut Sha256) {
        let mut numbers = |name: &str, numbers: &[f32]| {
            digest.update(format!("{name} {}", numbers.len()));
            numbers.iter().for_each(|number| digest.update(number.to_le_bytes()));
        };
        match self {
            Self::ScaleRows { factors, offset } => {
                numbers("offset", &[*offset]);
                numbers("rows", factors);
            }
            Self::ScaleColumns { factors } => numbers("columns", factors),
            Self::AddLowRank(added) => digest.update(added.description()),
            Self::Set(operand) => digest.update(format!("set {operand:?}")),
            Self::SetLengths { lengths } => numbers("lengths", lengths),
        }
    }
}

/// Rows of each of the matrices that are stacked in a stored tensor.
pub(crate) fn matrix_rows_of(info: &TensorInfo) -> u64 {
    match info.shape.dimensions() {
        [.., rows, _] => *rows,
        _ => grid_of(info).0,
    }
    .max(1)
}

/// Rows and columns of a stored tensor, as edits count them.
pub(crate) fn grid_of(info: &TensorInfo) -> (u64, u64) {
    if info.shape.rank() <= 1 && !info.data_type.is_block() {
        (info.shape.elements(), 1)
    } else {
        (info.shape.rows(), info.shape.columns())
    }
}
