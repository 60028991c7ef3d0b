//! Recurrences on several threads: heads, or numbers of a row, by themselves; a thread's
//! tokens come one after the other.

use rayon::prelude::*;

use super::super::recurrence::{Convolution, Delta, LENGTH_EPSILON, Recurrence, Selective};
use super::scan::{silu, soft_plus};
use crate::stop;

/// Runs on the current pool's threads. Once a stop is requested, results have no meaning.
pub(super) fn recur(
    shape: &Recurrence,
    weights: &[&[f32]],
    state: &mut [f32],
    inputs: &[&[f32]],
    out: &mut [f32],
) {
    match shape {
        Recurrence::Convolution(own) => convolve(own, weights, state, inputs[0], out),
        Recurrence::Delta(own) => correct(own, weights, state, inputs, out),
        Recurrence::Selective(own) => scan(own, weights, state, inputs, out),
    }
}

fn convolve(
    shape: &Convolution,
    weights: &[&[f32]],
    state: &mut [f32],
    input: &[f32],
    out: &mut [f32],
) {
    let Convolution { width, taps, activates } = *shape;
    let all: Vec<f32> = state.iter().chain(input).copied().collect();
    let last = all.len() - state.len();
    state.copy_from_slice(&all[last..]);
    let bias = weights.get(1);
    out.par_chunks_exact_mut(width).enumerate().for_each(|(row, out)| {
        let before = &all[row * width..][..taps * width];
        for (number, out) in out.iter_mut().enumerate() {
            let own = &weights[0][number * taps..][..taps];
            let numbers = before.iter().skip(number).step_by(width);
            let sum: f32 = own.iter().zip(numbers).map(|(tap, number)| tap * number).sum();
            let sum = sum + bias.map_or(0.0, |bias| bias[number]);
            *out = if activates { silu(sum) } else { sum };
        }
    });
}

/// Puts parts of rows, each of so many numbers, side by side.
fn side_by_side(parts: &[Vec<f32>], size: usize, out: &mut [f32]) {
    for (row, out) in out.chunks_exact_mut(size * parts.len()).enumerate() {
        for (part, out) in parts.iter().zip(out.chunks_exact_mut(size)) {
            let own = part.get(row * size..(row + 1) * size);
            own.into_iter().for_each(|own| out.copy_from_slice(own));
        }
    }
}

fn correct(
    shape: &Delta,
    weights: &[&[f32]],
    state: &mut [f32],
    inputs: &[&[f32]],
    out: &mut [f32],
) {
    let heads = state.par_chunks_exact_mut(shape.key_size * shape.value_size).enumerate();
    let results: Vec<Vec<f32>> =
        heads.map(|(head, state)| Head { shape, weights, inputs, head }.run(state)).collect();
    side_by_side(&results, shape.value_size, out);
}

/// One head of values.
struct Head<'a> {
    shape: &'a Delta,
    weights: &'a [&'a [f32]],
    inputs: &'a [&'a [f32]],
    head: usize,
}

impl Head<'_> {
    /// The head's numbers of each row; nothing once a stop is requested.
    fn run(&self, state: &mut [f32]) -> Vec<f32> {
        let Self { shape, inputs, head, .. } = *self;
        let Delta { key_heads, value_heads, key_size, value_size, .. } = *shape;
        let own = shape.key_head(head) * key_size;
        let tokens = inputs[4].len() / value_heads;
        let mut out = Vec::with_capacity(tokens * value_size);
        let (mut query, mut key) = (vec![0.0; key_size], vec![0.0; key_size]);
        let mut decays = vec![0.0; key_size];
        let mut correction = vec![0.0; value_size];
        let root = (key_size as f32).sqrt();
        for token in 0..tokens {
            if stop::is_requested() {
                return Vec::new();
            }
            let row =
                |input: usize| &inputs[input][token * key_heads * key_size + own..][..key_size];
            unit(row(0), root, &mut query);
            unit(row(1), 1.0, &mut key);
            self.decays(token, &mut decays);
            let first = (token * value_heads + head) * value_size;
            correction.copy_from_slice(&inputs[2][first..first + value_size]);
            for ((row, key), decay) in state.chunks_exact_mut(value_size).zip(&key).zip(&decays) {
                for (state, correction) in row.iter_mut().zip(&mut correction) {
                    *state *= decay;
                    *correction -= *state * key;
                }
            }
            let strength = 1.0 / (1.0 + libm::expf(-inputs[4][token * value_heads + head]));
            correction.iter_mut().for_each(|own| *own *= strength);
            let at = out.len();
            out.resize(at + value_size, 0.0);
            let sums = &mut out[at..];
            for ((row, key), query) in state.chunks_exact_mut(value_size).zip(&key).zip(&query) {
                for ((state, correction), sum) in row.iter_mut().zip(&correction).zip(&mut *sums) {
                    *state += key * correction;
                    *sum += *state * query;
                }
            }
        }
        out
    }

    /// What is left of each row of the head's matrix.
    fn decays(&self, token: usize, decays: &mut [f32]) {
        let Self { shape, weights, inputs, head } = *self;
        let steps = shape.steps_of_head();
        let width = shape.value_heads * steps;
        let decay = |number: usize| {
            let at = head * steps + number;
            let step = soft_plus(inputs[3][token * width + at] + weights[0][at]);
            libm::expf(step * weights[1][head])
        };
        match steps {
            1 => decays.fill(decay(0)),
            _ => decays.iter_mut().enumerate().for_each(|(at, own)| *own = decay(at)),
        }
    }
}

/// A row divided by its length and by `divisor`.
fn unit(row: &[f32], divisor: f32, out: &mut [f32]) {
    let square: f32 = row.iter().map(|number| number * number).sum();
    let scale = 1.0 / ((square + LENGTH_EPSILON).sqrt() * divisor);
    out.iter_mut().zip(row).for_each(|(out, number)| *out = number * scale);
}

fn scan(
    shape: &Selective,
    weights: &[&[f32]],
    state: &mut [f32],
    inputs: &[&[f32]],
    out: &mut [f32],
) {
    let Selective { width, state_size: size } = *shape;
    let tokens = inputs[0].len() / width;
    let numbers = state.par_chunks_exact_mut(size).enumerate();
    let run = |(number, state): (usize, &mut [f32])| -> Vec<f32> {
        let decays = &weights[0][number * size..][..size];
        let result = |token: usize| {
            let own = inputs[0][token * width + number];
            let step = soft_plus(inputs[1][token * width + number]);
            let rows = [2, 3].map(|input: usize| &inputs[input][token * size..][..size]);
            let (added, mut sum) = (step * own, weights[1][number] * own);
            for (((state, decay), write), read) in
                state.iter_mut().zip(decays).zip(rows[0]).zip(rows[1])
            {
                *state = *state * libm::expf(step * decay) + added * write;
                sum += *state * read;
            }
            sum
        };
        let going = (0..tokens).take_while(|_| !stop::is_requested());
        going.map(result).collect()
    };
    let results: Vec<Vec<f32>> = numbers.map(run).collect();
    side_by_side(&results, 1, out);
}
