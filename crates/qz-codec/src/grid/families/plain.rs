//! One scale for the unit in 16 bits, and perhaps one offset: Q8_0 and the types
//! before the K-quants, IQ4_NL, Q1_0 and Q2_0.

use std::sync::LazyLock;

use qz_tensor::DataType;

use super::super::level_grid::{Family, LevelGrid};
use super::super::levels::{Levels, Line};
use super::super::packing::plain::{Consecutive, Halves, Q8Zero};
use super::super::search::{self, Group, RealLine, Signs};
use super::super::stored::StoredNumber;
use super::super::{EmphasisRule, Grid, GridSpec, Unit, UnitPlace};

/// The levels of IQ4_NL and IQ4_XS, denser around zero (ggml-common.h,
/// `kvalues_iq4nl`).
pub(super) const NON_LINEAR: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// One scale, and perhaps one offset, for the whole unit.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Plain {
    /// Whether there is an offset. It is added, not subtracted.
    pub offset: bool,
    /// The signs of a scale; with an offset it is positive.
    pub signs: Signs,
    pub stored: StoredNumber,
}

impl Family for Plain {
    fn line(&self, unit: &Unit, _group: usize) -> Line {
        let offset = if self.offset { -unit.parameters[1] } else { 0.0 };
        Line { scale: unit.parameters[0], shift: 0.0, offset }
    }

    fn coefficient(&self, _unit: &Unit, _group: usize, level: f32, parameter: usize) -> f32 {
        if parameter == 0 { level } else { 1.0 }
    }

    fn allows(&self, parameter: usize, value: f32) -> bool {
        parameter > 0 || self.signs == Signs::Both || value >= 0.0
    }

    fn stored(&self, value: f32) -> f32 {
        self.stored.rounded(value)
    }

    fn group_steps(&self, _unit: &Unit, _group: usize, _out: &mut Vec<Unit>) {}

    fn fit(
        &self,
        levels: &Levels,
        group_columns: usize,
        unit: Group<'_>,
        _place: UnitPlace,
    ) -> Unit {
        let mut room = vec![0.0; group_columns];
        let line = if self.offset {
            search::line(levels, true, unit, &mut room)
        } else {
            RealLine { scale: search::scale(levels, self.signs, unit, &mut room), offset: 0.0 }
        };
        let settled = |value: f64| self.stored.settled(value);
        let (_, line) = search::settle(levels, self.offset, unit, line, &mut room, settled);
        Unit { parameters: [line.scale as f32, -line.offset as f32], ..Unit::default() }
    }
}

fn grid<P>(data_type: DataType, levels: Levels, offset: bool, packing: P) -> LevelGrid<Plain, P> {
    LevelGrid {
        spec: GridSpec {
            name: data_type.name().into(),
            data_type: Some(data_type),
            unit_columns: data_type.block_elements(),
            group_columns: data_type.block_elements(),
            lane_columns: 1,
            parameters: if offset { 2 } else { 1 },
            unit_bytes: data_type.block_bytes(),
            emphasis: EmphasisRule { factor: 1.0, whole_row: true },
        },
        levels,
        family: Plain { offset, signs: Signs::Both, stored: StoredNumber::F16 },
        packing,
    }
}

/// Levels on both sides of zero.
fn scaled(data_type: DataType, bits: u32) -> LevelGrid<Plain, Halves> {
    let half = 1 << (bits - 1);
    let packing = Halves { offset: false, fifth_bit: bits > 4 };
    grid(data_type, Levels::consecutive(-half, 1 << bits), false, packing)
}

/// Levels from zero, and an offset.
fn shifted(data_type: DataType, bits: u32) -> LevelGrid<Plain, Halves> {
    let packing = Halves { offset: true, fifth_bit: bits > 4 };
    grid(data_type, Levels::consecutive(0, 1 << bits), true, packing)
}

type Blocks<P> = LazyLock<LevelGrid<Plain, P>>;

static GRID_Q4_0: Blocks<Halves> = LazyLock::new(|| scaled(DataType::Q4_0, 4));
static GRID_Q4_1: Blocks<Halves> = LazyLock::new(|| shifted(DataType::Q4_1, 4));
static GRID_Q5_0: Blocks<Halves> = LazyLock::new(|| scaled(DataType::Q5_0, 5));
static GRID_Q5_1: Blocks<Halves> = LazyLock::new(|| shifted(DataType::Q5_1, 5));
static GRID_Q8_0: Blocks<Q8Zero> =
    LazyLock::new(|| grid(DataType::Q8_0, Levels::consecutive(-128, 256), false, Q8Zero));
static GRID_IQ4_NL: Blocks<Halves> = LazyLock::new(|| {
    let packing = Halves { offset: false, fifth_bit: false };
    let mut grid = grid(DataType::IQ4_NL, Levels::table(&NON_LINEAR), false, packing);
    grid.spec.emphasis = EmphasisRule { factor: 2.0, whole_row: false };
    grid
});
static GRID_Q1_0: Blocks<Consecutive> =
    LazyLock::new(|| grid(DataType::Q1_0, Levels::table(&[-1, 1]), false, Consecutive { bits: 1 }));
static GRID_Q2_0: Blocks<Consecutive> = LazyLock::new(|| {
    grid(DataType::Q2_0, Levels::consecutive(-1, 4), false, Consecutive { bits: 2 })
});

pub(in super::super) fn q1_0() -> &'static dyn Grid {
    &*GRID_Q1_0
}

pub(in super::super) fn q2_0() -> &'static dyn Grid {
    &*GRID_Q2_0
}

pub(in super::super) fn q4_0() -> &'static dyn Grid {
    &*GRID_Q4_0
}

pub(in super::super) fn q4_1() -> &'static dyn Grid {
    &*GRID_Q4_1
}

pub(in super::super) fn q5_0() -> &'static dyn Grid {
    &*GRID_Q5_0
}

pub(in super::super) fn q5_1() -> &'static dyn Grid {
    &*GRID_Q5_1
}

pub(in super::super) fn q8_0() -> &'static dyn Grid {
    &*GRID_Q8_0
}

pub(in super::super) fn iq4_nl() -> &'static dyn Grid {
    &*GRID_IQ4_NL
}
