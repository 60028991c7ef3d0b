//! Hadamard matrices in Sylvester's order, by which inputs and weights are multiplied block by
//! block. Source: compressed-tensors 0.20 (`transform/utils/hadamard.py`).

/// The matrix of a block, divided by the square root of its size: symmetric, and so its own
/// inverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hadamard {
    size: usize,
}

impl Hadamard {
    /// Columns of the largest block.
    const MOST: u64 = 1 << 16;

    /// The one of so many columns, which have to be a power of two.
    pub fn of(size: u64) -> Option<Self> {
        let known = size.is_power_of_two() && size <= Self::MOST;
        known.then_some(Self { size: size as usize })
    }

    /// Columns of a block.
    pub fn size(self) -> usize {
        self.size
    }

    /// Multiplies each block by the matrix, in `f64` as the package does.
    ///
    /// # Panics
    /// If the last block is not whole.
    pub fn rotate(self, values: &mut [f32]) {
        let mut blocks = values.chunks_exact_mut(self.size);
        let root = (self.size as f64).sqrt();
        let mut wide = vec![0.0; self.size];
        for block in &mut blocks {
            for (wide, value) in wide.iter_mut().zip(&*block) {
                *wide = f64::from(*value);
            }
            transform(&mut wide);
            for (value, wide) in block.iter_mut().zip(&wide) {
                *value = (wide / root) as f32;
            }
        }
        assert!(blocks.into_remainder().is_empty(), "a block is not whole");
    }

    /// The mean square of each column behind the matrix, from those before it, as if columns had
    /// nothing to do with each other.
    pub fn importance(self, of_columns: &[f32]) -> Vec<f32> {
        let mean = |block: &[f32]| block.iter().sum::<f32>() / block.len() as f32;
        let blocks = of_columns.chunks(self.size);
        blocks.flat_map(|block| std::iter::repeat_n(mean(block), block.len())).collect()
    }
}

/// The sums and differences of the matrix, halves first.
fn transform(values: &mut [f64]) {
    let mut half = values.len() / 2;
    while half > 0 {
        for pair in values.chunks_exact_mut(half.saturating_mul(2)) {
            let (left, right) = pair.split_at_mut(half);
            for (left, right) in left.iter_mut().zip(right) {
                (*left, *right) = (*left + *right, *left - *right);
            }
        }
        half /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sylvester's matrix: an entry is −1 to the count of bits that row and column share.
    #[test]
    fn blocks_are_multiplied_by_sylvesters_matrix() {
        let hadamard = Hadamard::of(8).expect("a power of two");
        let values: Vec<f32> = (0..16).map(|at| (at * at % 11) as f32 - 3.0).collect();
        let mut rotated = values.clone();
        hadamard.rotate(&mut rotated);
        for (at, rotated) in rotated.iter().enumerate() {
            let is_plus = |row: usize| (row & (at % 8)).count_ones().is_multiple_of(2);
            let sign = |row: usize| if is_plus(row) { 1.0 } else { -1.0 };
            let block = &values[at / 8 * 8..][..8];
            let sum: f64 = block.iter().enumerate().map(|(row, v)| sign(row) * f64::from(*v)).sum();
            assert_eq!(*rotated, (sum / 8.0f64.sqrt()) as f32, "{at}");
        }
        hadamard.rotate(&mut rotated);
        let far = rotated.iter().zip(&values).any(|(a, b)| (a - b).abs() > 1e-5);
        assert!(!far, "{rotated:?}");
    }

    #[test]
    fn sizes_are_powers_of_two() {
        assert!(Hadamard::of(32).is_some() && Hadamard::of(1).is_some());
        assert!([0, 3, 48, 1 << 17].into_iter().all(|size| Hadamard::of(size).is_none()));
    }
}
