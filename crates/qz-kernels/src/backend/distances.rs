//! What attention adds to scores by how far keys are.

/// What is added to a score by how far its key is from the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distances {
    /// Nothing.
    None,
    /// The distance times a slope of each head's, downwards (ALiBi, arXiv 2108.12409). Slopes of
    /// heads are powers of two that fall evenly, to the power of less than this.
    Slopes {
        /// So much.
        least: f32,
    },
    /// A learned number of each head for each of so many ranges of distances, half of them for
    /// either side where a query sees both: some of one distance, then longer and longer ones
    /// (T5, arXiv 1910.10683).
    Ranges {
        /// Ranges.
        count: usize,
    },
}

/// The distance from which on all are in the last of [`Distances::Ranges`].
const FARTHEST: f64 = 128.0;

impl Distances {
    /// The slope of one of so many heads (`ggml_compute_forward_soft_max_f32` in ggml).
    pub(super) fn slope(least: f32, head: usize, heads: usize) -> f32 {
        // The largest power of two that is not more than all heads.
        let even = 1usize << heads.max(1).ilog2();
        let base = libm::exp2f(-least / even as f32);
        match head < even {
            true => base.powi(head as i32 + 1),
            false => libm::exp2f(-least / 2.0 / even as f32).powi(2 * (head - even) as i32 + 1),
        }
    }

    /// The range of a distance (`_relative_position_bucket` in transformers' modeling_t5.py).
    pub(super) fn range(count: usize, both_sides: bool, query: usize, key: usize) -> usize {
        let (count, first) = match both_sides {
            true => (count / 2, if key > query { count / 2 } else { 0 }),
            false => (count, 0),
        };
        let (exact, distance) = (count / 2, key.abs_diff(query));
        if distance < exact {
            return first + distance;
        }
        let all = libm::log(FARTHEST / exact as f64) as f32;
        let along = libm::logf(distance as f32 / exact as f32) / all * (count - exact) as f32;
        first + (exact + along as usize).min(count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Distances;

    #[test]
    fn slopes_of_heads() {
        let slope = |head: usize, heads: usize| Distances::slope(8.0, head, heads);
        assert_eq!([slope(0, 8), slope(1, 8), slope(7, 8)], [0.5, 0.25, 1.0 / 256.0]);
        // Those past a power of two stand between the others.
        let odd = [slope(0, 6), slope(3, 6), slope(4, 6), slope(5, 6)];
        assert_eq!(odd, [0.25, 1.0 / 256.0, 0.5, 0.125]);
    }

    /// transformers' `_relative_position_bucket` of 32 ranges.
    #[test]
    fn ranges_of_distances() {
        let both = |key: usize| Distances::range(32, true, 200, key);
        assert_eq!([both(200), both(199), both(193), both(192), both(0)], [0, 1, 7, 8, 15]);
        assert_eq!([both(201), both(207), both(208), both(400)], [17, 23, 24, 31]);
        let back = |key: usize| Distances::range(32, false, 200, key);
        assert_eq!([back(200), back(185), back(184), back(0)], [0, 15, 16, 31]);
    }
}
