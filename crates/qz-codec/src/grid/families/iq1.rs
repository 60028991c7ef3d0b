//! IQ1_S and IQ1_M: eight columns as a word of three levels, all of them shifted up or
//! down by an eighth. In IQ1_S a group of 32 columns has a shift, in IQ1_M each word.

use std::sync::LazyLock;

use qz_tensor::DataType;

use super::super::level_grid::{Family, weigh};
use super::super::levels::round_to_half;
use super::super::search::{Alphabet, Group, RealLine};
use super::super::{
    Code, EmphasisRule, FitProblem, Grid, GridSpec, GroupIndex, LaneIndex, Metric, ParameterIndex,
    Rows, Unit, Unrepresentable, polish,
};
use super::sub_scaled::SubScaled;
use super::three_levels::{LANE, SHIFTS, Word, Words};
use crate::block::{SUPER_BLOCK, half_at, set_half_at};
use crate::number::{f16_from_f32, f32_from_f16};

/// Words of a unit.
const LANES: usize = SUPER_BLOCK / LANE;

/// Once, three times, five times the unit's scale, to fifteen times.
static SCALES: SubScaled = SubScaled { least: 0, most: 7, bias: 0.5, gain: 2.0, most_offset: None };

/// What a word's shift is stored with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ShiftOf {
    /// A group's offset is the number of its shift.
    Group,
    /// It is part of the word's code.
    Word,
}

struct Iq1 {
    spec: GridSpec,
    shift_of: ShiftOf,
    words: &'static Words,
}

impl Iq1 {
    fn group(&self, lane: usize) -> usize {
        lane / self.spec.group_lanes()
    }

    fn word(&self, unit: &Unit, lane: usize, code: Code) -> Word {
        let number = (code.0 & 0x7ff) as u16;
        let shift = match self.shift_of {
            ShiftOf::Group => unit.offsets[self.group(lane)] as usize,
            ShiftOf::Word => (code.0 >> 11) as usize & 1,
        };
        Word { number, shift }
    }

    fn code(&self, word: Word) -> Code {
        let shift = if self.shift_of == ShiftOf::Word { word.shift as u32 } else { 0 };
        Code(u32::from(word.number) | shift << 11)
    }

    fn lane_values(&self, unit: &Unit, lane: usize, word: Word) -> [f32; LANE] {
        let scale = SCALES.scale(unit, self.group(lane));
        self.words.levels(word).map(|level| scale * level as f32)
    }

    /// The shifts that the words of a lane can have.
    fn shifts(&self, unit: &Unit, lane: usize) -> &'static [usize] {
        match self.shift_of {
            ShiftOf::Group => &[[0], [1]][usize::from(unit.offsets[self.group(lane)] != 0)],
            ShiftOf::Word => &[0, 1],
        }
    }

    /// The shift with the least error in each group.
    fn choose_shifts(&self, whole: Group<'_>, unit: &mut Unit) {
        if self.shift_of == ShiftOf::Word {
            return;
        }
        let mut levels = vec![0.0; self.spec.group_columns];
        for (position, group) in whole.split(self.spec.group_columns).enumerate() {
            let scale = f64::from(SCALES.scale(unit, position));
            if scale != 0.0 {
                let line = RealLine { scale, offset: 0.0 };
                let shift = self.round_group(line, group, &mut levels);
                unit.offsets[position] = shift as i16;
            }
        }
    }

    /// Rounds a group with the better of both shifts, which it gives.
    fn round_group(&self, line: RealLine, group: Group<'_>, levels: &mut [f64]) -> usize {
        let mut best = (f64::INFINITY, 0);
        let mut room = vec![0.0; levels.len()];
        for shift in 0..SHIFTS.len() {
            self.words.round(line, group, &[shift], &mut room);
            let error = group.error(line, &room);
            if error < best.0 {
                best = (error, shift);
                levels.copy_from_slice(&room);
            }
        }
        best.1
    }
}

impl Alphabet for Iq1 {
    fn lowest(&self) -> f64 {
        -1.0 + SHIFTS[1]
    }

    fn highest(&self) -> f64 {
        1.0 + SHIFTS[0]
    }

    fn gap(&self) -> f64 {
        1.0
    }

    fn round(&self, line: RealLine, group: Group<'_>, levels: &mut [f64]) {
        match self.shift_of {
            ShiftOf::Word => self.words.round(line, group, &[0, 1], levels),
            ShiftOf::Group => {
                levels.fill(0.0);
                self.round_group(line, group, levels);
            }
        }
    }
}

impl Grid for Iq1 {
    fn spec(&self) -> &GridSpec {
        &self.spec
    }

    fn fit(&self, problem: &FitProblem<'_>, units: &mut [Unit]) {
        let mut weights = vec![0.0; SUPER_BLOCK];
        for (row, unit) in units.iter_mut().enumerate() {
            let values = problem.rows.row(row);
            weigh(&self.spec, problem, row, &mut weights);
            let whole = Group { values, weights: &weights };
            *unit = SCALES.fit_groups(self, self.spec.group_columns, whole);
            self.choose_shifts(whole, unit);
            if let Metric::Block(block) = problem.metric {
                polish::polish(self, values, block, unit);
            }
        }
    }

    fn nearest(
        &self,
        units: &[Unit],
        lane: LaneIndex,
        targets: Rows<'_>,
        metric: Metric<'_>,
        codes: &mut [Code],
        values: &mut [f32],
    ) {
        let rows = targets.iter().zip(units);
        let out = codes.iter_mut().zip(values.as_chunks_mut::<LANE>().0);
        for ((target, unit), (code, values)) in rows.zip(out) {
            let scale = SCALES.scale(unit, self.group(lane.0));
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / f64::from(scale) };
            let target = std::array::from_fn(|at| f64::from(target[at]) * inverse);
            let word = self.words.nearest(&target, metric, self.shifts(unit, lane.0));
            *code = self.code(word);
            *values = self.lane_values(unit, lane.0, word);
        }
    }

    fn neighbours(
        &self,
        unit: &Unit,
        lane: LaneIndex,
        from: Code,
        visit: &mut dyn FnMut(Code, &[f32]),
    ) {
        let word = self.word(unit, lane.0, from);
        let mut show = |word| visit(self.code(word), &self.lane_values(unit, lane.0, word));
        for number in self.words.neighbours(word.number) {
            for &shift in self.shifts(unit, lane.0) {
                show(Word { number, shift });
            }
        }
        if self.shift_of == ShiftOf::Word {
            show(Word { shift: 1 - word.shift, ..word });
        }
    }

    fn parameters<'u>(&self, unit: &'u Unit) -> &'u [f32] {
        &unit.parameters[..1]
    }

    fn basis(&self, unit: &Unit, codes: &[Code], _parameter: ParameterIndex, column: &mut [f32]) {
        let lanes = column.as_chunks_mut::<LANE>().0.iter_mut().zip(codes);
        for (lane, (factors, code)) in lanes.enumerate() {
            let multiplier = SCALES.multiplier(unit.scales[self.group(lane)]);
            let levels = self.words.levels(self.word(unit, lane, *code));
            *factors = levels.map(|level| multiplier * level as f32);
        }
    }

    fn set_parameters(&self, parameters: &[f32], unit: &mut Unit) -> Result<(), Unrepresentable> {
        let rounded = round_to_half(parameters[0]);
        if !rounded.is_finite() {
            return Err(Unrepresentable);
        }
        unit.parameters[0] = rounded;
        Ok(())
    }

    fn group_steps(&self, unit: &Unit, group: GroupIndex, out: &mut Vec<Unit>) {
        let first = out.len();
        SCALES.group_steps(unit, group.0, out);
        if self.shift_of == ShiftOf::Group {
            let mut other = *unit;
            other.offsets[group.0] = 1 - unit.offsets[group.0];
            out.push(other);
            for step in first..out.len() - 1 {
                let mut both = out[step];
                both.offsets[group.0] = other.offsets[group.0];
                out.push(both);
            }
        }
    }

    fn values(&self, unit: &Unit, codes: &[Code], out: &mut [f32]) {
        let lanes = out.as_chunks_mut::<LANE>().0.iter_mut().zip(codes);
        for (lane, (values, code)) in lanes.enumerate() {
            *values = self.lane_values(unit, lane, self.word(unit, lane, *code));
        }
    }

    fn pack(&self, unit: &Unit, codes: &[Code], out: &mut [u8]) {
        match self.shift_of {
            ShiftOf::Group => pack_s(unit, codes, out),
            ShiftOf::Word => pack_m(unit, codes, out),
        }
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [Code]) -> Unit {
        match self.shift_of {
            ShiftOf::Group => unpack_s(bytes, codes),
            ShiftOf::Word => unpack_m(bytes, codes),
        }
    }
}

/// Where IQ1_S keeps the rest of the words' numbers, scales and shifts.
const S_UPPER: usize = 2 + LANES;

fn pack_s(unit: &Unit, codes: &[Code], out: &mut [u8]) {
    set_half_at(out, 0, f16_from_f32(unit.parameters[0]));
    for (byte, code) in out[2..S_UPPER].iter_mut().zip(codes) {
        *byte = code.0 as u8;
    }
    for (group, codes) in codes.chunks(4).enumerate() {
        let mut upper = (unit.scales[group] as u16 & 7) << 12 | (unit.offsets[group] as u16) << 15;
        for (position, code) in codes.iter().enumerate() {
            upper |= (code.0 >> 8 & 7) as u16 * (1 << (3 * position));
        }
        set_half_at(out, S_UPPER + 2 * group, upper);
    }
}

fn unpack_s(bytes: &[u8], codes: &mut [Code]) -> Unit {
    let parameter = f32_from_f16(half_at(bytes, 0));
    let mut unit = Unit { parameters: [parameter, 0.0], ..Unit::default() };
    for (lane, code) in codes.iter_mut().enumerate() {
        let upper = half_at(bytes, S_UPPER + 2 * (lane / 4));
        *code = Code(u32::from(bytes[2 + lane]) | u32::from(upper >> (3 * (lane % 4)) & 7) << 8);
        unit.scales[lane / 4] = (upper >> 12 & 7) as i16;
        unit.offsets[lane / 4] = (upper >> 15) as i16;
    }
    unit
}

/// Where IQ1_M keeps the rest of the words' numbers and their shifts, and the scales.
const M_UPPER: usize = LANES;
const M_SCALES: usize = M_UPPER + LANES / 2;

fn pack_m(unit: &Unit, codes: &[Code], out: &mut [u8]) {
    out.fill(0);
    for (lane, code) in codes.iter().enumerate() {
        out[lane] = code.0 as u8;
        out[M_UPPER + lane / 2] |= ((code.0 >> 8) as u8 & 15) << (4 * (lane % 2));
    }
    let parameter = f16_from_f32(unit.parameters[0]);
    for (part, scales) in unit.scales.as_chunks::<4>().0.iter().enumerate() {
        let mut packed = parameter >> (4 * part) << 12;
        for (position, scale) in scales.iter().enumerate() {
            packed |= (*scale as u16 & 7) << (3 * position);
        }
        set_half_at(out, M_SCALES + 2 * part, packed);
    }
}

fn unpack_m(bytes: &[u8], codes: &mut [Code]) -> Unit {
    for (lane, code) in codes.iter_mut().enumerate() {
        let upper = bytes[M_UPPER + lane / 2] >> (4 * (lane % 2)) & 15;
        *code = Code(u32::from(bytes[lane]) | u32::from(upper) << 8);
    }
    let mut unit = Unit::default();
    let mut parameter = 0;
    for (part, scales) in unit.scales.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let packed = half_at(bytes, M_SCALES + 2 * part);
        parameter |= packed >> 12 << (4 * part);
        for (position, scale) in scales.iter_mut().enumerate() {
            *scale = (packed >> (3 * position) & 7) as i16;
        }
    }
    unit.parameters[0] = f32_from_f16(parameter);
    unit
}

static WORDS: LazyLock<Words> = LazyLock::new(Words::new);

fn grid(data_type: DataType, group_columns: usize, shift_of: ShiftOf) -> Iq1 {
    Iq1 {
        spec: GridSpec {
            name: data_type.name().into(),
            data_type: Some(data_type),
            unit_columns: SUPER_BLOCK,
            group_columns,
            lane_columns: LANE,
            parameters: 1,
            unit_bytes: data_type.block_bytes(),
            emphasis: EmphasisRule { factor: 2.0, whole_row: false },
        },
        shift_of,
        words: &WORDS,
    }
}

static GRID_IQ1_S: LazyLock<Iq1> = LazyLock::new(|| grid(DataType::IQ1_S, 32, ShiftOf::Group));
static GRID_IQ1_M: LazyLock<Iq1> = LazyLock::new(|| grid(DataType::IQ1_M, 16, ShiftOf::Word));

pub(in super::super) fn iq1_s() -> &'static dyn Grid {
    &*GRID_IQ1_S
}

pub(in super::super) fn iq1_m() -> &'static dyn Grid {
    &*GRID_IQ1_M
}
