//! State space layers: a convolution over the last tokens, then states that decay.

use rayon::prelude::*;

use super::super::{Scan, ScanWeights};
use crate::stop;

/// Runs on the current pool's threads, a head each; a head's tokens come one after the other.
pub(super) fn scan(
    shape: &Scan,
    weights: &ScanWeights<'_, [f32]>,
    state: &mut [f32],
    input: &[f32],
    out: &mut [f32],
) {
    let (seen, states) = state.split_at_mut((shape.taps - 1) * shape.convolved());
    let convolved = convolved(shape, weights, seen, input);
    let head_state = shape.head_size * shape.state_size;
    let heads = states.par_chunks_exact_mut(head_state).enumerate();
    let results: Vec<Vec<f32>> = heads
        .map(|(head, states)| Head { shape, weights, head }.run(states, &convolved, input))
        .collect();
    for (row, out) in out.chunks_exact_mut(shape.inner()).enumerate() {
        for (result, out) in results.iter().zip(out.chunks_exact_mut(shape.head_size)) {
            let own = result.get(row * shape.head_size..(row + 1) * shape.head_size);
            own.into_iter().for_each(|own| out.copy_from_slice(own));
        }
    }
}

pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + libm::expf(-x))
}

/// What the convolution makes of each row; `seen` are the last rows before them, and become
/// the last of them.
fn convolved(
    shape: &Scan,
    weights: &ScanWeights<'_, [f32]>,
    seen: &mut [f32],
    input: &[f32],
) -> Vec<f32> {
    let (width, taps) = (shape.convolved(), shape.taps);
    let rows = input.chunks_exact(shape.width()).map(|row| &row[shape.inner()..][..width]);
    let all: Vec<f32> = seen.iter().copied().chain(rows.flatten().copied()).collect();
    let last = all.len() - seen.len();
    seen.copy_from_slice(&all[last..]);
    let mut out = vec![0.0; last];
    out.par_chunks_exact_mut(width).enumerate().for_each(|(row, out)| {
        let before = &all[row * width..][..taps * width];
        for (number, out) in out.iter_mut().enumerate() {
            let own = &weights.convolution[number * taps..][..taps];
            let numbers = before.iter().skip(number).step_by(width);
            let sum: f32 = own.iter().zip(numbers).map(|(tap, number)| tap * number).sum();
            *out = silu(sum + weights.convolution_bias[number]);
        }
    });
    out
}

struct Head<'a> {
    shape: &'a Scan,
    weights: &'a ScanWeights<'a, [f32]>,
    head: usize,
}

impl Head<'_> {
    /// The head's numbers of each row; nothing once a stop is requested.
    fn run(&self, states: &mut [f32], convolved: &[f32], input: &[f32]) -> Vec<f32> {
        let Self { shape, weights, head } = *self;
        let (inner, width, size) = (shape.inner(), shape.convolved(), shape.state_size);
        let group = head * shape.groups / shape.heads;
        let own = head * shape.head_size..(head + 1) * shape.head_size;
        let mut out = Vec::with_capacity(input.len() / shape.width() * shape.head_size);
        for (seen, row) in convolved.chunks_exact(width).zip(input.chunks_exact(shape.width())) {
            if stop::is_requested() {
                return Vec::new();
            }
            let write = &seen[inner + group * size..][..size];
            let read = &seen[inner + (shape.groups + group) * size..][..size];
            let step = soft_plus(row[inner + width + head] + weights.time_step[head]);
            let kept = libm::expf(step * weights.decay[head]);
            let numbers = seen[own.clone()].iter().zip(&row[own.clone()]);
            for ((number, gate), states) in numbers.zip(states.chunks_exact_mut(size)) {
                let added = step * number;
                let mut sum = 0.0;
                for ((state, write), read) in states.iter_mut().zip(write).zip(read) {
                    *state = *state * kept + added * write;
                    sum += *state * read;
                }
                out.push((sum + weights.skip[head] * number) * silu(*gate));
            }
        }
        out
    }
}

/// The logarithm of one and an exponential; past 20 that is the number itself.
pub(super) fn soft_plus(x: f32) -> f32 {
    if x > 20.0 { x } else { libm::log1pf(libm::expf(x)) }
}
