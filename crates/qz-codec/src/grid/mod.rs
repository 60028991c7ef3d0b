//! The set of values a codec can represent, seen by a method: error feedback,
//! coordinate descent and refits choose among these values themselves, where a
//! codec's `encode` runs the reference program's own search.
//!
//! A row is cut into **units** (what is packed together), a unit into **groups**
//! (what shares a scale) and **lanes** (what one code covers: one column, or more
//! for a codebook). All that is stored besides the codes is a [`Unit`]. A grid is
//! immutable; the method owns the state, a [`RowBatch`].
//!
//! What every grid promises, and `tests/grids` checks of each:
//!
//! - [`Grid::values`] is decoding's own arithmetic: packing and decoding a unit gives
//!   the same bits.
//! - [`Grid::nearest`] finds the value with the least error under the metric.
//! - values are linear in the unit's parameters, with [`Grid::basis`] as columns.
//! - units that [`Grid::fit`], [`Grid::set_parameters`] and [`Grid::group_steps`]
//!   give can be packed as they are.
//!
//! [`rounding`] encodes and decodes with any grid and no method: integers and the levels
//! of packed layouts, which are no element types, have no other encoder.

mod families;
mod level_grid;
mod levels;
mod packing;
mod polish;
mod quick;
pub mod rounding;
mod search;
mod stored;
mod types;

use qz_tensor::DataType;

pub use families::floats::{
    GivenScales, LevelFormat, affine, given_scales, listed_scales, scaled_levels,
};
pub use families::integer::{IntegerFormat, integers, integers_stored};
pub use stored::StoredNumber;
pub use types::{
    Code, Emphasis, EmphasisRule, FitProblem, GridSpec, GroupIndex, LaneIndex, MOST_GROUPS,
    MOST_PARAMETERS, Metric, ParameterIndex, RowBatch, RowFacts, Rows, Unit, UnitPlace,
    Unrepresentable,
};

/// The values a codec can represent.
pub trait Grid: Send + Sync {
    /// Sizes and names.
    fn spec(&self) -> &GridSpec;

    /// Finds a unit for each row: scales as they will be stored, chosen for rounding
    /// without feedback. Weights are finite. Where a scale would overflow it is the
    /// largest that does not.
    fn fit(&self, problem: &FitProblem<'_>, units: &mut [Unit]);

    /// Rounds one lane of many rows: for each row of `targets` the code with the
    /// least error in its unit, and the values it stands for. The metric is the
    /// lane's own; it cannot matter where lanes are single columns.
    fn nearest(
        &self,
        units: &[Unit],
        lane: LaneIndex,
        targets: Rows<'_>,
        metric: Metric<'_>,
        codes: &mut [Code],
        values: &mut [f32],
    );

    /// Visits codes near `code` with their values: the next lower and higher level,
    /// or codewords and sign patterns a small step away.
    fn neighbours(
        &self,
        unit: &Unit,
        lane: LaneIndex,
        code: Code,
        visit: &mut dyn FnMut(Code, &[f32]),
    );

    /// The linear parameters of a unit, [`GridSpec::parameters`] of them.
    fn parameters<'u>(&self, unit: &'u Unit) -> &'u [f32];

    /// What one parameter is multiplied by in each value: with codes and sub-scales
    /// kept, `values = Σ basis · parameter`.
    fn basis(&self, unit: &Unit, codes: &[Code], parameter: ParameterIndex, column: &mut [f32]);

    /// Replaces the parameters, rounded as they are stored.
    ///
    /// # Errors
    /// If one overflows, or may not have this sign; the unit stays as it was.
    fn set_parameters(&self, parameters: &[f32], unit: &mut Unit) -> Result<(), Unrepresentable>;

    /// Appends the unit with a group's sub-scale, sub-minimum or zero point a step
    /// up or down. Nothing if groups have none.
    fn group_steps(&self, unit: &Unit, group: GroupIndex, out: &mut Vec<Unit>);

    /// Decodes a unit.
    fn values(&self, unit: &Unit, codes: &[Code], out: &mut [f32]);

    /// Packs a unit into [`GridSpec::unit_bytes`] bytes.
    fn pack(&self, unit: &Unit, codes: &[Code], out: &mut [u8]);

    /// Undoes [`Grid::pack`], for any bytes.
    fn unpack(&self, bytes: &[u8], codes: &mut [Code]) -> Unit;
}

/// The grids of element types. Tests and tables walk this list.
pub static GRIDS: &[fn() -> &'static dyn Grid] = &[
    families::k_quants::q2_k,
    families::k_quants::q3_k,
    families::k_quants::q4_k,
    families::k_quants::q5_k,
    families::k_quants::q6_k,
    families::k_quants::iq4_xs,
    families::codebooks::iq3_s,
    families::codebooks::iq3_xxs,
    families::codebooks::iq2_s,
    families::codebooks::iq2_xs,
    families::codebooks::iq2_xxs,
    families::plain::q4_0,
    families::plain::q4_1,
    families::plain::q5_0,
    families::plain::q5_1,
    families::plain::q8_0,
    families::plain::iq4_nl,
    families::float_scaled::mxfp4,
    families::float_scaled::nvfp4,
    families::plain::q1_0,
    families::plain::q2_0,
    families::iq1::iq1_s,
    families::iq1::iq1_m,
];

/// The grid of an element type, if there is one.
pub fn grid_for(data_type: DataType) -> Option<&'static dyn Grid> {
    let grids = GRIDS.iter().map(|grid| grid());
    grids.into_iter().find(|grid| grid.spec().data_type == Some(data_type))
}
