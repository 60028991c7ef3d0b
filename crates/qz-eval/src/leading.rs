//! The most probable tokens of a position, and what that says of the others.
//!
//! A reference's whole distribution takes two bytes per token of its vocabulary. Its
//! leading tokens with their probabilities take a hundredth of that, and the KL
//! divergence of a model, whose own distribution is known as a whole, is bounded by
//! them.

use crate::comparison::Bounds;
use crate::log_probability::LogSoftmax;

/// What is kept of one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Leading {
    /// The most probable tokens, falling, of equal ones the first first, and the
    /// logarithms of their probabilities.
    pub(crate) tokens: Vec<(u32, f32)>,
    /// The logarithm of the probability of the token that follows.
    pub(crate) next: f32,
    /// The sum of the other tokens' probabilities.
    pub(crate) rest: f32,
    /// The sum of their products with their logarithms.
    pub(crate) rest_entropy: f32,
}

impl Leading {
    /// The `count` leading tokens of these logits, at least one; `next` is the token
    /// that follows.
    pub fn of(logits: &[f32], next: usize, count: usize) -> Self {
        let softmax = LogSoftmax::of(logits);
        let count = count.clamp(1, logits.len());
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let falling =
            |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if count < order.len() {
            order.select_nth_unstable_by(count - 1, falling);
        }
        let (leading, others) = order.split_at_mut(count);
        leading.sort_unstable_by(falling);
        // In the order of tokens, so that the sums do not depend on the selection.
        others.sort_unstable();
        let (mut rest, mut rest_entropy) = (0.0f64, 0.0f64);
        for token in others {
            let log_p = softmax.log_probability(logits[*token as usize]);
            rest += libm::exp(log_p);
            rest_entropy += libm::exp(log_p) * log_p;
        }
        let log_probability = |token: u32| softmax.log_probability(logits[token as usize]) as f32;
        Self {
            tokens: leading.iter().map(|token| (*token, log_probability(*token))).collect(),
            next: log_probability(next as u32),
            rest: rest as f32,
            rest_entropy: rest_entropy as f32,
        }
    }

    /// The most probable token.
    pub fn top(&self) -> usize {
        self.tokens[0].0 as usize
    }

    /// Bounds of the KL divergence of a model with these logits, for the numbers kept
    /// here, rounded as they are.
    ///
    /// What the leading tokens add is known. Of the others the sum of p·ln p is known
    /// and that of p·ln q is not: by the log-sum inequality the divergence is least
    /// where p is proportional to q; it is greatest where p is as large as it can be,
    /// which is as the last leading one, on the tokens with the smallest q.
    pub(crate) fn divergence_of(&self, logits: &[f32], softmax: &LogSoftmax) -> Bounds {
        let mut known = 0.0;
        let mut is_leading = vec![false; logits.len()];
        let mut leading_q = 0.0;
        for &(token, log_p) in &self.tokens {
            let log_q = softmax.log_probability(logits[token as usize]);
            known += libm::exp(f64::from(log_p)) * (f64::from(log_p) - log_q);
            leading_q += libm::exp(log_q);
            is_leading[token as usize] = true;
        }
        let rest = f64::from(self.rest);
        if rest <= 0.0 || self.tokens.len() == logits.len() {
            return Bounds::exactly(known);
        }
        let lower = known + rest * libm::log(rest / (1.0 - leading_q).max(f64::MIN_POSITIVE));
        let mut others: Vec<f32> = logits
            .iter()
            .zip(&is_leading)
            .filter(|(_, leading)| !**leading)
            .map(|(l, _)| *l)
            .collect();
        let most = libm::exp(f64::from(self.tokens[self.tokens.len() - 1].1));
        let upper = known
            + f64::from(self.rest_entropy)
            + worst_cross_entropy(&mut others, softmax, rest, most);
        // The lower bound is the true value if nothing is left to bound; rounding must
        // not turn them round.
        Bounds { lower: lower.min(upper), upper: upper.max(lower) }
    }
}

/// The largest that -Σ p·ln q can be, where the p sum to `mass` and none is above
/// `most`.
fn worst_cross_entropy(others: &mut [f32], softmax: &LogSoftmax, mass: f64, most: f64) -> f64 {
    let full = (mass / most).floor().min(others.len() as f64) as usize;
    if full < others.len() {
        others.select_nth_unstable_by(full, f32::total_cmp);
    }
    let (filled, next) = others.split_at(full);
    let sum: f64 = filled.iter().map(|logit| -softmax.log_probability(*logit) * most).sum();
    let left = (mass - most * full as f64).max(0.0);
    sum + next.first().map_or(0.0, |logit| -softmax.log_probability(*logit) * left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::logits_near;

    #[test]
    fn the_first_of_equal_tokens_leads() {
        let leading = Leading::of(&[1.0, 2.0, 2.0, 0.0, 2.0], 0, 2);
        let tokens: Vec<u32> = leading.tokens.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [1, 2]);
        assert_eq!(leading.top(), 1);
    }

    #[test]
    fn all_tokens_leave_no_doubt() {
        let (reference, model) = logits_near(3, 40, 0.5);
        let leading = Leading::of(&reference, 0, 40);
        let bounds = leading.divergence_of(&model, &LogSoftmax::of(&model));
        assert_eq!(bounds.lower, bounds.upper);
        assert!(bounds.lower > 0.0);
    }

    #[test]
    fn more_tokens_bring_the_bounds_together() {
        let (reference, model) = logits_near(5, 3000, 0.3);
        let softmax = LogSoftmax::of(&model);
        let mut last = f64::INFINITY;
        for count in [10, 100, 1000, 2900] {
            let bounds = Leading::of(&reference, 0, count).divergence_of(&model, &softmax);
            assert!(bounds.upper - bounds.lower < last);
            last = bounds.upper - bounds.lower;
        }
    }
}
