//! Operations of a few families on each row by itself: what they are, and what they compute, one
//! number after the other.

/// One such operation. Its inputs are buffers with as many rows as the result, and vectors, of
/// which every row sees the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rowwise {
    /// Products with so many small matrices that lie one behind the other in a vector: each of its
    /// own part of a row, or all of the same row.
    ///
    /// Inputs: rows, and the matrices.
    Project {
        /// Matrices.
        count: usize,
        /// Rows of a matrix.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// To each part of a row the sum of another row's parts, each times a number of its own.
    ///
    /// Inputs: the row, the other row, the numbers, part of the former by part.
    Combine {
        /// Numbers of a part.
        size: usize,
    },
    /// Products of the numbers at the same places.
    ///
    /// Inputs: rows, and a vector.
    Times,
    /// Each part of a row times what makes its length that of another row: root mean squares, of
    /// which that of the part is at least the root of 1e-5.
    ///
    /// Inputs: the row, the other row, which is as long as a part.
    Match,
    /// What of each number is above the row's mean and so many standard deviations.
    ///
    /// Inputs: the row.
    Exceed {
        /// So many.
        deviations: f32,
    },
}

/// The least mean square of what [`Rowwise::Match`] divides by.
const LEAST: f64 = 1e-5;

impl Rowwise {
    /// Of each input the numbers of a row, and whether it is a vector; and the numbers of a row of
    /// results, where rows have so many numbers.
    pub fn widths(&self, width: usize, other: usize) -> (Vec<(usize, bool)>, usize) {
        match *self {
            Self::Project { count, rows, columns } => {
                (vec![(width, false), (count * rows * columns, true)], count * rows)
            }
            Self::Combine { size } => {
                let numbers = (width / size.max(1)) * (other / size.max(1));
                (vec![(width, false), (other, false), (numbers, false)], width)
            }
            Self::Times => (vec![(width, false), (width, true)], width),
            Self::Match => (vec![(width, false), (other, false)], width),
            Self::Exceed { .. } => (vec![(width, false)], width),
        }
    }

    /// What comes of one row of each input.
    pub fn of_row(&self, inputs: &[&[f32]], out: &mut [f32]) {
        match (*self, inputs) {
            (Self::Project { count, rows, columns }, [row, matrices]) => {
                let parts = row.chunks_exact(columns).cycle().take(count);
                let matrices = matrices.chunks_exact((rows * columns).max(1));
                let out = out.chunks_exact_mut(rows.max(1));
                for ((part, matrix), out) in parts.zip(matrices).zip(out) {
                    for (weights, out) in matrix.chunks_exact(columns).zip(out) {
                        *out = dot(part, weights);
                    }
                }
            }
            (Self::Combine { size }, [row, other, numbers]) => {
                out.copy_from_slice(row);
                let of_part = (other.len() / size.max(1)).max(1);
                for (out, numbers) in out.chunks_exact_mut(size).zip(numbers.chunks(of_part)) {
                    for (part, number) in other.chunks_exact(size).zip(numbers) {
                        out.iter_mut().zip(part).for_each(|(out, own)| *out += own * number);
                    }
                }
            }
            (Self::Times, [row, vector]) => {
                let products = row.iter().zip(*vector).map(|(a, b)| a * b);
                out.iter_mut().zip(products).for_each(|(out, product)| *out = product);
            }
            (Self::Match, [row, other]) => {
                let wanted = mean_square(other).sqrt();
                let parts = row.chunks_exact(other.len().max(1));
                for (part, out) in parts.zip(out.chunks_exact_mut(other.len().max(1))) {
                    let by = (wanted / mean_square(part).max(LEAST).sqrt()) as f32;
                    out.iter_mut().zip(part).for_each(|(out, own)| *out = own * by);
                }
            }
            (Self::Exceed { deviations }, [row]) => {
                let count = row.len() as f64;
                let mean = row.iter().map(|own| f64::from(*own)).sum::<f64>() / count;
                let distance = |own: &f32| (f64::from(*own) - mean).powi(2);
                let variance = row.iter().map(distance).sum::<f64>() / count;
                let limit = (mean + variance.sqrt() * f64::from(deviations)) as f32;
                out.iter_mut().zip(*row).for_each(|(out, own)| *out = (own - limit).max(0.0));
            }
            _ => unreachable!("inputs were counted"),
        }
    }
}

fn mean_square(row: &[f32]) -> f64 {
    row.iter().map(|own| f64::from(*own).powi(2)).sum::<f64>() / row.len().max(1) as f64
}

/// A sum of products, in lanes, so that it is computed in vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (own, rest) = a.as_chunks::<LANES>();
    let (others, last) = b.as_chunks::<LANES>();
    for (a, b) in own.iter().zip(others) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let last: f32 = rest.iter().zip(last).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(operation: Rowwise, inputs: &[&[f32]], expected: &[f32]) {
        let mut out = vec![0.0; expected.len()];
        operation.of_row(inputs, &mut out);
        assert_eq!(out, expected, "{operation:?}");
    }

    #[test]
    fn rows_by_themselves() {
        let shared = Rowwise::Project { count: 2, rows: 1, columns: 2 };
        check(shared, &[&[1.0, 2.0], &[1.0, 0.5, 3.0, -1.0]], &[2.0, 1.0]);
        check(shared, &[&[1.0, 2.0, 4.0, 8.0], &[1.0, 0.5, 3.0, -1.0]], &[2.0, 4.0]);
        let combine = Rowwise::Combine { size: 2 };
        let numbers = [1.0, 0.0, 2.0, -1.0];
        let row = [1.0, 2.0, 3.0, 4.0];
        check(combine, &[&row, &[10.0, 20.0, 30.0, 40.0], &numbers], &[11.0, 22.0, -7.0, 4.0]);
        check(Rowwise::Times, &[&[1.0, 2.0], &[3.0, 0.5]], &[3.0, 1.0]);
        check(Rowwise::Match, &[&[2.0, 2.0, 0.0, 0.0], &[3.0, 3.0]], &[3.0, 3.0, 0.0, 0.0]);
        // Mean 2, deviation 1.
        check(Rowwise::Exceed { deviations: 0.5 }, &[&[1.0, 3.0]], &[0.0, 0.5]);
    }
}
