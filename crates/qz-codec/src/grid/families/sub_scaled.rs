//! Groups whose scale is an integer times the unit's own scale, and whose offset,
//! if there is one, an integer times the unit's own offset.
//!
//! The fit does what the reference's two-level search does, in three ways better:
//! a stored scale is chosen by what it costs (the curvature of the group's error,
//! not the sum of its weights), scale and offset together, and the unit's own scale
//! and offset are solved for again after the integers are chosen.

use std::rc::Rc;

use super::super::level_grid::Family;
use super::super::levels::{Levels, Line, stored_half};
use super::super::quick::Quick;
use super::super::search::{self, Alphabet, Group, Moments, RealLine, Signs};
use super::super::{Unit, UnitPlace};

/// Integers that scale a group, and how.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct SubScaled {
    /// The least integer for a scale.
    pub least: i16,
    /// The greatest integer for a scale.
    pub most: i16,
    /// Added to the integer, before ...
    pub bias: f32,
    /// ... it is multiplied by this.
    pub gain: f32,
    /// The greatest integer for an offset; none if lines go through zero.
    pub most_offset: Option<i16>,
}

impl SubScaled {
    /// Scales from 0, without offset.
    pub(in super::super) const fn unsigned(most: i16) -> Self {
        Self { least: 0, most, bias: 0.0, gain: 1.0, most_offset: None }
    }

    /// Scales and offsets from 0.
    pub(in super::super) const fn with_offset(most: i16) -> Self {
        Self { most_offset: Some(most), ..Self::unsigned(most) }
    }

    /// Scales of both signs.
    pub(in super::super) const fn signed(least: i16, most: i16) -> Self {
        Self { least, ..Self::unsigned(most) }
    }

    #[inline(always)]
    pub(in super::super) fn multiplier(&self, scale: i16) -> f32 {
        (f32::from(scale) + self.bias) * self.gain
    }

    pub(in super::super) fn scale(&self, unit: &Unit, group: usize) -> f32 {
        unit.parameters[0] * self.multiplier(unit.scales[group])
    }

    /// The integer whose multiple of `step` is nearest to `scale`.
    fn integer(&self, scale: f64, step: f64) -> i16 {
        let exact = scale / step / f64::from(self.gain) - f64::from(self.bias);
        let bounded = exact.clamp(f64::from(self.least), f64::from(self.most));
        if bounded.is_nan() { self.least.max(0) } else { bounded.round() as i16 }
    }

    /// The multipliers at both ends of the scales.
    fn ends(&self) -> (f64, f64) {
        (f64::from(self.multiplier(self.least)), f64::from(self.multiplier(self.most)))
    }
}

impl Family for SubScaled {
    fn line(&self, unit: &Unit, group: usize) -> Line {
        let offset = match self.most_offset {
            Some(_) => unit.parameters[1] * f32::from(unit.offsets[group]),
            None => 0.0,
        };
        Line { scale: self.scale(unit, group), shift: 0.0, offset }
    }

    fn coefficient(&self, unit: &Unit, group: usize, level: f32, parameter: usize) -> f32 {
        match parameter {
            0 => self.multiplier(unit.scales[group]) * level,
            _ => -f32::from(unit.offsets[group]),
        }
    }

    fn group_steps(&self, unit: &Unit, group: usize, out: &mut Vec<Unit>) {
        let scale_steps = if self.least < self.most { -1..=1 } else { 0..=0 };
        let offset_steps = if self.most_offset.is_some() { -1..=1 } else { 0..=0 };
        for scale in scale_steps {
            for offset in offset_steps.clone() {
                let mut stepped = *unit;
                stepped.scales[group] += scale;
                stepped.offsets[group] += offset;
                let fits = (self.least..=self.most).contains(&stepped.scales[group])
                    && (0..=self.most_offset.unwrap_or(0)).contains(&stepped.offsets[group]);
                if fits && (scale, offset) != (0, 0) {
                    out.push(stepped);
                }
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
        self.fit_groups(levels, group_columns, unit)
    }
}

/// A group during the fit, and what is known of it with its present levels.
#[derive(Clone)]
struct Part<'a> {
    group: Group<'a>,
    moments: Moments,
    quick: Option<Rc<Quick>>,
}

/// A unit tried, and its error.
struct Trial {
    unit: Unit,
    error: f64,
}

impl SubScaled {
    /// The fit, for any alphabet.
    pub(in super::super) fn fit_groups(
        &self,
        alphabet: &dyn Alphabet,
        group_columns: usize,
        unit: Group<'_>,
    ) -> Unit {
        let mut levels = vec![0.0; group_columns];
        let parts: Vec<Part<'_>> = unit
            .split(group_columns)
            .map(|group| self.first_level(alphabet, group, &mut levels))
            .collect();
        let zero = RealLine::default();
        let error = parts.iter().map(|part| part.group.error(zero, &levels)).sum();
        let mut best = Trial { unit: Unit::default(), error };
        for (step, offset_step) in self.starts(&parts) {
            let mut parts = parts.clone();
            self.descend(alphabet, (step, offset_step), &mut parts, &mut levels, &mut best);
        }
        best.unit
    }

    /// A group alone, as if its line could be stored as it is.
    fn first_level<'a>(
        &self,
        alphabet: &dyn Alphabet,
        group: Group<'a>,
        levels: &mut [f64],
    ) -> Part<'a> {
        let quick = alphabet.span().and_then(|span| Quick::new(span, group));
        let line = match self.most_offset {
            Some(_) => search::line_with(alphabet, false, group, quick.as_ref(), levels),
            None => {
                let signs = if self.least < 0 { Signs::Both } else { Signs::Positive };
                let scale = search::scale_with(alphabet, signs, group, quick.as_ref(), levels);
                RealLine { scale, offset: 0.0 }
            }
        };
        let mut part = Part { group, moments: Moments::default(), quick: quick.map(Rc::new) };
        part.measure(line, alphabet, levels);
        part
    }

    /// The best line for a group's levels.
    fn ideal(&self, part: &Part<'_>) -> RealLine {
        match self.most_offset {
            Some(_) => part.moments.line(false),
            None => RealLine { scale: part.moments.scale(), offset: 0.0 },
        }
    }

    /// Unit scales and offsets to start from, the best by the groups' curvature for
    /// each sign.
    fn starts(&self, parts: &[Part<'_>]) -> Vec<(f64, f64)> {
        let offset_step = match self.most_offset {
            Some(most) => {
                let pairs: Vec<_> =
                    parts.iter().map(|part| (self.ideal(part).offset, part.moments.w)).collect();
                let ends = (0.0, f64::from(most));
                best_step(&pairs, ends, |offset, step| {
                    (offset / step).round().clamp(0.0, f64::from(most))
                })
                .first()
                .map_or(0.0, |(_, step)| *step)
            }
            None => 0.0,
        };
        let pairs: Vec<_> =
            parts.iter().map(|part| (self.ideal(part).scale, part.moments.ll)).collect();
        let mut steps = best_step(&pairs, self.ends(), |scale, step| {
            f64::from(self.multiplier(self.integer(scale, step)))
        });
        // A second start costs as much as the first; only coarse scales profit.
        steps.truncate(if self.most < 128 { 2 } else { 1 });
        if steps.is_empty() {
            steps.push((0.0, 0.0));
        }
        steps.into_iter().map(|(_, step)| (step, offset_step)).collect()
    }

    /// From unit scale and offset: integers for each group, then the best scale and
    /// offset for these, and so on.
    fn descend(
        &self,
        alphabet: &dyn Alphabet,
        (mut step, mut offset_step): (f64, f64),
        parts: &mut [Part<'_>],
        levels: &mut [f64],
        best: &mut Trial,
    ) {
        for _ in 0..3 {
            let stored = [stored_half(step), stored_half(offset_step)];
            let parameters = stored.map(|value| value as f32);
            let mut unit = Unit { parameters, ..Unit::default() };
            let mut error = 0.0;
            for (position, part) in parts.iter_mut().enumerate() {
                error += self.choose(alphabet, &mut unit, position, part, levels);
            }
            if error < best.error {
                *best = Trial { unit, error };
            } else if error >= best.error * 1.05 {
                return;
            }
            let solved = self.solve(&unit, parts);
            if solved == (stored[0], stored[1]) {
                return;
            }
            (step, offset_step) = solved;
        }
    }

    /// A group's integers with the least error, among those around the best line.
    /// Leaves the part with the line and levels that are stored.
    fn choose(
        &self,
        alphabet: &dyn Alphabet,
        unit: &mut Unit,
        position: usize,
        part: &mut Part<'_>,
        levels: &mut [f64],
    ) -> f64 {
        let [step, offset_step] = unit.parameters.map(f64::from);
        let near = self.integer(self.ideal(part).scale, step);
        let mut best: Option<(f64, Unit)> = None;
        for scale in near.saturating_sub(1).max(self.least)..=near.saturating_add(1).min(self.most)
        {
            let offset = part.moments.offset(step * f64::from(self.multiplier(scale)));
            for offset in self.offsets_near(offset, offset_step) {
                unit.scales[position] = scale;
                unit.offsets[position] = offset;
                let error = part.error(self.real_line(unit, position), alphabet, levels);
                if best.as_ref().is_none_or(|(least, _)| error < *least) {
                    best = Some((error, *unit));
                }
            }
        }
        if let Some((_, chosen)) = best {
            *unit = chosen;
        }
        let line = self.real_line(unit, position);
        part.measure(line, alphabet, levels);
        part.group.error(line, levels)
    }

    /// Integers whose multiple of `step` is near `offset`; zero if the step is.
    fn offsets_near(&self, offset: f64, step: f64) -> std::ops::RangeInclusive<i16> {
        match self.most_offset {
            Some(most) if step != 0.0 => {
                let near = (offset / step).clamp(0.0, f64::from(most)).round() as i16;
                (near - 1).max(0)..=(near + 1).min(most)
            }
            _ => 0..=0,
        }
    }

    fn real_line(&self, unit: &Unit, group: usize) -> RealLine {
        let line = self.line(unit, group);
        RealLine { scale: f64::from(line.scale), offset: f64::from(line.offset) }
    }

    /// The unit scale and offset with the least error for the integers and levels as
    /// they are.
    fn solve(&self, unit: &Unit, parts: &[Part<'_>]) -> (f64, f64) {
        let (mut ss, mut so, mut oo, mut sx, mut ox) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (position, part) in parts.iter().enumerate() {
            let scale = f64::from(self.multiplier(unit.scales[position]));
            let offset = f64::from(unit.offsets[position]);
            ss += scale * scale * part.moments.ll;
            so -= scale * offset * part.moments.l;
            oo += offset * offset * part.moments.w;
            sx += scale * part.moments.xl;
            ox -= offset * part.moments.x;
        }
        let determinant = ss * oo - so * so;
        if determinant > 1e-9 * ss * oo {
            ((oo * sx - so * ox) / determinant, (ss * ox - so * sx) / determinant)
        } else if ss > 0.0 {
            ((sx - so * f64::from(unit.parameters[1])) / ss, f64::from(unit.parameters[1]))
        } else {
            (f64::from(unit.parameters[0]), if oo > 0.0 { ox / oo } else { 0.0 })
        }
    }
}

impl Part<'_> {
    fn measure(&mut self, line: RealLine, alphabet: &dyn Alphabet, levels: &mut [f64]) {
        search::round(alphabet, line, self.group, levels);
        self.moments = Moments::of(self.group, levels);
    }

    /// An error to compare with others of this part.
    fn error(&self, line: RealLine, alphabet: &dyn Alphabet, levels: &mut [f64]) -> f64 {
        if let Some(quick) = &self.quick {
            return quick.error(line);
        }
        search::round(alphabet, line, self.group, levels);
        self.group.error(line, levels)
    }
}

/// Steps with which `multiple(value, step) * step` come near the values, the best
/// first; one for each sign that reaches the value of largest magnitude. `values`
/// have curvatures beside them.
fn best_step(
    values: &[(f64, f64)],
    ends: (f64, f64),
    multiple: impl Fn(f64, f64) -> f64,
) -> Vec<(f64, f64)> {
    let values_only = values.iter().map(|(value, _)| *value);
    let extreme = values_only.max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
    let mut found = Vec::new();
    for end in [ends.0, ends.1] {
        // Without negative multiples only the largest one is an end.
        let reaches = extreme != 0.0 && (ends.0 < 0.0 || (end == ends.1 && extreme > 0.0));
        if !reaches {
            continue;
        }
        let tried = (-6..=6)
            .map(|number| extreme / (end * (1.0 + 0.1 * f64::from(number) / end.abs().max(1.0))));
        let scored = tried.map(|start| {
            let refined = refine_step(values, start, &multiple);
            (step_error(values, refined, &multiple), refined)
        });
        found.extend(scored.min_by(|a, b| a.0.total_cmp(&b.0)));
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found
}

/// The best step for the multiples that a step gives.
fn refine_step(values: &[(f64, f64)], step: f64, multiple: &impl Fn(f64, f64) -> f64) -> f64 {
    let (mut products, mut squares) = (0.0, 0.0);
    for (value, curvature) in values {
        let multiple = multiple(*value, step);
        products += curvature * value * multiple;
        squares += curvature * multiple * multiple;
    }
    if squares > 0.0 && products != 0.0 { products / squares } else { step }
}

fn step_error(values: &[(f64, f64)], step: f64, multiple: &impl Fn(f64, f64) -> f64) -> f64 {
    values.iter().fold(0.0, |sum, (value, curvature)| {
        let difference = value - step * multiple(*value, step);
        sum + curvature * difference * difference
    })
}
