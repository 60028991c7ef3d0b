//! Groups of integers with a scale and a zero point, as GPTQ, AWQ and
//! compressed-tensors store them: `value = scale * (code - zero)`.

use super::super::level_grid::{Family, LevelGrid};
use super::super::levels::{Levels, Line, round_to_half, stored_half};
use super::super::packing::integer::Integers;
use super::super::quick::Quick;
use super::super::search::{self, Alphabet, Group, RealLine, Signs};
use super::super::stored::StoredNumber;
use super::super::{EmphasisRule, Grid, GridSpec, Unit, UnitPlace};

/// Which integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntegerFormat {
    /// Bits of a code, 2 to 8.
    pub bits: u8,
    /// Zero is in the middle of the codes, instead of where the group wants it.
    pub symmetric: bool,
    /// Columns of a group; all columns of a row for one scale per channel.
    pub group_columns: usize,
}

/// A zero point for each group, between two bounds.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct ZeroPoint {
    least: i16,
    most: i16,
    /// The highest code.
    top: i16,
    /// A scale, which binary16 holds, as the container's own type holds it.
    stored: StoredNumber,
}

impl ZeroPoint {
    fn of(format: IntegerFormat, least_zero: u8, stored: StoredNumber) -> Self {
        let top = (1 << format.bits) - 1;
        let middle = 1 << (format.bits - 1);
        let (least, most) =
            if format.symmetric { (middle, middle) } else { (i16::from(least_zero), top) };
        Self { least, most, top, stored }
    }

    /// Zero points around the one that divides the group's range.
    fn near(&self, group: Group<'_>) -> std::ops::RangeInclusive<i16> {
        let (low, high) = group.range();
        let span = high - low;
        let exact = if span > 0.0 { -low / span * f64::from(self.top) } else { 0.0 };
        let near = exact.round() as i16;
        (near - 2).clamp(self.least, self.most)..=(near + 2).clamp(self.least, self.most)
    }
}

impl Family for ZeroPoint {
    fn line(&self, unit: &Unit, _group: usize) -> Line {
        Line { scale: unit.parameters[0], shift: f32::from(unit.offsets[0]), offset: 0.0 }
    }

    fn coefficient(&self, unit: &Unit, _group: usize, level: f32, _parameter: usize) -> f32 {
        level - f32::from(unit.offsets[0])
    }

    fn allows(&self, _parameter: usize, value: f32) -> bool {
        value >= 0.0
    }

    fn stored(&self, value: f32) -> f32 {
        round_to_half(self.stored.rounded(value))
    }

    fn group_steps(&self, unit: &Unit, _group: usize, out: &mut Vec<Unit>) {
        for step in [-1, 1] {
            let mut stepped = *unit;
            stepped.offsets[0] += step;
            if (self.least..=self.most).contains(&stepped.offsets[0]) {
                out.push(stepped);
            }
        }
    }

    fn fit(
        &self,
        _levels: &Levels,
        group_columns: usize,
        unit: Group<'_>,
        _place: UnitPlace,
    ) -> Unit {
        let mut room = vec![0.0; group_columns];
        let mut best = (f64::INFINITY, Unit::default());
        let mut quick = None;
        for zero in self.near(unit) {
            let [lowest, highest] = [-zero, self.top - zero].map(f64::from);
            let levels = search::Integers { lowest, highest };
            match (&mut quick, levels.span()) {
                (Some(quick), Some(span)) => Quick::set_span(quick, span),
                (none, span) => *none = span.and_then(|span| Quick::new(span, unit)),
            }
            let scale =
                search::scale_with(&levels, Signs::Positive, unit, quick.as_ref(), &mut room);
            let line = RealLine { scale, offset: 0.0 };
            // Rounded to the container's type, then to what binary16 holds of that.
            let positive = |scale: f64| {
                stored_half(f64::from(self.stored.rounded(stored_half(scale) as f32))).max(0.0)
            };
            let (error, line) = search::settle(&levels, false, unit, line, &mut room, positive);
            if error < best.0 {
                best = (error, Unit { parameters: [line.scale as f32, 0.0], ..Unit::default() });
                best.1.offsets[0] = zero;
            }
        }
        best.1
    }
}

/// The grid of integer groups. It packs each group to its codes, a scale and a zero
/// point; no element type is like that.
///
/// # Panics
/// If the bits are not 2 to 8, or a group has no columns.
pub fn integers(format: IntegerFormat) -> impl Grid {
    integers_stored(format, 0, StoredNumber::F16)
}

/// The same for a container that stores no zero point below `least_zero`, and scales in
/// another type: those of its numbers that binary16 holds.
///
/// # Panics
/// As [`integers`].
pub fn integers_stored(format: IntegerFormat, least_zero: u8, stored: StoredNumber) -> impl Grid {
    let IntegerFormat { bits, symmetric, group_columns } = format;
    assert!((2..=8).contains(&bits) && group_columns > 0, "no such integers: {format:?}");
    let packing = Integers { bits: usize::from(bits) };
    let kind = if symmetric { "sym" } else { "asym" };
    LevelGrid {
        spec: GridSpec {
            name: format!("int{bits} {kind} {group_columns}").into(),
            data_type: None,
            unit_columns: group_columns,
            group_columns,
            lane_columns: 1,
            parameters: 1,
            unit_bytes: packing.unit_bytes(group_columns),
            emphasis: EmphasisRule { factor: 1.0, whole_row: true },
        },
        levels: Levels::consecutive(0, 1 << bits),
        family: ZeroPoint::of(format, least_zero, stored),
        packing,
    }
}
