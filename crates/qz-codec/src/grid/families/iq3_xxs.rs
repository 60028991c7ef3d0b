//! IQ3_XXS: 256 weights as words of a codebook, scaled by four bits for every 32.

use std::sync::LazyLock;

use qz_tensor::DataType;

use super::super::level_grid::{Family, weigh};
use super::super::levels::{Line, round_to_half};
use super::super::packing::{parameter, set_parameter};
use super::super::search::Group;
use super::super::{
    Code, EmphasisRule, FitProblem, Grid, GridSpec, GroupIndex, LaneIndex, Metric, ParameterIndex,
    Rows, Unit, Unrepresentable, polish,
};
use super::codebook::{Choice, Codebook, LANE};
use super::sub_scaled::SubScaled;
use crate::block::SUPER_BLOCK;
use crate::words::{IQ3_XXS, IQ3_XXS_MAGNITUDES};

const GROUP: usize = 32;
/// Where the words, and where the signs and scales begin.
const WORD_BYTES: usize = 2;
const SIGN_BYTES: usize = WORD_BYTES + SUPER_BLOCK / 4;

/// A quarter, three quarters, ... of the unit's scale: decoders multiply by
/// `(0.5 + scale) * 0.5`, exactly, since `scale` has few bits.
static SCALES: SubScaled =
    SubScaled { least: 0, most: 15, bias: 0.5, gain: 0.5, most_offset: None };

struct Iq3Xxs {
    spec: GridSpec,
    book: Codebook,
}

impl Iq3Xxs {
    fn line(&self, unit: &Unit, lane: usize) -> Line {
        SCALES.line(unit, lane * LANE / GROUP)
    }

    fn lane_values(&self, line: Line, code: Code) -> [f32; LANE] {
        self.book.levels(choice(code)).map(|level| line.value(level as f32))
    }
}

/// Words in two bytes; seven signs, of which the eighth follows.
fn choice(code: Code) -> Choice {
    let [low, high, signs, _] = code.0.to_le_bytes();
    let eighth = (signs & 0x7f).count_ones() as u8 & 1;
    Choice { words: [low, high], signs: signs & 0x7f | eighth << 7 }
}

/// Undoes [`choice`].
fn code(choice: Choice) -> Code {
    let [low, high] = choice.words;
    Code(u32::from_le_bytes([low, high, choice.signs & 0x7f, 0]))
}

fn square(block: Rows<'_>) -> [[f64; LANE]; LANE] {
    std::array::from_fn(|i| std::array::from_fn(|j| f64::from(block.row(i)[j])))
}

impl Grid for Iq3Xxs {
    fn spec(&self) -> &GridSpec {
        &self.spec
    }

    fn fit(&self, problem: &FitProblem<'_>, units: &mut [Unit]) {
        let mut weights = vec![0.0; SUPER_BLOCK];
        for (row, unit) in units.iter_mut().enumerate() {
            let values = problem.rows.row(row);
            weigh(&self.spec, problem, row, &mut weights);
            *unit = SCALES.fit_groups(&self.book, GROUP, Group { values, weights: &weights });
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
        let weights: [f64; LANE] = std::array::from_fn(|at| f64::from(metric.weight(at)));
        let block = match metric {
            Metric::Diagonal(_) => None,
            Metric::Block(block) => Some(square(block)),
        };
        let rows = targets.iter().zip(units);
        let out = codes.iter_mut().zip(values.as_chunks_mut::<LANE>().0);
        for ((target, unit), (stored, values)) in rows.zip(out) {
            let line = self.line(unit, lane.0);
            let inverse = if line.scale == 0.0 { 0.0 } else { 1.0 / f64::from(line.scale) };
            let target = std::array::from_fn(|at| f64::from(target[at]) * inverse);
            let found = match &block {
                None => self.book.nearest(&target, &weights, true),
                Some(block) => self.book.nearest_in_block(&target, block),
            };
            *stored = code(found);
            *values = self.lane_values(line, *stored);
        }
    }

    fn neighbours(
        &self,
        unit: &Unit,
        lane: LaneIndex,
        from: Code,
        visit: &mut dyn FnMut(Code, &[f32]),
    ) {
        let line = self.line(unit, lane.0);
        self.book.neighbours(choice(from), |near| {
            visit(code(near), &self.lane_values(line, code(near)));
        });
    }

    fn parameters<'u>(&self, unit: &'u Unit) -> &'u [f32] {
        &unit.parameters[..1]
    }

    fn basis(&self, unit: &Unit, codes: &[Code], _parameter: ParameterIndex, column: &mut [f32]) {
        let lanes = column.as_chunks_mut::<LANE>().0.iter_mut().zip(codes);
        for (lane, (factors, code)) in lanes.enumerate() {
            let multiplier = SCALES.multiplier(unit.scales[lane * LANE / GROUP]);
            *factors = self.book.levels(choice(*code)).map(|level| multiplier * level as f32);
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
        SCALES.group_steps(unit, group.0, out);
    }

    fn values(&self, unit: &Unit, codes: &[Code], out: &mut [f32]) {
        let lanes = out.as_chunks_mut::<LANE>().0.iter_mut().zip(codes);
        for (lane, (values, code)) in lanes.enumerate() {
            *values = self.lane_values(self.line(unit, lane), *code);
        }
    }

    fn pack(&self, unit: &Unit, codes: &[Code], out: &mut [u8]) {
        set_parameter(out, 0, unit.parameters[0]);
        for (bytes, code) in out[WORD_BYTES..SIGN_BYTES].chunks_mut(2).zip(codes) {
            bytes.copy_from_slice(&choice(*code).words);
        }
        let groups = out[SIGN_BYTES..].as_chunks_mut::<4>().0.iter_mut();
        for (group, (bytes, codes)) in groups.zip(codes.chunks(GROUP / LANE)).enumerate() {
            let signs = codes.iter().enumerate().fold(0, |word, (position, code)| {
                word | u32::from(choice(*code).signs & 0x7f) << (7 * position)
            });
            *bytes = (signs | (unit.scales[group] as u32 & 15) << 28).to_le_bytes();
        }
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [Code]) -> Unit {
        let mut unit = Unit { parameters: [parameter(bytes, 0), 0.0], ..Unit::default() };
        let groups = bytes[SIGN_BYTES..].as_chunks::<4>().0.iter();
        for (group, (word, codes)) in groups.zip(codes.chunks_mut(GROUP / LANE)).enumerate() {
            let word = u32::from_le_bytes(*word);
            unit.scales[group] = (word >> 28) as i16;
            for (position, code) in codes.iter_mut().enumerate() {
                let at = WORD_BYTES + 2 * (group * GROUP / LANE + position);
                let signs = (word >> (7 * position)) as u8 & 0x7f;
                *code = Code(u32::from_le_bytes([bytes[at], bytes[at + 1], signs, 0]));
            }
        }
        unit
    }
}

static GRID: LazyLock<Iq3Xxs> = LazyLock::new(|| Iq3Xxs {
    spec: GridSpec {
        name: DataType::IQ3_XXS.name().into(),
        data_type: Some(DataType::IQ3_XXS),
        unit_columns: SUPER_BLOCK,
        group_columns: GROUP,
        lane_columns: LANE,
        parameters: 1,
        unit_bytes: DataType::IQ3_XXS.block_bytes(),
        emphasis: EmphasisRule { factor: 2.0, whole_row: false },
    },
    book: Codebook::new(IQ3_XXS_MAGNITUDES, &IQ3_XXS),
});

pub(in super::super) fn iq3_xxs() -> &'static dyn Grid {
    &*GRID
}
