//! The search of a sub-block's scale and points: some scales are tried, each with its
//! best points, and the best of them gets points once more.
//!
//! Lanes are tries: neighbouring scales round values to the same few places, so a
//! place's neighbours are looked at once for all of them, and what an error of each
//! level would be is computed once for all places.

use super::{CODE_OFFSET, Codebook, Found, Line, code_of};
use crate::lanes::{LANES, Lanes, Mask};
use crate::number::nearest_integer;

/// The scales to try: those by which the largest value is the highest level, and that
/// plus a step, two steps, up to `count`, and minus.
#[derive(Clone, Copy)]
pub(crate) struct Tries {
    pub count: i8,
    pub step: f32,
}

/// What points are sought for.
#[derive(Clone, Copy)]
pub(crate) struct SubBlock<'a, const LENGTH: usize> {
    /// Magnitudes; negative where a sign is not the value's own.
    pub values: &'a [f32; LENGTH],
    pub weights: &'a [f32; LENGTH],
    /// The weights' roots, by which neighbours are compared.
    pub roots: &'a [f32; LENGTH],
}

impl<const LENGTH: usize> SubBlock<'_, LENGTH> {
    /// The largest value.
    #[inline(always)]
    pub(crate) fn largest(&self) -> f32 {
        let mut largest = self.values[0];
        for &value in self.values {
            largest = if largest > value { largest } else { value };
        }
        largest
    }
}

/// A sub-block's scale and points.
#[derive(Clone, Copy)]
pub(crate) struct PointFit<const POINTS: usize> {
    pub scale: f32,
    pub points: [Found; POINTS],
}

/// Which points are sought again with the scale that came of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Those that are neighbours of the place that values were rounded to.
    Inexact,
    /// All.
    All,
}

impl<const POINTS: usize> PointFit<POINTS> {
    /// The scale's magnitude, and what it does to the signs: their bits are inverted if
    /// it was negative.
    #[inline(always)]
    pub(crate) fn positive_scale(&self) -> (f32, u8) {
        if self.scale < 0.0 { (-self.scale, 0xff) } else { (self.scale, 0) }
    }
}

/// How a sub-block's scale and points are sought.
pub(crate) struct PointSearch {
    /// A sub-block with no larger value is zero.
    pub zero_below: f32,
    pub tries: Tries,
    pub again: Again,
    /// All points, where no try is better than none.
    pub undecided: Found,
}

impl PointSearch {
    /// The fit of a sub-block; none if it is zero.
    #[inline(always)]
    pub(crate) fn fit<
        L: Lanes,
        const DIM: usize,
        const LEVELS: usize,
        const LENGTH: usize,
        const POINTS: usize,
    >(
        &self,
        book: &Codebook<DIM, LEVELS>,
        target: &SubBlock<LENGTH>,
    ) -> Option<PointFit<POINTS>> {
        let largest = target.largest();
        if largest < self.zero_below {
            return None;
        }
        let scale = largest / Codebook::<DIM, LEVELS>::LARGEST;
        let mut fit = PointFit { scale, points: [self.undecided; POINTS] };
        book.try_scales::<L, LENGTH, POINTS>(self.tries, largest, target, &mut fit);
        let mut exact = true;
        for found in &fit.points {
            exact &= found.exact;
        }
        if fit.scale > 0.0 && !exact {
            book.seek_again::<L, LENGTH, POINTS>(self.again, target, &mut fit);
        }
        Some(fit)
    }
}

/// Sixteen tries.
struct Batch<L: Lanes, const POINTS: usize> {
    places: [L; POINTS],
    codes: [L; POINTS],
}

/// For each level of each value its error, with the scale of each lane.
type Errors<L, const DIM: usize, const LEVELS: usize> = [[L; LEVELS]; DIM];

impl<const DIM: usize, const LEVELS: usize> Codebook<DIM, LEVELS> {
    /// What the highest level stands for while encoding.
    pub(crate) const LARGEST: f32 = (2 * Self::TOP + 1) as f32;

    /// Replaces a fit by that of the best try, if one is better than no point at all.
    /// `largest` is what the highest level stands for, of the first scale.
    #[inline(always)]
    pub(crate) fn try_scales<L: Lanes, const LENGTH: usize, const POINTS: usize>(
        &self,
        tries: Tries,
        largest: f32,
        target: &SubBlock<LENGTH>,
        fit: &mut PointFit<POINTS>,
    ) {
        const { assert!(LENGTH == DIM * POINTS) };
        let mut errors = [[L::zero(); LEVELS]; DIM];
        let mut best = 0.0f32;
        let mut first = -tries.count;
        while first <= tries.count {
            let mut numerators = [0.0; LANES];
            for (lane, numerator) in (0..).zip(&mut numerators) {
                let number = (first + lane).min(tries.count);
                *numerator = Self::LARGEST + f32::from(number) * tries.step;
            }
            let inverse = L::load(&numerators) / L::splat(largest);
            let batch: Batch<L, POINTS> = self.points(inverse, target, &mut errors);
            let (sum_xq, sum_q2) = Self::sums_in_lanes(&batch.codes, target);
            if let Some(lane) = best_lane(sum_xq, sum_q2, &mut best, &mut fit.scale) {
                batch.take(lane, &mut fit.points);
            }
            first += LANES as i8;
        }
    }

    /// Seeks points again with the scale that came of them; the scale becomes the one
    /// that comes of the new ones.
    #[inline(always)]
    pub(crate) fn seek_again<L: Lanes, const LENGTH: usize, const POINTS: usize>(
        &self,
        again: Again,
        target: &SubBlock<LENGTH>,
        fit: &mut PointFit<POINTS>,
    ) {
        let inverse = 1.0 / fit.scale;
        let values = target.values.as_chunks::<DIM>().0.iter();
        let inputs = values.zip(target.roots.as_chunks::<DIM>().0);
        for ((values, roots), found) in inputs.zip(&mut fit.points) {
            if found.exact && again == Again::Inexact {
                continue;
            }
            let mut place = 0;
            for (position, value) in values.iter().enumerate() {
                let level = nearest_integer(0.5 * (inverse * value - 1.0));
                let level = level.clamp(0, i32::from(Self::TOP)) as u16;
                place |= level << (Self::BITS * position as u32);
            }
            *found = self.find::<L>(Line::ODD, place, fit.scale, values, roots);
        }
        let (sum_xq, sum_q2) = Self::sums(&fit.points, target);
        if sum_q2 > 0.0 {
            fit.scale = sum_xq / sum_q2;
        }
    }

    /// The points of all values, for levels of each inverse scale.
    #[inline(always)]
    fn points<L: Lanes, const LENGTH: usize, const POINTS: usize>(
        &self,
        inverse: L,
        target: &SubBlock<LENGTH>,
        errors: &mut Errors<L, DIM, LEVELS>,
    ) -> Batch<L, POINTS> {
        let scale = L::splat(1.0) / inverse;
        let mut batch = Batch { places: [scale; POINTS], codes: [scale; POINTS] };
        for position in 0..POINTS {
            let values = &target.values.as_chunks::<DIM>().0[position];
            let roots = &target.roots.as_chunks::<DIM>().0[position];
            let places = Self::places(inverse, values);
            batch.places[position] = places;
            batch.codes[position] = self.nearest_points(places, scale, values, roots, errors);
        }
        batch
    }

    /// The codes of the places that values are rounded to.
    #[inline(always)]
    fn places<L: Lanes>(inverse: L, values: &[f32; DIM]) -> L {
        let top = L::splat(f32::from(Self::TOP));
        let mut codes = L::splat(CODE_OFFSET);
        for (position, value) in values.iter().enumerate() {
            let quotient = inverse * L::splat(*value);
            let level = (L::splat(0.5) * (quotient - L::splat(1.0))).nearest_integer();
            let worth = (1u32 << (Self::BITS * position as u32)) as f32;
            codes = codes + level.min(top).max(L::zero()) * L::splat(worth);
        }
        codes
    }

    /// For each lane the code of the point at its place, or of the best neighbour.
    #[inline(always)]
    fn nearest_points<L: Lanes>(
        &self,
        places: L,
        scale: L,
        values: &[f32; DIM],
        roots: &[f32; DIM],
        errors: &mut Errors<L, DIM, LEVELS>,
    ) -> L {
        let mut codes = places;
        let mut errors_are_known = false;
        let stored = places.store();
        for (lane, &place) in stored.iter().enumerate() {
            if lane > 0 && place == stored[lane - 1] {
                continue;
            }
            let Some((chunks, count)) = self.neighbours(code_of(place)) else { continue };
            if !errors_are_known {
                Self::fill_errors(scale, values, roots, errors);
                errors_are_known = true;
            }
            let found = Self::best_neighbours(&chunks.as_flattened()[..count], errors);
            codes = places.equal(L::splat(place)).select(found, codes);
        }
        codes
    }

    #[inline(always)]
    fn fill_errors<L: Lanes>(
        scale: L,
        values: &[f32; DIM],
        roots: &[f32; DIM],
        errors: &mut Errors<L, DIM, LEVELS>,
    ) {
        for level in 0..=Self::TOP {
            let product = scale * L::splat(f32::from(2 * level + 1));
            for ((value, root), errors) in values.iter().zip(roots).zip(errors.iter_mut()) {
                let difference = product - L::splat(*value);
                errors[usize::from(level)] = L::splat(*root) * difference * difference;
            }
        }
    }

    /// Each lane's first of the neighbours with the least error.
    #[inline(always)]
    fn best_neighbours<L: Lanes>(neighbours: &[f32], errors: &Errors<L, DIM, LEVELS>) -> L {
        let mut best = L::splat(f32::MAX);
        let mut codes = L::splat(neighbours[0]);
        for &neighbour in neighbours {
            let code = neighbour.to_bits();
            let mut sum = errors[0][code as usize & (LEVELS - 1)];
            for (position, errors) in errors.iter().enumerate().skip(1) {
                let level = (code >> (Self::BITS * position as u32)) as usize & (LEVELS - 1);
                sum = sum + errors[level];
            }
            codes = sum.less(best).select(L::splat(neighbour), codes);
            best = sum.min(best);
        }
        codes
    }

    /// Weighted sums of the products of values and levels, and of squared levels.
    #[inline(always)]
    fn sums_in_lanes<L: Lanes, const LENGTH: usize, const POINTS: usize>(
        codes: &[L; POINTS],
        target: &SubBlock<LENGTH>,
    ) -> (L, L) {
        let (mut sum_xq, mut sum_q2) = (L::zero(), L::zero());
        let values = target.values.as_chunks::<DIM>().0.iter();
        for ((values, weights), codes) in values.zip(target.weights.as_chunks::<DIM>().0).zip(codes)
        {
            for (position, (value, weight)) in values.iter().zip(weights).enumerate() {
                let level = Line::ODD.at(Self::level(*codes, position));
                sum_xq = sum_xq + L::splat(weight * value) * level;
                sum_q2 = sum_q2 + L::splat(*weight) * level * level;
            }
        }
        (sum_xq, sum_q2)
    }

    #[inline(always)]
    fn sums<const LENGTH: usize, const POINTS: usize>(
        points: &[Found; POINTS],
        target: &SubBlock<LENGTH>,
    ) -> (f32, f32) {
        let (mut sum_xq, mut sum_q2) = (0.0f32, 0.0f32);
        let values = target.values.as_chunks::<DIM>().0.iter();
        for ((values, weights), found) in
            values.zip(target.weights.as_chunks::<DIM>().0).zip(points)
        {
            let levels = Self::levels(found.code);
            for ((value, weight), level) in values.iter().zip(weights).zip(levels) {
                let level = f32::from(2 * level + 1);
                sum_xq += weight * value * level;
                sum_q2 += weight * level * level;
            }
        }
        (sum_xq, sum_q2)
    }
}

/// The last lane that is better than all before it and than `best`, which becomes its
/// measure; `scale` becomes its scale.
#[inline(always)]
fn best_lane<L: Lanes>(sum_xq: L, sum_q2: L, best: &mut f32, scale: &mut f32) -> Option<usize> {
    let scales = (sum_xq / sum_q2).store();
    let (measures, squares) = (L::load(&scales) * sum_xq, (sum_xq * sum_xq).store());
    let (measures, sum_q2) = (measures.store(), sum_q2.store());
    let mut found = None;
    for lane in 0..LANES {
        if sum_q2[lane] > 0.0 && squares[lane] > *best * sum_q2[lane] {
            (*best, *scale) = (measures[lane], scales[lane]);
            found = Some(lane);
        }
    }
    found
}

impl<L: Lanes, const POINTS: usize> Batch<L, POINTS> {
    #[inline(always)]
    fn take(&self, lane: usize, points: &mut [Found; POINTS]) {
        let codes = self.codes.iter().zip(&self.places);
        for (found, (codes, places)) in points.iter_mut().zip(codes) {
            let (code, place) = (codes.store()[lane], places.store()[lane]);
            *found = Found { code: code_of(code), exact: code == place };
        }
    }
}
