//! How far an encoder's vectors are from its reference's: cosines of whole texts and of tokens.
//!
//! An encoder predicts no tokens, so there is no perplexity. What its users compare are
//! vectors of texts, by their cosine.

use serde::Serialize;

use crate::bootstrap::Bootstrap;
use crate::statistics::{Estimate, Spread, share};

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

impl Pooling {
    /// The vector of a text, from the rows of its tokens, each of `width` numbers.
    pub fn of_rows(self, rows: &[f32], width: usize) -> Vec<f64> {
        let exact = |row: &[f32]| row.iter().map(|number| f64::from(*number)).collect();
        let count = rows.len() / width;
        match self {
            Self::First => exact(&rows[..width]),
            Self::Last => exact(&rows[(count - 1) * width..]),
            Self::Mean => {
                let mut sums = vec![0.0; width];
                for row in rows.chunks_exact(width) {
                    sums.iter_mut().zip(row).for_each(|(sum, number)| *sum += f64::from(*number));
                }
                sums.iter_mut().for_each(|sum| *sum /= count as f64);
                sums
            }
        }
    }
}

/// The cosine of the angle between two vectors; of a vector of zeros there is none.
pub fn cosine<T: Copy + Into<f64>>(first: &[T], second: &[T]) -> f64 {
    let product = |first: &[T], second: &[T]| -> f64 {
        first.iter().zip(second).map(|(first, second)| (*first).into() * (*second).into()).sum()
    };
    let lengths = product(first, first).sqrt() * product(second, second).sqrt();
    product(first, second) / lengths
}

/// An encoder beside its reference, on the same texts.
#[derive(Clone, Debug, Serialize)]
pub struct Similarity {
    /// Tokens of all texts.
    pub tokens: usize,
    /// Texts: chunks.
    pub chunks: usize,
    /// How vectors of texts are made.
    pub pooling: Pooling,
    /// Cosines of each text's two vectors.
    pub cosine: Spread,
    /// Cosines of each token's two vectors.
    pub token_cosine: Spread,
    /// The share of texts whose nearest other text is the same for both; none if there are
    /// fewer than three texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_nearest: Option<Estimate>,
}

impl Similarity {
    /// Of the vectors of all texts, and the cosines of all tokens, text by text, of which each
    /// has as many.
    pub fn of(
        pooling: Pooling,
        model: &[Vec<f64>],
        reference: &[Vec<f64>],
        token_cosines: &[f64],
    ) -> Self {
        let chunks = reference.len();
        let bootstrap = Bootstrap::new(chunks);
        let cosines: Vec<f64> = model
            .iter()
            .zip(reference)
            .map(|(model, reference)| cosine(model, reference))
            .collect();
        let same_nearest = (chunks > 2).then(|| {
            let same = |text| f64::from(u8::from(nearest(model, text) == nearest(reference, text)));
            share(&(0..chunks).map(same).collect::<Vec<f64>>(), chunks, &bootstrap)
        });
        Self {
            tokens: token_cosines.len(),
            chunks,
            pooling,
            cosine: Spread::of(&cosines, chunks, &bootstrap),
            token_cosine: Spread::of(token_cosines, chunks, &bootstrap),
            same_nearest,
        }
    }
}

/// The text whose vector is nearest to that of `text`.
fn nearest(vectors: &[Vec<f64>], text: usize) -> Option<usize> {
    let others = (0..vectors.len()).filter(|other| *other != text);
    let cosines = others.map(|other| (cosine(&vectors[text], &vectors[other]), other));
    cosines.max_by(|first, second| first.0.total_cmp(&second.0)).map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_texts() {
        let rows = [1.0, 2.0, 3.0, 6.0];
        let check = |pooling: Pooling, expected: [f64; 2]| {
            assert_eq!(pooling.of_rows(&rows, 2), expected, "{pooling:?}");
        };
        check(Pooling::Mean, [2.0, 4.0]);
        check(Pooling::First, [1.0, 2.0]);
        check(Pooling::Last, [3.0, 6.0]);
    }

    #[test]
    fn cosines() {
        let check = |first: [f64; 2], second: [f64; 2], expected: f64| {
            assert!((cosine(&first, &second) - expected).abs() < 1e-15, "{first:?} {second:?}");
        };
        check([1.0, 0.0], [5.0, 0.0], 1.0);
        check([1.0, 0.0], [0.0, 2.0], 0.0);
        check([1.0, 1.0], [-2.0, -2.0], -1.0);
        check([3.0, 4.0], [4.0, 3.0], 0.96);
        assert!(cosine(&[0.0, 0.0], &[1.0, 0.0]).is_nan());
    }

    #[test]
    fn the_nearest_text_may_change() {
        let reference = [vec![1.0, 0.0], vec![0.9, 0.1], vec![0.0, 1.0], vec![0.1, 0.9]];
        let same = Similarity::of(Pooling::Mean, &reference, &reference, &[1.0; 8]);
        assert_eq!((same.cosine.mean.value, same.tokens, same.chunks), (1.0, 8, 4));
        assert_eq!(same.same_nearest.map(|found| found.value), Some(1.0));
        // The first text turned to the third: all but the fourth have another neighbour.
        let turned = [vec![0.0, 1.0], vec![0.9, 0.1], vec![0.0, 1.0], vec![0.1, 0.9]];
        let other = Similarity::of(Pooling::Mean, &turned, &reference, &[0.5; 8]);
        assert_eq!(other.same_nearest.map(|found| found.value), Some(0.25));
        assert_eq!((other.cosine.min, other.token_cosine.mean.value), (0.0, 0.5));
        assert!(
            Similarity::of(Pooling::Mean, &turned[..2], &reference[..2], &[])
                .same_nearest
                .is_none()
        );
    }
}
