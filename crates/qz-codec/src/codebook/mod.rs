//! Codebooks: which combinations of levels neighbouring values may have, and what is
//! near to each combination they may not.
//!
//! A combination is a **place**, a place that values may have is a **point**. The
//! **code** of a place packs its levels, the first value's in the lowest bits: four
//! 3-bit levels, or eight 2-bit levels of which only 0, 1 and 2 occur. Codes are at
//! hand as floats, 2^23 more than the code: the low bits of such a float's pattern are
//! the code, and lanes can compare, select and take them apart as they are.

pub(crate) mod scales;
pub(crate) mod signs;
mod tries;

pub(crate) use tries::{Again, PointFit, PointSearch, SubBlock, Tries};

use crate::lanes::{LANES, Lanes, Mask};

/// What is added to a code to have its bits in a float's pattern: 2^23.
const CODE_OFFSET: f32 = 8_388_608.0;

/// A codebook of `DIM` values to a point with levels of `LEVELS` bit patterns each,
/// prepared for searches.
pub(crate) struct Codebook<const DIM: usize, const LEVELS: usize> {
    /// What is at each place, by code.
    places: Box<[Place]>,
    /// The codes of the neighbours of all places without a point, one list after the
    /// other, each filled up to whole chunks with its first.
    neighbours: Box<[[f32; LANES]]>,
}

/// Points of four 3-bit levels.
pub(crate) type Codebook3 = Codebook<4, 8>;

/// Points of eight 2-bit levels.
pub(crate) type Codebook2 = Codebook<8, 4>;

/// What is at a place.
#[derive(Clone, Copy)]
enum Place {
    /// The point with this number.
    Point(u16),
    /// No point; its neighbours are `count`, in the chunks from `first` on.
    Between { first: u32, count: u16 },
}

/// A point that was found.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub code: u16,
    /// It lies where the values were rounded to; no neighbour was taken.
    pub exact: bool,
}

impl Found {
    /// The point of the lowest levels, which every codebook has.
    pub(crate) const LOWEST: Self = Self { code: 0, exact: true };
}

/// What levels stand for: `first`, `first + step`, ... An encoder's are exact sums.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub first: f32,
    pub step: f32,
}

impl Line {
    /// 1, 3, 5, ...
    pub(crate) const ODD: Self = Self { first: 1.0, step: 2.0 };

    #[inline(always)]
    fn at<L: Lanes>(self, level: L) -> L {
        L::splat(self.step) * level + L::splat(self.first)
    }
}

/// A code as a float.
fn float_of(code: u16) -> f32 {
    CODE_OFFSET + f32::from(code)
}

/// The code of a float.
#[inline(always)]
fn code_of(float: f32) -> u16 {
    float.to_bits() as u16
}

impl<const DIM: usize, const LEVELS: usize> Codebook<DIM, LEVELS> {
    /// Bits of a level.
    const BITS: u32 = LEVELS.trailing_zeros();

    /// The highest level.
    pub(crate) const TOP: u8 = if LEVELS == 4 { 2 } else { LEVELS as u8 - 1 };

    /// Prepares a codebook, given by the codes of its points. The neighbours of a
    /// place are the points at its `distances` shortest distances, nearest first, of
    /// equally near ones the lowest number first (ggml-quants.c, `iq2xs_init_impl`,
    /// `iq3xs_init_impl`).
    pub(crate) fn new(points: &[u16], distances: usize) -> Self {
        let mut places = vec![None; 1 << (Self::BITS * DIM as u32)];
        for (number, code) in (0..).zip(points) {
            places[usize::from(*code)] = Some(Place::Point(number));
        }
        let levels: Vec<[u8; DIM]> = points.iter().map(|code| Self::levels(*code)).collect();
        let mut neighbours = Vec::new();
        let mut distance_of = vec![0; points.len()];
        let places = places.into_iter().enumerate().map(|(code, point)| {
            point.unwrap_or_else(|| {
                let place = Self::levels(code as u16);
                let first = neighbours.len() as u32;
                if place.iter().any(|level| *level > Self::TOP) {
                    return Place::Between { first, count: 0 };
                }
                for (distance, point) in distance_of.iter_mut().zip(&levels) {
                    *distance = squared_distance(&place, point);
                }
                let list = nearest(points, &distance_of, distances);
                neighbours.extend(list.chunks(LANES).map(|chunk| {
                    let mut codes = [float_of(list[0]); LANES];
                    for (float, code) in codes.iter_mut().zip(chunk) {
                        *float = float_of(*code);
                    }
                    codes
                }));
                Place::Between { first, count: list.len() as u16 }
            })
        });
        let places = places.collect();
        Self { places, neighbours: neighbours.into() }
    }

    /// The levels of a code.
    #[inline(always)]
    pub(crate) fn levels(code: u16) -> [u8; DIM] {
        let mut levels = [0; DIM];
        for (position, level) in levels.iter_mut().enumerate() {
            *level = (code >> (Self::BITS * position as u32)) as u8 & (LEVELS as u8 - 1);
        }
        levels
    }

    /// The number of the point with a code; 0 if there is none.
    #[inline(always)]
    pub(crate) fn number(&self, code: u16) -> u16 {
        match self.places[usize::from(code)] {
            Place::Point(number) => number,
            Place::Between { .. } => 0,
        }
    }

    /// The neighbours of a place, filled up to whole chunks, and how many they are;
    /// none if there is a point.
    #[inline(always)]
    fn neighbours(&self, code: u16) -> Option<(&[[f32; LANES]], usize)> {
        match self.places[usize::from(code)] {
            Place::Point(_) => None,
            Place::Between { first, count } => {
                let (first, count) = (first as usize, usize::from(count));
                Some((&self.neighbours[first..first + count.div_ceil(LANES)], count))
            }
        }
    }

    /// The point at a place, or of the place's neighbours the one of least weighted
    /// squared error, the first of several (ggml-quants.c, `iq2_find_best_neighbour`
    /// and its like). If no error is below the largest float, where the reference ends
    /// the process, it is the first neighbour. Lanes are neighbours.
    #[inline(always)]
    pub(crate) fn find<L: Lanes>(
        &self,
        line: Line,
        place: u16,
        scale: f32,
        values: &[f32; DIM],
        weights: &[f32; DIM],
    ) -> Found {
        let Some((chunks, _)) = self.neighbours(place) else {
            return Found { code: place, exact: true };
        };
        let scale = L::splat(scale);
        let (mut best, mut code) = (f32::MAX, 0);
        for (number, chunk) in chunks.iter().enumerate() {
            let codes = L::load(chunk);
            let mut error = L::zero();
            for (position, (value, weight)) in values.iter().zip(weights).enumerate() {
                let level = line.at(Self::level(codes, position));
                let difference = scale * level - L::splat(*value);
                error = error + L::splat(*weight) * difference * difference;
            }
            let bound = L::splat(f32::MAX);
            let (least, lane) = error.less(bound).select(error, bound).first_least();
            if number == 0 || least < best {
                (best, code) = (least, code_of(chunk[lane]));
            }
        }
        Found { code, exact: false }
    }

    /// The level of one position in each code.
    #[inline(always)]
    fn level<L: Lanes>(codes: L, position: usize) -> L {
        codes.pattern_bits(Self::BITS * position as u32, LEVELS as u32 - 1)
    }
}

fn squared_distance<const DIM: usize>(a: &[u8; DIM], b: &[u8; DIM]) -> u16 {
    a.iter().zip(b).map(|(a, b)| u16::from(a.abs_diff(*b)).pow(2)).sum()
}

/// The points at the shortest distances, nearest first.
fn nearest(points: &[u16], distance_of: &[u16], distances: usize) -> Vec<u16> {
    let mut list = Vec::new();
    // No point is at the place itself.
    let mut last = 0;
    for _ in 0..distances {
        let Some(next) = distance_of.iter().copied().filter(|d| *d > last).min() else { break };
        let here = points.iter().zip(distance_of).filter(|(_, distance)| **distance == next);
        list.extend(here.map(|(code, _)| *code));
        last = next;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Portable;
    use crate::words::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};

    /// The least error over all the neighbours, looked at one by one.
    fn plain<const DIM: usize, const LEVELS: usize>(
        book: &Codebook<DIM, LEVELS>,
        place: u16,
        scale: f32,
        values: &[f32; DIM],
    ) -> u16 {
        let Some((chunks, count)) = book.neighbours(place) else { return place };
        let (mut best, mut found) = (f32::MAX, code_of(chunks[0][0]));
        for float in chunks.as_flattened().iter().take(count) {
            let levels = Codebook::<DIM, LEVELS>::levels(code_of(*float));
            let mut error = 0.0f32;
            for (level, value) in levels.iter().zip(values) {
                let difference = scale * f32::from(2 * level + 1) - value;
                error += difference * difference;
            }
            if error < best {
                (best, found) = (error, code_of(*float));
            }
        }
        found
    }

    fn check<const DIM: usize, const LEVELS: usize>(points: &[u16], distances: usize) {
        let book = Codebook::<DIM, LEVELS>::new(points, distances);
        for (number, code) in points.iter().enumerate() {
            assert_eq!(usize::from(book.number(*code)), number);
        }
        let places = 0..book.places.len() as u32;
        for place in places.map(|place| place as u16) {
            let levels = Codebook::<DIM, LEVELS>::levels(place);
            if levels.iter().any(|level| *level > Codebook::<DIM, LEVELS>::TOP) {
                continue;
            }
            // A little off the place, differently for each value and place.
            let offset = |position| f32::from(place.wrapping_mul(2 * position + 7) % 5) * 0.2;
            let values: [f32; DIM] = std::array::from_fn(|position| {
                f32::from(2 * levels[position] + 1) + offset(position as u16) - 0.4
            });
            for scale in [1.0, 0.9, f32::INFINITY] {
                let found = book.find::<Portable>(Line::ODD, place, scale, &values, &[1.0; DIM]);
                let expected = plain(&book, place, scale, &values);
                assert_eq!(found.code, expected, "place {place:#x}, scale {scale}");
                assert_eq!(found.exact, points.contains(&place), "place {place:#x}");
            }
        }
    }

    #[test]
    fn least_errors_in_lanes() {
        check::<4, 8>(&IQ3_XXS, 2);
        check::<4, 8>(&IQ3_S, 3);
        check::<8, 4>(&IQ2_XXS, 2);
        check::<8, 4>(&IQ2_XS, 2);
        check::<8, 4>(&IQ2_S, 1);
    }
}
