//! Weights and Hessians from a fixed seed, by arithmetic that is the same everywhere.

/// The splitmix64 generator (Steele, Lea, Flood: "Fast splittable pseudorandom
/// number generators").
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// In 0..1.
    pub(crate) fn even(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly normal: a sum of twelve.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.even()).sum::<f64>() - 6.0
    }

    /// Student's t with four degrees of freedom, nearly.
    pub(crate) fn heavy(&mut self) -> f64 {
        let square: f64 = (0..4).map(|_| self.normal().powi(2)).sum();
        self.normal() / (square / 4.0).sqrt()
    }
}

/// Rows to be quantized, and the second moments of their inputs.
pub(crate) struct Problem {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) weights: Vec<f32>,
    /// Symmetric, `columns` times `columns`.
    pub(crate) hessian: Vec<f64>,
}

const RANK: usize = 48;

impl Problem {
    /// Heavy-tailed weights; inputs of low rank plus noise, in channels some of which
    /// are much louder than others.
    pub(crate) fn correlated(seed: u64, rows: usize, columns: usize) -> Self {
        let mut random = Random::new(seed);
        let weights = (0..rows * columns).map(|_| (0.02 * random.heavy()) as f32).collect();
        let loud: Vec<f64> = (0..columns).map(|_| random.heavy().abs().max(0.3)).collect();
        let mixing: Vec<f64> = (0..columns * RANK)
            .map(|at| random.normal() / (1.0 + (at % RANK) as f64).sqrt())
            .collect();
        let mut hessian = vec![0.0; columns * columns];
        for (i, row) in hessian.chunks_mut(columns).enumerate() {
            for (j, entry) in row.iter_mut().enumerate() {
                let pairs = mixing[i * RANK..][..RANK].iter().zip(&mixing[j * RANK..][..RANK]);
                let common: f64 = pairs.map(|(a, b)| a * b).sum();
                let noise = if i == j { 2.0 } else { 0.0 };
                *entry = loud[i] * loud[j] * (common + noise);
            }
        }
        Self { rows, columns, weights, hessian }
    }

    /// The Hessian's diagonal.
    pub(crate) fn importance(&self) -> Vec<f32> {
        (0..self.columns).map(|at| self.hessian[at * (self.columns + 1)] as f32).collect()
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.weights[row * self.columns..][..self.columns]
    }

    /// `e H eᵀ` of one row.
    pub(crate) fn row_loss(&self, row: usize, values: &[f32]) -> f64 {
        let errors = differences(self.row(row), values);
        inner(&errors, &multiply(&self.hessian, &errors))
    }

    /// `tr(E H Eᵀ)`, as a part of what all zeros would lose.
    pub(crate) fn loss<'a>(&self, values: impl Fn(usize) -> &'a [f32]) -> f64 {
        let zero = vec![0.0; self.columns];
        let all: f64 = (0..self.rows).map(|row| self.row_loss(row, &zero)).sum();
        let lost: f64 = (0..self.rows).map(|row| self.row_loss(row, values(row))).sum();
        if all > 0.0 { lost / all } else { lost }
    }
}

pub(crate) fn differences(a: &[f32], b: &[f32]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
}

pub(crate) fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A symmetric matrix times a vector.
pub(crate) fn multiply(matrix: &[f64], vector: &[f64]) -> Vec<f64> {
    let mut product = vec![0.0; vector.len()];
    for (row, factor) in matrix.chunks(vector.len()).zip(vector).filter(|(_, f)| **f != 0.0) {
        for (sum, entry) in product.iter_mut().zip(row) {
            *sum += entry * factor;
        }
    }
    product
}
