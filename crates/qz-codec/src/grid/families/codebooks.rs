//! The IQ2 and IQ3 types: 256 weights as words of a codebook, scaled by four bits for
//! every 16 or 32.

use std::sync::LazyLock;

use qz_tensor::DataType;

use super::super::level_grid::{Family, weigh};
use super::super::levels::{Line, round_to_half};
use super::super::packing::codebook::{self as packing, CodebookPacking};
use super::super::search::Group;
use super::super::{
    Code, EmphasisRule, FitProblem, Grid, GridSpec, GroupIndex, LaneIndex, Metric, ParameterIndex,
    Rows, Unit, Unrepresentable, polish,
};
use super::codebook::{Choice, Codebook, LANE, Negatives};
use super::sub_scaled::SubScaled;
use crate::block::SUPER_BLOCK;
use crate::words;

/// The scales of a type: odd multiples of `gain` halves of the unit's, exactly, since
/// they have few bits.
const fn scales(gain: f32) -> SubScaled {
    SubScaled { least: 0, most: 15, bias: 0.5, gain, most_offset: None }
}

/// Bits of a word's number in a code.
const NUMBER_BITS: u32 = 10;

struct CodebookGrid<const WORD: usize> {
    spec: GridSpec,
    book: Codebook<WORD>,
    scales: SubScaled,
    packing: CodebookPacking,
}

impl<const WORD: usize> CodebookGrid<WORD> {
    fn line(&self, unit: &Unit, lane: usize) -> Line {
        self.scales.line(unit, lane * LANE / self.spec.group_columns)
    }

    fn lane_values(&self, line: Line, code: Code) -> [f32; LANE] {
        self.book.levels(choice(code)).map(|level| line.value(level as f32))
    }
}

/// The first word, the second, the signs.
fn choice(code: Code) -> Choice {
    let number = |bits: u32| (bits & ((1 << NUMBER_BITS) - 1)) as u16;
    let words = [number(code.0), number(code.0 >> NUMBER_BITS)];
    Choice { words, signs: (code.0 >> (2 * NUMBER_BITS)) as u8 }
}

/// Undoes [`choice`].
fn code(choice: Choice) -> Code {
    let [first, second] = choice.words.map(u32::from);
    Code(first | second << NUMBER_BITS | u32::from(choice.signs) << (2 * NUMBER_BITS))
}

fn square(block: Rows<'_>) -> [[f64; LANE]; LANE] {
    std::array::from_fn(|i| std::array::from_fn(|j| f64::from(block.row(i)[j])))
}

impl<const WORD: usize> Grid for CodebookGrid<WORD> {
    fn spec(&self) -> &GridSpec {
        &self.spec
    }

    fn fit(&self, problem: &FitProblem<'_>, units: &mut [Unit]) {
        let mut weights = vec![0.0; SUPER_BLOCK];
        for (row, unit) in units.iter_mut().enumerate() {
            let values = problem.rows.row(row);
            weigh(&self.spec, problem, row, &mut weights);
            *unit = self.scales.fit_groups(
                &self.book,
                self.spec.group_columns,
                Group { values, weights: &weights },
            );
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
            let group = lane * LANE / self.spec.group_columns;
            let multiplier = self.scales.multiplier(unit.scales[group]);
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
        self.scales.group_steps(unit, group.0, out);
    }

    fn values(&self, unit: &Unit, codes: &[Code], out: &mut [f32]) {
        let lanes = out.as_chunks_mut::<LANE>().0.iter_mut().zip(codes);
        for (lane, (values, code)) in lanes.enumerate() {
            *values = self.lane_values(self.line(unit, lane), *code);
        }
    }

    fn pack(&self, unit: &Unit, codes: &[Code], out: &mut [u8]) {
        let mut choices = [Choice::default(); SUPER_BLOCK / LANE];
        for (choice_of_lane, code) in choices.iter_mut().zip(codes) {
            *choice_of_lane = choice(*code);
        }
        out.fill(0);
        self.packing.pack(unit, &choices, out);
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [Code]) -> Unit {
        let mut choices = [Choice::default(); SUPER_BLOCK / LANE];
        let unit = self.packing.unpack(bytes, &mut choices);
        for (stored, choice) in codes.iter_mut().zip(choices) {
            *stored = code(choice);
        }
        unit
    }
}

fn spec(data_type: DataType, group_columns: usize, factor: f32) -> GridSpec {
    GridSpec {
        name: data_type.name().into(),
        data_type: Some(data_type),
        unit_columns: SUPER_BLOCK,
        group_columns,
        lane_columns: LANE,
        parameters: 1,
        unit_bytes: data_type.block_bytes(),
        emphasis: EmphasisRule { factor, whole_row: false },
    }
}

pub(in super::super) fn iq3_xxs() -> &'static dyn Grid {
    static GRID: LazyLock<CodebookGrid<4>> = LazyLock::new(|| CodebookGrid {
        spec: spec(DataType::IQ3_XXS, 32, 2.0),
        book: Codebook::new(&words::IQ3_XXS_MAGNITUDES, &words::IQ3_XXS, Negatives::Even),
        scales: scales(0.5),
        packing: packing::IQ3_XXS,
    });
    &*GRID
}

pub(in super::super) fn iq3_s() -> &'static dyn Grid {
    static GRID: LazyLock<CodebookGrid<4>> = LazyLock::new(|| CodebookGrid {
        spec: spec(DataType::IQ3_S, 32, 2.0),
        book: Codebook::new(&words::IQ3_S_MAGNITUDES, &words::IQ3_S, Negatives::Free),
        scales: scales(2.0),
        packing: packing::IQ3_S,
    });
    &*GRID
}

pub(in super::super) fn iq2_xxs() -> &'static dyn Grid {
    static GRID: LazyLock<CodebookGrid<8>> = LazyLock::new(|| CodebookGrid {
        spec: spec(DataType::IQ2_XXS, 32, 1.0),
        book: Codebook::new(&words::IQ2_MAGNITUDES, &words::IQ2_XXS, Negatives::Even),
        scales: scales(0.25),
        packing: packing::IQ2_XXS,
    });
    &*GRID
}

pub(in super::super) fn iq2_xs() -> &'static dyn Grid {
    static GRID: LazyLock<CodebookGrid<8>> = LazyLock::new(|| CodebookGrid {
        spec: spec(DataType::IQ2_XS, 16, 1.0),
        book: Codebook::new(&words::IQ2_MAGNITUDES, &words::IQ2_XS, Negatives::Even),
        scales: scales(0.25),
        packing: packing::IQ2_XS,
    });
    &*GRID
}

pub(in super::super) fn iq2_s() -> &'static dyn Grid {
    static GRID: LazyLock<CodebookGrid<8>> = LazyLock::new(|| CodebookGrid {
        spec: spec(DataType::IQ2_S, 16, 2.0),
        book: Codebook::new(&words::IQ2_MAGNITUDES, &words::IQ2_S, Negatives::Free),
        scales: scales(0.25),
        packing: packing::IQ2_S,
    });
    &*GRID
}
