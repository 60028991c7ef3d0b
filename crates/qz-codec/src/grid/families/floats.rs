//! Any levels, with scales that containers other than GGUF have: one number for each unit
//! (NF4, FP8 by rows), a scale and an offset (MLX), one of a list for each group (NVFP4,
//! NF4 with scales rounded a second time), or one that is given (FP8 by tensors and blocks).

use std::ops::RangeInclusive;

use super::super::level_grid::{Family, LevelGrid};
use super::super::levels::{Levels, Line};
use super::super::packing::dense::{Dense, ListedScale};
use super::super::search::{Group, Signs};
use super::super::stored::StoredNumber;
use super::super::{EmphasisRule, Grid, GridSpec, Unit, UnitPlace};
use super::float_scaled::FloatScaled;
use super::plain::Plain;

/// Levels, and the columns that share a scale.
#[derive(Clone, Copy, Debug)]
pub struct LevelFormat<'a> {
    /// As people call it.
    pub name: &'a str,
    /// The levels by code: 16, 64 or 256 of them. Codes of what is no number are not chosen.
    pub levels: &'a [f32],
    /// Columns of a unit.
    pub unit_columns: usize,
}

impl LevelFormat<'_> {
    /// Bits of a code.
    ///
    /// # Panics
    /// If there are not so many levels.
    fn bits(&self) -> usize {
        match self.levels.len() {
            16 => 4,
            64 => 6,
            256 => 8,
            count => panic!("{count} levels"),
        }
    }

    fn spec(&self, parameters: usize, unit_bytes: usize) -> GridSpec {
        spec(self.name, self.unit_columns, parameters, unit_bytes)
    }
}

fn spec(name: &str, columns: usize, parameters: usize, unit_bytes: usize) -> GridSpec {
    GridSpec {
        name: name.to_owned().into(),
        data_type: None,
        unit_columns: columns,
        group_columns: columns,
        lane_columns: 1,
        parameters,
        unit_bytes,
        emphasis: EmphasisRule { factor: 1.0, whole_row: true },
    }
}

/// `value = scale · level`, a positive scale for each unit, stored as `scale` says.
///
/// # Panics
/// If there are not 16, 64 or 256 levels.
pub fn scaled_levels(format: LevelFormat<'_>, scale: StoredNumber) -> impl Grid + use<> {
    let packing = Dense { bits: format.bits(), scale, offset: false };
    LevelGrid {
        spec: format.spec(1, packing.unit_bytes(format.unit_columns)),
        levels: Levels::floats(format.levels),
        family: Plain { offset: false, signs: Signs::Positive, stored: scale },
        packing,
    }
}

/// `value = scale · code + offset` with codes of 2 to 8 bits, both numbers stored as
/// `stored` says.
///
/// # Panics
/// If the bits are not 2 to 8, or a group has no columns.
pub fn affine(bits: u8, group_columns: usize, stored: StoredNumber) -> impl Grid + use<> {
    assert!((2..=8).contains(&bits) && group_columns > 0, "no such integers: {bits}");
    let packing = Dense { bits: usize::from(bits), scale: stored, offset: true };
    let name = format!("affine{bits} {group_columns}");
    LevelGrid {
        spec: spec(&name, group_columns, 2, packing.unit_bytes(group_columns)),
        levels: Levels::consecutive(0, 1 << bits),
        family: Plain { offset: true, signs: Signs::Positive, stored },
        packing,
    }
}

/// `value = scale · level`, each unit's scale one of 256 by a byte: those of `usable`
/// ascend and are not negative, and only they are chosen.
///
/// # Panics
/// If there are not 16, 64 or 256 levels, or not 256 scales.
pub fn listed_scales(
    format: LevelFormat<'_>,
    scales: Vec<f32>,
    usable: RangeInclusive<u8>,
) -> impl Grid + use<> {
    assert_eq!(scales.len(), 256, "a scale for each byte");
    let packing = ListedScale { bits: format.bits() };
    LevelGrid {
        spec: format.spec(0, packing.unit_bytes(format.unit_columns)),
        levels: Levels::floats(format.levels),
        family: FloatScaled::listed(scales, usable),
        packing,
    }
}

/// Scales that are given: one for each rectangle of a matrix, the last of a row or column
/// being smaller where they do not divide it.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenScales {
    /// Rectangle by rectangle, those beside each other first.
    pub scales: Vec<f32>,
    /// Rows of a rectangle.
    pub rows: usize,
    /// Columns of a rectangle.
    pub columns: usize,
    /// Rectangles beside each other.
    pub across: usize,
}

/// [`GivenScales`], and how wide units are, which none of them crosses.
#[derive(Clone, Debug)]
struct Given {
    scales: GivenScales,
    unit_columns: usize,
}

impl Family for Given {
    fn line(&self, unit: &Unit, _group: usize) -> Line {
        Line { scale: unit.parameters[0], shift: 0.0, offset: 0.0 }
    }

    fn coefficient(&self, _unit: &Unit, _group: usize, _level: f32, _parameter: usize) -> f32 {
        0.0
    }

    fn group_steps(&self, _unit: &Unit, _group: usize, _out: &mut Vec<Unit>) {}

    /// Whatever the weights.
    fn fit(&self, _levels: &Levels, _group: usize, _unit: Group<'_>, place: UnitPlace) -> Unit {
        let GivenScales { scales, rows, columns, across } = &self.scales;
        let beside = place.unit * self.unit_columns / columns;
        // Every place of the matrix has a scale; the fallback is for the compiler.
        let scale = scales.get(place.row / rows * across + beside).copied().unwrap_or(0.0);
        Unit { parameters: [scale, 0.0], ..Unit::default() }
    }
}

/// `value = scale · level`, with scales that several rows share, and that no method
/// changes. A unit is so many columns that none has two scales.
///
/// # Panics
/// If there are not 16, 64 or 256 levels, or units cross rectangles.
pub fn given_scales(format: LevelFormat<'_>, scales: GivenScales) -> impl Grid + use<> {
    let crosses = !scales.columns.is_multiple_of(format.unit_columns);
    assert!(!crosses && scales.rows > 0, "units cross rectangles");
    let packing = Dense { bits: format.bits(), scale: StoredNumber::F32, offset: false };
    LevelGrid {
        spec: format.spec(0, packing.unit_bytes(format.unit_columns)),
        levels: Levels::floats(format.levels),
        family: Given { scales, unit_columns: format.unit_columns },
        packing,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Code, Rows, rounding};
    use super::*;

    #[test]
    fn scales_are_those_of_the_place() {
        let levels: Vec<f32> = (0..16).map(|code| code as f32 - 8.0).collect();
        let format = LevelFormat { name: "given", levels: &levels, unit_columns: 2 };
        let scales =
            GivenScales { scales: vec![1.0, 10.0, 100.0, 1000.0], rows: 2, columns: 4, across: 2 };
        let grid = given_scales(format, scales);
        let weights = [3.0f32; 3 * 6];
        let check = |first_row: usize, count: usize, expected: &[f32]| {
            let rows = Rows::dense(&weights[..count * 6], 6);
            let batch = rounding::round(&grid, rows, first_row, &[1.0; 6]);
            let found: Vec<f32> = (0..count).flat_map(|row| batch.values(row).to_vec()).collect();
            assert_eq!(found, expected);
        };
        let (upper, lower) = ([3.0, 3.0, 3.0, 3.0, 0.0, 0.0], [0.0; 6]);
        check(0, 3, &[upper, upper, lower].concat());
        check(1, 1, &upper);
        check(2, 1, &lower);
    }

    #[test]
    fn what_is_no_number_is_not_chosen() {
        let mut levels = vec![0.0; 256];
        for (code, level) in levels.iter_mut().enumerate() {
            *level = if code == 255 { f32::NAN } else { code as f32 };
        }
        let format = LevelFormat { name: "with a gap", levels: &levels, unit_columns: 4 };
        let grid = scaled_levels(format, StoredNumber::F32);
        let weights = [254.0, 1e9, -1.0, 0.0];
        let batch = rounding::round(&grid, Rows::dense(&weights, 4), 0, &[1.0; 4]);
        assert!(batch.codes(0).iter().all(|code| *code != Code(255)), "{:?}", batch.codes(0));
    }
}
