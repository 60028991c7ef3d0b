//! Logits as logarithms of probabilities.

/// What turns the logits of one position into logarithms of probabilities.
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmax {
    /// The largest logit.
    pub maximum: f32,
    /// The first token that has it.
    pub top: usize,
    /// The logarithm of the sum of all exponentials relative to the maximum.
    pub log_sum: f64,
}

impl LogSoftmax {
    /// Of the logits of all tokens, one at least. Exponentials are taken in f32 and
    /// summed in f64, in order, as `log_softmax` in perplexity.cpp does.
    pub fn of(logits: &[f32]) -> Self {
        let (mut maximum, mut top) = (logits[0], 0);
        for (token, &logit) in logits.iter().enumerate() {
            if logit > maximum {
                (maximum, top) = (logit, token);
            }
        }
        let sum: f64 = logits.iter().map(|logit| f64::from(libm::expf(logit - maximum))).sum();
        Self { maximum, top, log_sum: libm::log(sum) }
    }

    /// The logarithm of the probability of a token with this logit.
    pub fn log_probability(&self, logit: f32) -> f64 {
        f64::from(logit - self.maximum) - self.log_sum
    }
}

#[cfg(test)]
mod tests {
    use super::LogSoftmax;

    #[test]
    fn probabilities_sum_to_one() {
        let check = |logits: &[f32]| {
            let softmax = LogSoftmax::of(logits);
            let sum: f64 =
                logits.iter().map(|logit| libm::exp(softmax.log_probability(*logit))).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{logits:?}: {sum}");
        };
        check(&[0.0]);
        check(&[1.0, 2.0, 3.0]);
        check(&[-1000.0, 1000.0]);
        check(&[88.0; 300]);
    }

    #[test]
    fn of_equal_maxima_the_first_is_the_top() {
        assert_eq!(LogSoftmax::of(&[1.0, 3.0, 3.0, 2.0]).top, 1);
    }
}
