//! What methods and grids pass each other.

use std::borrow::Cow;
use std::fmt;

use qz_tensor::DataType;

use super::Grid;

/// A lane's position in its unit. A lane is the columns that one [`Code`] covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneIndex(pub usize);

/// A group's position in its unit. A group is the columns that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(pub usize);

/// Which of a unit's linear parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterIndex(pub usize);

/// What is stored for one lane: the level's number, or a codeword and its signs.
/// Only the grid that made it knows what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

/// The most linear parameters a unit has.
pub const MOST_PARAMETERS: usize = 2;
/// The most groups a unit has.
pub const MOST_GROUPS: usize = 16;

/// Everything stored for one unit of one row besides the codes. Numbers that a
/// file keeps in 16 bits or less are kept rounded to what it keeps, so that a
/// method never sees a value that decoding would not give.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Unit {
    /// The linear parameters: what one step of a scale and of an offset is worth.
    pub(super) parameters: [f32; MOST_PARAMETERS],
    /// Each group's scale, in steps (or the number of its scale).
    pub(super) scales: [i16; MOST_GROUPS],
    /// Each group's offset, in steps (or its zero point).
    pub(super) offsets: [i16; MOST_GROUPS],
}

impl Unit {
    /// The linear parameters; those a grid does not have are zero.
    pub fn parameter_values(&self) -> &[f32; MOST_PARAMETERS] {
        &self.parameters
    }

    /// A group's scale in steps, or the number of its scale.
    pub fn scale(&self, group: GroupIndex) -> i16 {
        self.scales[group.0]
    }

    /// A group's offset in steps, or its zero point.
    pub fn offset(&self, group: GroupIndex) -> i16 {
        self.offsets[group.0]
    }
}

/// What a method has to know of a grid to lay out its own state.
#[derive(Clone, Debug)]
pub struct GridSpec {
    /// As people call it.
    pub name: Cow<'static, str>,
    /// The element type it packs to; `None` for layouts that are not one.
    pub data_type: Option<DataType>,
    /// Columns of a unit: they are fitted together, and packed together.
    pub unit_columns: usize,
    /// Columns of a group.
    pub group_columns: usize,
    /// Columns of a lane: 1, or what a codebook's codeword covers.
    pub lane_columns: usize,
    /// Linear parameters of a unit (see [`Grid::basis`]); 0 where scales come from
    /// a fixed list.
    pub parameters: usize,
    /// Bytes of a packed unit.
    pub unit_bytes: usize,
    /// How large weights are emphasised where the caller asks for that.
    pub emphasis: EmphasisRule,
}

impl GridSpec {
    /// Lanes of a unit.
    pub fn lanes(&self) -> usize {
        self.unit_columns / self.lane_columns
    }

    /// Groups of a unit.
    pub fn groups(&self) -> usize {
        self.unit_columns / self.group_columns
    }

    /// Lanes of a group.
    pub fn group_lanes(&self) -> usize {
        self.group_columns / self.lane_columns
    }

    /// Stored bits for each weight, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        self.unit_bytes as f64 * 8.0 / self.unit_columns as f64
    }
}

/// Rows of numbers at a fixed distance.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
    columns: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `columns` numbers that begin `stride` apart.
    ///
    /// # Panics
    /// If a row does not fit its stride, or the last one the values.
    pub fn new(values: &'a [f32], stride: usize, columns: usize) -> Self {
        assert!(0 < columns && columns <= stride, "a row does not fit its stride");
        let rest = values.len() % stride;
        assert!(rest == 0 || rest >= columns, "the last row is cut");
        Self { values, stride, columns }
    }

    /// Rows that follow each other.
    pub fn dense(values: &'a [f32], columns: usize) -> Self {
        Self::new(values, columns, columns)
    }

    /// Some columns of all rows.
    ///
    /// # Panics
    /// If the rows do not have these columns.
    pub fn slice(&self, first: usize, columns: usize) -> Rows<'a> {
        assert!(first + columns <= self.columns, "no such columns");
        let values = self.values.get(first..).unwrap_or_default();
        Rows::new(values, self.stride, columns)
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.values.len().div_ceil(self.stride)
    }

    /// Numbers in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The numbers from the first row's on, and how far apart rows begin.
    pub fn strided(&self) -> (&'a [f32], usize) {
        (self.values, self.stride)
    }

    /// One row.
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.stride..][..self.columns]
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let columns = self.columns;
        self.values.chunks(self.stride).map(move |row| &row[..columns])
    }
}

/// How errors of a row's columns count.
#[derive(Clone, Copy, Debug)]
pub enum Metric<'a> {
    /// Each column's square with its own weight.
    Diagonal(&'a [f32]),
    /// `e H eᵀ` with a symmetric block `H` of the Hessian, as many rows as columns.
    Block(Rows<'a>),
}

impl Metric<'_> {
    /// What the square of one column's error counts.
    pub fn weight(&self, column: usize) -> f32 {
        match self {
            Self::Diagonal(weights) => weights[column],
            Self::Block(block) => block.row(column)[column],
        }
    }
}

/// What a fit of one unit has to know of the whole row.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowFacts {
    /// The mean of the row's squared weights.
    pub mean_square: f32,
}

impl RowFacts {
    /// The facts of a whole row.
    pub fn of(row: &[f32]) -> Self {
        let sum: f64 = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        Self { mean_square: (sum / row.len().max(1) as f64) as f32 }
    }
}

/// Whether a fit counts errors of large weights for more than the metric says.
/// A correction found by experience: it lowers the divergence of 2-bit models even
/// where feedback follows, and changes little at 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emphasis {
    /// The metric as it is.
    None,
    /// The metric times `sqrt(σ² + x²)`, σ² after the grid's [`EmphasisRule`].
    Magnitude,
}

/// The reference program's σ² for a type (ggml-quants.c, the `_impl` functions).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmphasisRule {
    /// The mean square is multiplied by this.
    pub factor: f32,
    /// The mean is the row's, not the unit's.
    pub whole_row: bool,
}

impl EmphasisRule {
    pub(super) fn variance(self, facts: &RowFacts, values: &[f32]) -> f32 {
        let facts = if self.whole_row { *facts } else { RowFacts::of(values) };
        self.factor * facts.mean_square
    }
}

/// One unit of many rows, to be fitted.
#[derive(Clone, Copy, Debug)]
pub struct FitProblem<'a> {
    /// The unit's columns of each row.
    pub rows: Rows<'a>,
    /// How errors count, the same for all rows.
    pub metric: Metric<'a>,
    /// What is known of each row, or of none.
    pub facts: &'a [RowFacts],
    /// Whether large weights count more.
    pub emphasis: Emphasis,
    /// Where the first row's unit is; the other rows follow.
    pub place: UnitPlace,
}

impl FitProblem<'_> {
    /// Where one row's unit is.
    pub(super) fn place(&self, row: usize) -> UnitPlace {
        UnitPlace { row: self.place.row + row, ..self.place }
    }
}

/// Where a unit is in its matrix. It matters to grids alone whose scales are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitPlace {
    /// The row's number.
    pub row: usize,
    /// The unit's number in its row.
    pub unit: usize,
}

/// Parameters that no unit can store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unrepresentable;

impl fmt::Display for Unrepresentable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scale does not fit the type that stores it")
    }
}

impl std::error::Error for Unrepresentable {}

/// Rows between method and storage: which codes, with which units, and the values
/// these decode to. The method owns it and keeps it consistent.
#[derive(Clone, Debug)]
pub struct RowBatch {
    rows: usize,
    columns: usize,
    unit_columns: usize,
    lane_columns: usize,
    /// Unit by unit, each for all rows: a step of a method works on one unit of
    /// many rows.
    units: Vec<Unit>,
    /// Row by row.
    codes: Vec<Code>,
    /// Row by row.
    values: Vec<f32>,
}

impl RowBatch {
    /// Rows with every number zero.
    ///
    /// # Panics
    /// If the columns do not fill whole units.
    pub fn new(spec: &GridSpec, rows: usize, columns: usize) -> Self {
        assert!(columns.is_multiple_of(spec.unit_columns), "columns do not fill whole units");
        Self {
            rows,
            columns,
            unit_columns: spec.unit_columns,
            lane_columns: spec.lane_columns,
            units: vec![Unit::default(); rows * columns / spec.unit_columns],
            codes: vec![Code::default(); rows * columns / spec.lane_columns],
            values: vec![0.0; rows * columns],
        }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Weights in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Units in a row.
    pub fn units_per_row(&self) -> usize {
        self.columns / self.unit_columns
    }

    /// A unit of all rows.
    pub fn units(&self, unit: usize) -> &[Unit] {
        &self.units[unit * self.rows..][..self.rows]
    }

    /// A unit of all rows.
    pub fn units_mut(&mut self, unit: usize) -> &mut [Unit] {
        &mut self.units[unit * self.rows..][..self.rows]
    }

    /// The codes of a row.
    pub fn codes(&self, row: usize) -> &[Code] {
        let lanes = self.columns / self.lane_columns;
        &self.codes[row * lanes..][..lanes]
    }

    /// The codes of a row.
    pub fn codes_mut(&mut self, row: usize) -> &mut [Code] {
        let lanes = self.columns / self.lane_columns;
        &mut self.codes[row * lanes..][..lanes]
    }

    /// The codes of one unit of a row.
    pub fn unit_codes(&self, row: usize, unit: usize) -> &[Code] {
        let lanes = self.unit_columns / self.lane_columns;
        &self.codes(row)[unit * lanes..][..lanes]
    }

    /// The values of a row.
    pub fn values(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    /// The values of a row.
    pub fn values_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.columns..][..self.columns]
    }

    /// Rounds rows to the units that are there, every lane alone.
    pub fn round(&mut self, grid: &dyn Grid, rows: Rows<'_>, metric: Metric<'_>) {
        let spec = grid.spec();
        let lane_columns = self.lane_columns;
        let mut targets = vec![0.0; self.rows * lane_columns];
        let mut values = targets.clone();
        let mut codes = vec![Code::default(); self.rows];
        let mut block = vec![0.0; lane_columns * lane_columns];
        for lane in 0..self.columns / lane_columns {
            let first = lane * lane_columns;
            for (target, row) in targets.chunks_mut(lane_columns).zip(rows.iter()) {
                target.copy_from_slice(&row[first..][..lane_columns]);
            }
            let unit = first / self.unit_columns;
            let metric = metric.lane(first, lane_columns, &mut block);
            grid.nearest(
                self.units(unit),
                LaneIndex(lane % spec.lanes()),
                Rows::dense(&targets, lane_columns),
                metric,
                &mut codes,
                &mut values,
            );
            self.set_lane(lane, &codes, &values);
        }
    }

    /// Stores one lane of all rows; `lane` counts from the row's begin.
    pub fn set_lane(&mut self, lane: usize, codes: &[Code], values: &[f32]) {
        let lane_columns = self.lane_columns;
        for (row, values) in values.chunks(lane_columns).enumerate() {
            self.codes_mut(row)[lane] = codes[row];
            self.values_mut(row)[lane * lane_columns..][..lane_columns].copy_from_slice(values);
        }
    }

    /// The rows of some batches, which are of one grid and one width, as one batch.
    ///
    /// # Panics
    /// If there are no batches, or they are of different widths.
    pub fn stacked(batches: &[Self]) -> Self {
        let first = &batches[0];
        assert!(batches.iter().all(|batch| batch.columns == first.columns), "rows of one width");
        let all = |part: fn(&Self) -> &[Code]| batches.iter().flat_map(part).copied().collect();
        let units = (0..first.units_per_row())
            .flat_map(|unit| batches.iter().flat_map(move |batch| batch.units(unit)));
        Self {
            rows: batches.iter().map(|batch| batch.rows).sum(),
            columns: first.columns,
            unit_columns: first.unit_columns,
            lane_columns: first.lane_columns,
            units: units.copied().collect(),
            codes: all(|batch| &batch.codes),
            values: batches.iter().flat_map(|batch| &batch.values).copied().collect(),
        }
    }

    /// Packs one row.
    pub fn pack(&self, grid: &dyn Grid, row: usize, out: &mut [u8]) {
        for (unit, out) in out.chunks_mut(grid.spec().unit_bytes).enumerate() {
            grid.pack(&self.units(unit)[row], self.unit_codes(row, unit), out);
        }
    }
}

impl<'a> Metric<'a> {
    /// The metric of some columns only. `room` holds a block of them.
    pub fn lane(&self, first: usize, columns: usize, room: &'a mut [f32]) -> Metric<'a> {
        match self {
            Self::Diagonal(weights) => Metric::Diagonal(&weights[first..][..columns]),
            Self::Block(block) => {
                for (position, row) in room.chunks_mut(columns).enumerate() {
                    row.copy_from_slice(&block.row(first + position)[first..][..columns]);
                }
                Metric::Block(Rows::dense(room, columns))
            }
        }
    }
}
