//! Operations in which a token leaves something behind for the next: what they are, and what
//! they compute, one number after the other. Mamba 2's is [`super::Scan`].

/// One such operation. All inputs are rows, one for each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recurrence {
    /// Sums over the last tokens, of each number by itself.
    Convolution(Convolution),
    /// The delta rule: heads correct what they answer to a key.
    Delta(Delta),
    /// Mamba 1: states that decay as fast as the token says.
    Selective(Selective),
}

/// Sums over the last tokens, of each number of a row by itself.
///
/// Inputs: the rows. Weights: of each number what each of the tokens counts, then, if there
/// is one, the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Numbers of a row.
    pub width: usize,
    /// Tokens that a sum sees, the last of them the token itself.
    pub taps: usize,
    /// Sums go through `x · sigmoid(x)`.
    pub activates: bool,
}

/// The gated delta rule (`torch_recurrent_gated_delta_rule` in transformers). Each value head
/// has a matrix that maps keys to values. It decays; then what it answers to the token's key
/// is corrected towards the token's value; then it answers the query. Queries and keys are
/// divided by their lengths, queries also by the root of their size.
///
/// Inputs: queries, keys, values, time steps, strengths before their sigmoid. Weights: what
/// is added to time steps, and each head's decay, which is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Heads of queries and keys; divides `value_heads`.
    pub key_heads: usize,
    /// Heads of values.
    pub value_heads: usize,
    /// Numbers of a head of queries and keys.
    pub key_size: usize,
    /// Numbers of a head of values.
    pub value_size: usize,
    /// Value heads take turns with key heads; if not, neighbours share one.
    pub takes_turns: bool,
    /// Each number of a key has a time step of its own; if not, each head.
    pub decays_by_number: bool,
}

/// States that decay (`selective_scan` in Mamba). Each number of a row has a state.
///
/// Inputs: rows, their time steps, the vectors that states are written with and read with.
/// Weights: of each number how fast each element of its state decays, negative; how much of
/// each number is added to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selective {
    /// Numbers of a row.
    pub width: usize,
    /// Elements of a number's state.
    pub state_size: usize,
}

/// What is added to squared lengths before their root.
pub(crate) const LENGTH_EPSILON: f32 = 1e-6;

impl Recurrence {
    /// Numbers that a sequence leaves behind.
    pub fn state(&self) -> usize {
        match self {
            Self::Convolution(own) => (own.taps - 1) * own.width,
            Self::Delta(own) => own.value_heads * own.key_size * own.value_size,
            Self::Selective(own) => own.width * own.state_size,
        }
    }

    /// Numbers of a row of results.
    pub fn width(&self) -> usize {
        match self {
            Self::Convolution(own) => own.width,
            Self::Delta(own) => own.value_heads * own.value_size,
            Self::Selective(own) => own.width,
        }
    }

    /// Numbers of a row of each input.
    pub fn inputs(&self) -> Vec<usize> {
        match self {
            Self::Convolution(own) => vec![own.width],
            Self::Delta(own) => {
                let keys = own.key_heads * own.key_size;
                vec![keys, keys, self.width(), own.time_steps(), own.value_heads]
            }
            Self::Selective(own) => {
                vec![own.width, own.width, own.state_size, own.state_size]
            }
        }
    }

    /// Numbers of each of its weights.
    pub fn weights(&self) -> Vec<usize> {
        match self {
            Self::Convolution(own) => vec![own.width * own.taps, own.width],
            Self::Delta(own) => vec![own.time_steps(), own.value_heads],
            Self::Selective(own) => vec![own.width * own.state_size, own.width],
        }
    }
}

impl Delta {
    /// Time steps of a token.
    fn time_steps(&self) -> usize {
        self.value_heads * self.steps_of_head()
    }

    pub(crate) fn steps_of_head(&self) -> usize {
        if self.decays_by_number { self.key_size } else { 1 }
    }

    /// The head of keys that a head of values has.
    pub(crate) fn key_head(&self, value_head: usize) -> usize {
        match self.takes_turns {
            true => value_head % self.key_heads,
            false => value_head * self.key_heads / self.value_heads,
        }
    }
}

/// [`super::Backend::recur`] of rows that follow those that `state` is of.
pub fn recur(
    shape: &Recurrence,
    weights: &[&[f32]],
    state: &mut [f32],
    inputs: &[&[f32]],
) -> Vec<f32> {
    let widths = shape.inputs();
    let tokens = inputs[0].len() / widths[0].max(1);
    let mut out = Vec::with_capacity(tokens * shape.width());
    for token in 0..tokens {
        let row = |(input, width): (&&'_ [f32], &usize)| -> Vec<f64> {
            input[token * width..][..*width].iter().copied().map(f64::from).collect()
        };
        let rows: Vec<Vec<f64>> = inputs.iter().zip(&widths).map(row).collect();
        let result = match shape {
            Recurrence::Convolution(own) => convolved(own, weights, state, &rows[0]),
            Recurrence::Delta(own) => corrected(own, weights, state, &rows),
            Recurrence::Selective(own) => scanned(own, weights, state, &rows),
        };
        out.extend(result.into_iter().map(|number| number as f32));
    }
    out
}

fn silu(x: f64) -> f64 {
    x / (1.0 + libm::exp(-x))
}

/// The state is the last rows, the oldest first.
fn convolved(shape: &Convolution, weights: &[&[f32]], state: &mut [f32], row: &[f64]) -> Vec<f64> {
    let Convolution { width, taps, activates } = *shape;
    let sum = |number: usize| {
        let taps = &weights[0][number * taps..][..taps];
        let before = state.iter().skip(number).step_by(width).copied().map(f64::from);
        let numbers = before.chain([row[number]]);
        let sum: f64 = taps.iter().zip(numbers).map(|(tap, own)| f64::from(*tap) * own).sum();
        sum + weights.get(1).map_or(0.0, |bias| f64::from(bias[number]))
    };
    let sums: Vec<f64> = (0..width).map(sum).collect();
    if taps > 1 {
        state.rotate_left(width);
        let last = state.len() - width;
        state[last..].iter_mut().zip(row).for_each(|(state, own)| *state = *own as f32);
    }
    if activates { sums.into_iter().map(silu).collect() } else { sums }
}

/// The state is each head's matrix, a row for each number of a key.
fn corrected(shape: &Delta, weights: &[&[f32]], state: &mut [f32], rows: &[Vec<f64>]) -> Vec<f64> {
    let Delta { key_size, value_size, .. } = *shape;
    let steps = shape.steps_of_head();
    let mut out = Vec::new();
    for (head, state) in state.chunks_exact_mut(key_size * value_size).enumerate() {
        let own = shape.key_head(head) * key_size;
        let unit = |row: &[f64]| -> Vec<f64> {
            let row = &row[own..own + key_size];
            let square: f64 = row.iter().map(|number| number * number).sum();
            let length = (square + f64::from(LENGTH_EPSILON)).sqrt();
            row.iter().map(|number| number / length).collect()
        };
        let (query, key) = (unit(&rows[0]), unit(&rows[1]));
        let value = &rows[2][head * value_size..][..value_size];
        let strength = 1.0 / (1.0 + libm::exp(-rows[4][head]));
        let decay = |number: usize| {
            let at = head * steps + number % steps;
            let step = libm::log1p(libm::exp(rows[3][at] + f64::from(weights[0][at])));
            libm::exp(step * f64::from(weights[1][head]))
        };
        let mut matrix: Vec<f64> = state.iter().copied().map(f64::from).collect();
        for (number, row) in matrix.chunks_exact_mut(value_size).enumerate() {
            row.iter_mut().for_each(|state| *state *= decay(number));
        }
        let answer = |matrix: &[f64], to: &[f64], at: usize| -> f64 {
            let rows = matrix.chunks_exact(value_size);
            rows.zip(to).map(|(row, to)| row[at] * to).sum()
        };
        for (at, value) in value.iter().enumerate() {
            let correction = strength * (value - answer(&matrix, &key, at));
            for (row, key) in matrix.chunks_exact_mut(value_size).zip(&key) {
                row[at] += key * correction;
            }
            out.push(answer(&matrix, &query, at) / (key_size as f64).sqrt());
        }
        state.iter_mut().zip(matrix).for_each(|(state, own)| *state = own as f32);
    }
    out
}

fn scanned(
    shape: &Selective,
    weights: &[&[f32]],
    state: &mut [f32],
    rows: &[Vec<f64>],
) -> Vec<f64> {
    let size = shape.state_size;
    let result = |(number, state): (usize, &mut [f32])| {
        let (own, step) = (rows[0][number], libm::log1p(libm::exp(rows[1][number])));
        let mut sum = f64::from(weights[1][number]) * own;
        for (at, state) in state.iter_mut().enumerate() {
            let kept = libm::exp(step * f64::from(weights[0][number * size + at]));
            let now = f64::from(*state) * kept + step * own * rows[2][at];
            *state = now as f32;
            sum += now * rows[3][at];
        }
        sum
    };
    state.chunks_exact_mut(size).enumerate().map(result).collect()
}
