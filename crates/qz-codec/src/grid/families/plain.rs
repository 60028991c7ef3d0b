//! One scale for the unit in 16 bits, and perhaps one offset: Q8_0 and the types
//! before the K-quants.

use std::sync::LazyLock;

use qz_tensor::DataType;

use super::super::level_grid::{Family, LevelGrid, Packing};
use super::super::levels::{Levels, Line, stored_half};
use super::super::packing::plain::Q8Zero;
use super::super::search::{self, Group, Moments, RealLine, Signs};
use super::super::{EmphasisRule, Grid, GridSpec, Unit};

/// One scale, and perhaps one offset, for the whole unit.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Plain {
    /// Whether there is an offset. It is added, not subtracted.
    pub offset: bool,
}

impl Family for Plain {
    fn line(&self, unit: &Unit, _group: usize) -> Line {
        let offset = if self.offset { -unit.parameters[1] } else { 0.0 };
        Line { scale: unit.parameters[0], shift: 0.0, offset }
    }

    fn coefficient(&self, _unit: &Unit, _group: usize, level: f32, parameter: usize) -> f32 {
        if parameter == 0 { level } else { 1.0 }
    }

    fn allows(&self, _parameter: usize, _value: f32) -> bool {
        true
    }

    fn group_steps(&self, _unit: &Unit, _group: usize, _out: &mut Vec<Unit>) {}

    fn fit(&self, levels: &Levels, group_columns: usize, unit: Group<'_>) -> Unit {
        let mut room = vec![0.0; group_columns];
        let mut line = if self.offset {
            search::line(levels, true, unit, &mut room)
        } else {
            RealLine { scale: search::scale(levels, Signs::Both, unit, &mut room), offset: 0.0 }
        };
        let mut best = (f64::INFINITY, Unit::default());
        // Rounding the scale moves levels, and these the best scale.
        for _ in 0..3 {
            let stored = RealLine {
                scale: f64::from(stored_half(line.scale)),
                offset: f64::from(stored_half(line.offset)),
            };
            search::round(levels, stored, unit, &mut room);
            let error = unit.error(stored, &room);
            if error < best.0 {
                let parameters = [stored.scale as f32, -stored.offset as f32];
                best = (error, Unit { parameters, ..Unit::default() });
            }
            let moments = Moments::of(unit, &room);
            let scale = if self.offset { stored.scale } else { moments.scale() };
            let offset = if self.offset { moments.offset(stored.scale) } else { 0.0 };
            line = RealLine { scale, offset };
        }
        best.1
    }
}

fn grid<P: Packing>(
    data_type: DataType,
    levels: Levels,
    offset: bool,
    packing: P,
) -> LevelGrid<Plain, P> {
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
        family: Plain { offset },
        packing,
    }
}

static GRID_Q8_0: LazyLock<LevelGrid<Plain, Q8Zero>> =
    LazyLock::new(|| grid(DataType::Q8_0, Levels::consecutive(-128, 256), false, Q8Zero));

pub(in super::super) fn q8_0() -> &'static dyn Grid {
    &*GRID_Q8_0
}
