//! Codebooks whose points are four 3-bit levels, and what is near to each place
//! between the points.

/// The levels of four neighbouring values, each below 8.
pub(crate) type Point = [u8; 4];

/// Places there are: four 3-bit levels.
const PLACES: usize = 1 << 12;

/// A codebook, prepared for searches.
pub(crate) struct Codebook {
    /// What the encoder takes the levels of each point for: 1, 3, 5 to 15.
    points: Box<[[f32; 4]]>,
    /// What is at each place.
    places: Box<[Place]>,
    /// The neighbours of all places without a point, one list after the other.
    neighbours: Box<[u16]>,
}

/// What is at a place.
#[derive(Clone, Copy)]
enum Place {
    /// The point with this number.
    Point(u16),
    /// No point; these are its neighbours.
    Between { first: u32, count: u32 },
}

/// A point that was found.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub number: u16,
    /// It lies where the values were rounded to; no neighbour was taken.
    pub exact: bool,
}

/// The levels that a place's number packs, lowest first.
#[inline(always)]
pub(crate) fn levels_of(place: u16) -> Point {
    std::array::from_fn(|position| (place >> (3 * position) & 7) as u8)
}

impl Codebook {
    /// Prepares a codebook, given by the places of its points. The neighbours of a
    /// place are the points at its `distances` shortest distances, nearest first, of
    /// equally near ones the lowest number first (ggml-quants.c, `iq3xs_init_impl`).
    pub(crate) fn new(points: &[u16], distances: usize) -> Self {
        let mut places = vec![None; PLACES];
        for (number, place) in (0..).zip(points) {
            places[usize::from(*place)] = Some(Place::Point(number));
        }
        let mut neighbours = Vec::new();
        let places = (0..).zip(places).map(|(place, point)| {
            point.unwrap_or_else(|| {
                let first = neighbours.len();
                add_neighbours(place, points, distances, &mut neighbours);
                Place::Between { first: first as u32, count: (neighbours.len() - first) as u32 }
            })
        });
        let places = places.collect();
        let odd = |place: &u16| levels_of(*place).map(|level| f32::from(2 * level + 1));
        let points = points.iter().map(odd).collect();
        Self { points, places, neighbours: neighbours.into() }
    }

    /// What a point's levels stand for.
    #[inline(always)]
    pub(crate) fn point(&self, number: u16) -> &[f32; 4] {
        &self.points[usize::from(number)]
    }

    /// The point at the levels, or the neighbour of least weighted squared error, the
    /// first of several (ggml-quants.c, `iq3_find_best_neighbour`). If no error is
    /// below the largest float, where the reference ends the process, it is the
    /// first neighbour.
    #[inline(always)]
    pub(crate) fn find(
        &self,
        levels: Point,
        scale: f32,
        values: &[f32; 4],
        weights: &[f32; 4],
    ) -> Found {
        let [a, b, c, d] = levels.map(usize::from);
        let place = a | b << 3 | c << 6 | d << 9;
        let (first, count) = match self.places[place] {
            Place::Point(number) => return Found { number, exact: true },
            Place::Between { first, count } => (first as usize, count as usize),
        };
        let neighbours = &self.neighbours[first..first + count];
        let (mut best, mut number) = (f32::MAX, neighbours[0]);
        for &neighbour in neighbours {
            let point = self.point(neighbour);
            let mut error = 0.0f32;
            for ((level, value), weight) in point.iter().zip(values).zip(weights) {
                let difference = scale * level - value;
                error += weight * difference * difference;
            }
            if error < best {
                (best, number) = (error, neighbour);
            }
        }
        Found { number, exact: false }
    }
}

/// Appends the neighbours of a place.
fn add_neighbours(place: u16, points: &[u16], distances: usize, neighbours: &mut Vec<u16>) {
    let place = levels_of(place);
    let distance = |point: &u16| {
        let levels = levels_of(*point).into_iter().zip(place);
        levels.map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum::<u32>()
    };
    let from_points: Vec<u32> = points.iter().map(distance).collect();
    // No point is at the place itself.
    let mut last = 0;
    for _ in 0..distances {
        let Some(next) = from_points.iter().copied().filter(|d| *d > last).min() else { break };
        let here = (0..).zip(&from_points).filter(|(_, distance)| **distance == next);
        neighbours.extend(here.map(|(number, _)| number));
        last = next;
    }
}
