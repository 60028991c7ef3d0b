//! How a tensor follows from what is stored: which rows it takes, and what becomes of
//! them. Every step has an inverse; what runs them is `qz-pipeline`'s `mapped_rows`.

use crate::recipe::StackedRows;
use crate::row_order::RowOrder;

/// How a tensor follows from tensors of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorMap {
    /// The stored rows, in the order in which they are read.
    pub rows: StackedRows,
    /// What becomes of them, if anything does.
    change: Option<Box<Change>>,
}

impl TensorMap {
    /// Rows as they are stored.
    pub fn of(rows: StackedRows) -> Self {
        Self { rows, change: None }
    }

    /// Rows that are changed.
    pub fn changed(rows: StackedRows, change: Change) -> Self {
        Self { rows, change: (change != Change::NONE).then(|| Box::new(change)) }
    }

    /// What becomes of the rows.
    pub fn change(&self) -> Change {
        self.change.as_deref().copied().unwrap_or(Change::NONE)
    }
}

/// What becomes of rows, in this order: each matrix is transposed, its rows change
/// places, then its columns, its values change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The matrices that are transposed, as they are then. Their rows keep their order.
    pub transposed: Option<Transposed>,
    /// The order of the rows.
    pub order: RowOrder,
    /// The order of the columns, if it changes.
    pub columns: Option<TurnedColumns>,
    /// What becomes of each value.
    pub values: ValueChange,
}

/// Blocks of a row's columns, `outer` times `inner` of them in the source; in the output they
/// lie `inner` times `outer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnedColumns {
    /// How many runs of blocks the source has.
    pub outer: u64,
    /// How many blocks a run has.
    pub inner: u64,
    /// Columns of a block.
    pub width: u64,
}

impl TurnedColumns {
    /// The order that puts columns back.
    pub fn inverse(self) -> Self {
        Self { outer: self.inner, inner: self.outer, ..self }
    }

    /// The block of the source that is the output's block number `block`.
    pub fn source_block(self, block: u64) -> u64 {
        block % self.outer.max(1) * self.inner + block / self.outer.max(1)
    }
}

/// A matrix that was transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transposed {
    /// Its rows.
    pub rows: u64,
    /// Its columns.
    pub columns: u64,
}

/// What becomes of each value. Computed as 32-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueChange {
    /// Nothing.
    None,
    /// x + 1: norms that multiply by one more than their weight.
    AddOne,
    /// x − 1.
    SubtractOne,
    /// −exp(x): decays of state spaces, of which checkpoints have the logarithm.
    NegativeExponential,
    /// ln(−x).
    LogarithmOfNegative,
    /// ln(1 + exp(x)): factors of dimensions, which checkpoints have before that.
    Softplus,
    /// ln(exp(x) − 1).
    InverseSoftplus,
    /// Each times what its row has.
    Scaled(RowFactors),
    /// Each divided by that.
    Divided(RowFactors),
}

/// What the rows of a matrix are multiplied with: all by one number, and then each by that of
/// the run which it lies in. Products are rounded one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowFactors {
    all: Factor,
    /// The row behind a run, and what the run has; they are in order.
    runs: [(u64, Factor); Self::MOST_RUNS],
}

/// A number, by its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Factor(u32);

impl Factor {
    const ONE: Self = Self(1f32.to_bits());
}

impl RowFactors {
    /// The runs that there may be.
    pub const MOST_RUNS: usize = 5;

    /// All rows times `all`, then the rows before the first run's end by its number, those
    /// from there to the next end by the next, and so on. Rows behind the last run, and runs
    /// past [`Self::MOST_RUNS`], have no number.
    pub fn new(all: f32, runs: &[(u64, f32)]) -> Self {
        let mut own = [(0, Factor::ONE); Self::MOST_RUNS];
        for (own, (end, by)) in own.iter_mut().zip(runs) {
            *own = (*end, Factor(by.to_bits()));
        }
        Self { all: Factor(all.to_bits()), runs: own }
    }

    /// True if nothing is multiplied.
    pub fn is_one(&self) -> bool {
        self.all == Factor::ONE && self.runs.iter().all(|(_, by)| *by == Factor::ONE)
    }

    /// What one row is multiplied with, in this order.
    fn of_row(&self, row: u64) -> [f32; 2] {
        let run = self.runs.iter().find(|(end, _)| row < *end);
        [self.all, run.map_or(Factor::ONE, |(_, by)| *by)].map(|factor| f32::from_bits(factor.0))
    }

    /// The same in two steps, of which each multiplies once.
    fn steps(self) -> [Self; 2] {
        [Self::new(f32::from_bits(self.all.0), &[]), Self { all: Factor::ONE, ..self }]
    }
}

impl Change {
    /// Rows as they are.
    pub const NONE: Self = Self {
        transposed: None,
        order: RowOrder::AsStored,
        columns: None,
        values: ValueChange::None,
    };

    /// Another order, and nothing else.
    pub const fn ordered(order: RowOrder) -> Self {
        Self { order, ..Self::NONE }
    }

    /// The change that undoes this one.
    pub fn inverse(self) -> Self {
        let turned = |Transposed { rows, columns }| Transposed { rows: columns, columns: rows };
        Self {
            transposed: self.transposed.map(turned),
            order: self.order.inverse(),
            columns: self.columns.map(TurnedColumns::inverse),
            values: self.values.inverse(),
        }
    }

    /// True if nothing changes.
    pub fn is_none(self) -> bool {
        self.transposed.is_none()
            && self.order.is_identity()
            && self.columns.is_none()
            && self.values == ValueChange::None
    }

    /// Rows of so many columns that follow from the same stored rows, and those from no others.
    /// At least 1.
    pub fn unit(self, columns: u64) -> u64 {
        let of_matrix = |matrix: Transposed| {
            matrix.rows.saturating_mul(matrix.columns).div_ceil(columns.max(1)).max(1)
        };
        self.transposed.map_or(self.order.unit(), of_matrix)
    }
}

impl ValueChange {
    /// The change that undoes this one, but for what rounding took.
    pub fn inverse(self) -> Self {
        match self {
            Self::None => Self::None,
            Self::AddOne => Self::SubtractOne,
            Self::SubtractOne => Self::AddOne,
            Self::NegativeExponential => Self::LogarithmOfNegative,
            Self::LogarithmOfNegative => Self::NegativeExponential,
            Self::Softplus => Self::InverseSoftplus,
            Self::InverseSoftplus => Self::Softplus,
            Self::Scaled(factors) => Self::Divided(factors),
            Self::Divided(factors) => Self::Scaled(factors),
        }
    }

    /// The same in steps behind each of which values are rounded to their type.
    pub fn steps(self) -> Vec<Self> {
        match self {
            Self::None => Vec::new(),
            Self::Scaled(factors) => factors.steps().map(Self::Scaled).into(),
            Self::Divided(factors) => {
                factors.steps().map(Self::Divided).into_iter().rev().collect()
            }
            own => vec![own],
        }
    }

    /// What becomes of a value of a row. Exponentials are rounded from 64 bits.
    pub fn of(self, value: f32, row: u64) -> f32 {
        match self {
            Self::None => value,
            Self::AddOne => value + 1.0,
            Self::SubtractOne => value - 1.0,
            Self::NegativeExponential => -(libm::exp(f64::from(value)) as f32),
            Self::LogarithmOfNegative => libm::log(f64::from(-value)) as f32,
            Self::Softplus => libm::log1p(libm::exp(f64::from(value))) as f32,
            Self::InverseSoftplus => libm::log(libm::expm1(f64::from(value))) as f32,
            Self::Scaled(factors) => factors.of_row(row).iter().fold(value, |own, by| own * by),
            Self::Divided(factors) => {
                factors.of_row(row).iter().rev().fold(value, |own, by| own / by)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_undone() {
        let matrix = Transposed { rows: 3, columns: 5 };
        let change = Change {
            transposed: Some(matrix),
            order: RowOrder::AsStored,
            columns: Some(TurnedColumns { outer: 2, inner: 3, width: 4 }),
            values: ValueChange::AddOne,
        };
        assert_eq!(change.unit(5), 3);
        assert_eq!(change.inverse().unit(3), 5);
        // A matrix of three rows in rows of one column each.
        assert_eq!(change.unit(1), 15);
        assert_eq!(change.inverse().inverse(), change);
        assert!(!change.is_none());
        assert!(Change::NONE.inverse().is_none());
    }

    #[test]
    fn values_come_back() {
        let scaled = ValueChange::Scaled(RowFactors::new(0.3, &[(1, 1.1), (4, 0.7)]));
        let all =
            [ValueChange::None, ValueChange::AddOne, ValueChange::NegativeExponential, scaled];
        for change in all {
            for (row, value) in [(0, 0.0), (1, 0.5), (3, -0.25), (4, 2.0)] {
                let back = change.inverse().of(change.of(value, row), row);
                assert!((back - value).abs() < 1e-6, "{change:?} {value}: {back}");
                assert_eq!(change.inverse().inverse(), change);
                let by_steps = |change: ValueChange, value| {
                    change.steps().into_iter().fold(value, |own, step| step.of(own, row))
                };
                for change in [change, change.inverse()] {
                    assert_eq!(by_steps(change, -0.75), change.of(-0.75, row), "{change:?}");
                }
            }
        }
        assert_eq!(ValueChange::NegativeExponential.of(0.0, 0), -1.0);
        assert_eq!(ValueChange::Softplus.of(0.0, 0), std::f32::consts::LN_2);
        let back = ValueChange::Softplus.inverse().of(ValueChange::Softplus.of(-2.0, 0), 0);
        assert!((back + 2.0).abs() < 1e-6, "{back}");
    }

    #[test]
    fn rows_have_the_factor_of_their_run() {
        let factors = RowFactors::new(0.5, &[(2, 3.0), (5, 0.25)]);
        let change = ValueChange::Scaled(factors);
        let found: Vec<f32> = (0..7).map(|row| change.of(8.0, row)).collect();
        assert_eq!(found, [12.0, 12.0, 1.0, 1.0, 1.0, 4.0, 4.0]);
        assert!(!factors.is_one());
        assert!(RowFactors::new(1.0, &[(2, 1.0)]).is_one());
    }
}
