//! Made-up logits for tests.

use crate::random::Random;

/// Logits of a reference, and of a model that strays from it by about `distance`.
pub(crate) fn logits_near(seed: u64, tokens: usize, distance: f32) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random::new(seed);
    let mut bell = || (0..4).map(|_| random.unit() as f32 - 0.5).sum::<f32>() * 1.7;
    let reference: Vec<f32> = (0..tokens).map(|_| 3.0 * bell()).collect();
    let model = reference.iter().map(|logit| logit + distance * bell()).collect();
    (reference, model)
}
