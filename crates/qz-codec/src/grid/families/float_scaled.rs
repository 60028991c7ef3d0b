//! MXFP4 and NVFP4: four-bit floats, groups scaled by an eight-bit float. There is
//! no linear parameter; scales come from a list.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use qz_tensor::DataType;

use super::super::level_grid::{Family, LevelGrid};
use super::super::levels::{Levels, Line};
use super::super::packing::float_scaled::FloatScales;
use super::super::search::{self, Group, RealLine, Signs};
use super::super::{EmphasisRule, Grid, GridSpec, Unit, UnitPlace};

/// Twice the values of E2M1 by code; the upper bit is the sign (OCP Microscaling
/// Formats 1.0; ggml-common.h, `kvalues_fp4`).
const DOUBLED_E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The scales that a byte can stand for.
#[derive(Clone, Debug)]
pub(in super::super) struct FloatScaled {
    /// By byte; halved where the levels are doubled.
    scales: Vec<f32>,
    /// The bytes that a fit may choose; their scales ascend, and are not negative.
    first: i16,
    last: i16,
    /// How many bytes around the best scale a fit looks at on each side.
    reach: i16,
}

impl FloatScaled {
    /// Powers of two (ggml-impl.h, `ggml_e8m0_to_fp32_half`, which gives the last
    /// byte, not a number in the standard, a value as well).
    fn e8m0() -> Self {
        let half_power = |byte: u32| match byte {
            0 | 1 => f32::from_bits(0x0020_0000 << byte),
            _ => f32::from_bits((byte - 1) << 23),
        };
        Self { scales: (0..256).map(half_power).collect(), first: 0, last: 254, reach: 2 }
    }

    /// Floats without a sign, with three bits of mantissa (ggml-impl.h,
    /// `ggml_ue4m3_to_fp32`: the standard's NaN is zero there).
    fn e4m3() -> Self {
        let half = |byte: u8| match (byte >> 3 & 15, byte & 7) {
            _ if byte == 0x7f => 0.0,
            (0, mantissa) => f32::from(mantissa) / 1024.0,
            (exponent, mantissa) => {
                let power = f32::from_bits((u32::from(exponent) + 127 - 7 - 1) << 23);
                power * (1.0 + f32::from(mantissa) / 8.0)
            }
        };
        Self::listed((0..=255).map(half).collect(), 0..=0x7e)
    }

    /// Any scales, by byte.
    pub(in super::super) fn listed(scales: Vec<f32>, usable: RangeInclusive<u8>) -> Self {
        let (first, last) = (i16::from(*usable.start()), i16::from(*usable.end()));
        Self { scales, first, last, reach: 5 }
    }

    fn scale(&self, unit: &Unit, group: usize) -> f32 {
        // A unit holds bytes; the fallback is for the compiler.
        self.scales.get(unit.scales[group] as usize).copied().unwrap_or(0.0)
    }

    /// The byte with the least error for a group.
    fn best(&self, levels: &Levels, group: Group<'_>, room: &mut [f64]) -> i16 {
        let ideal = search::scale(levels, Signs::Positive, group, room);
        let usable = &self.scales[self.first as usize..=self.last as usize];
        let below = usable.partition_point(|scale| f64::from(*scale) < ideal);
        let near = self.first + below as i16;
        let mut best = (f64::INFINITY, self.first);
        for byte in (near - self.reach).max(self.first)..=(near + self.reach).min(self.last) {
            let line = RealLine { scale: f64::from(self.scales[byte as usize]), offset: 0.0 };
            search::round(levels, line, group, room);
            let error = group.error(line, room);
            if error < best.0 {
                best = (error, byte);
            }
        }
        best.1
    }
}

impl Family for FloatScaled {
    fn line(&self, unit: &Unit, group: usize) -> Line {
        Line { scale: self.scale(unit, group), shift: 0.0, offset: 0.0 }
    }

    fn coefficient(&self, _unit: &Unit, _group: usize, _level: f32, _parameter: usize) -> f32 {
        0.0
    }

    fn group_steps(&self, unit: &Unit, group: usize, out: &mut Vec<Unit>) {
        for step in [-1, 1] {
            let mut stepped = *unit;
            stepped.scales[group] += step;
            if (self.first..=self.last).contains(&stepped.scales[group]) {
                out.push(stepped);
            }
        }
    }

    fn fit(
        &self,
        levels: &Levels,
        group_columns: usize,
        unit: Group<'_>,
        _place: UnitPlace,
    ) -> Unit {
        let mut room = vec![0.0; group_columns];
        let mut found = Unit::default();
        for (scale, group) in found.scales.iter_mut().zip(unit.split(group_columns)) {
            *scale = self.best(levels, group, &mut room);
        }
        found
    }
}

fn grid(
    data_type: DataType,
    group_columns: usize,
    family: FloatScaled,
) -> LevelGrid<FloatScaled, FloatScales> {
    let unit_columns = data_type.block_elements();
    LevelGrid {
        spec: GridSpec {
            name: data_type.name().into(),
            data_type: Some(data_type),
            unit_columns,
            group_columns,
            lane_columns: 1,
            parameters: 0,
            unit_bytes: data_type.block_bytes(),
            emphasis: EmphasisRule { factor: 1.0, whole_row: true },
        },
        levels: Levels::table(&DOUBLED_E2M1),
        family,
        packing: FloatScales { groups: unit_columns / group_columns },
    }
}

static GRID_MXFP4: LazyLock<LevelGrid<FloatScaled, FloatScales>> =
    LazyLock::new(|| grid(DataType::MXFP4, 32, FloatScaled::e8m0()));
static GRID_NVFP4: LazyLock<LevelGrid<FloatScaled, FloatScales>> =
    LazyLock::new(|| grid(DataType::NVFP4, 16, FloatScaled::e4m3()));

pub(in super::super) fn mxfp4() -> &'static dyn Grid {
    &*GRID_MXFP4
}

pub(in super::super) fn nvfp4() -> &'static dyn Grid {
    &*GRID_NVFP4
}
