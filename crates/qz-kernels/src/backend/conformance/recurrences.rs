//! Recurrences beside their definition.

use super::super::Backend;
use super::super::recurrence::{Convolution, Delta, Recurrence, Selective, recur};
use super::{Checked, compare, made_up};

/// Every kind, and what its options are.
pub(super) fn check<B: Backend>(backend: &B) -> Checked<()> {
    for (taps, activates) in [(1, true), (4, false), (4, true)] {
        one(backend, &Recurrence::Convolution(Convolution { width: 13, taps, activates }), true)?;
        one(backend, &Recurrence::Convolution(Convolution { width: 13, taps, activates }), false)?;
    }
    for takes_turns in [false, true] {
        let shape = Delta {
            key_heads: 2,
            value_heads: 6,
            key_size: 5,
            value_size: 7,
            takes_turns,
            decays_by_number: takes_turns,
        };
        one(backend, &Recurrence::Delta(shape), true)?;
    }
    one(backend, &Recurrence::Selective(Selective { width: 11, state_size: 6 }), true)
}

/// A sequence whose second part comes later, and whose rows are not the buffers' first.
fn one<B: Backend>(backend: &B, shape: &Recurrence, with_last: bool) -> Checked<()> {
    let (before, tokens, first_part) = (2, 23, 9);
    let widths = shape.inputs();
    let made = |(at, width): (usize, &usize)| made_up((before + tokens) * width, 30 + at as u32);
    let inputs: Vec<Vec<f32>> = widths.iter().enumerate().map(made).collect();
    let counts = shape.weights();
    let used = counts.len() - usize::from(!with_last);
    // Decays are negative.
    let made = |(at, count): (usize, &usize)| -> Vec<f32> {
        let below = match (shape, at) {
            (Recurrence::Delta(_), 1) | (Recurrence::Selective(_), 0) => 1.5,
            _ => 0.0,
        };
        made_up(*count, 40 + at as u32).iter().map(|number| number - below).collect()
    };
    let weights: Vec<Vec<f32>> = counts[..used].iter().enumerate().map(made).collect();
    let own: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
    let rows = inputs.iter().zip(&widths);
    let rows: Vec<&[f32]> = rows.map(|(input, width)| &input[before * width..]).collect();
    let expected = recur(shape, &own, &mut vec![0.0; shape.state()], &rows);
    let there = |all: &[Vec<f32>], columns: &[usize]| -> Checked<Vec<B::Buffer>> {
        all.iter().zip(columns).map(|(own, width)| Ok(backend.buffer(*width, own)?)).collect()
    };
    let (weights, inputs) = (there(&weights, &counts)?, there(&inputs, &widths)?);
    let (weights, inputs): (Vec<_>, Vec<_>) = (weights.iter().collect(), inputs.iter().collect());
    let mut state = backend.zeros(1, shape.state())?;
    let mut out = backend.zeros(before + tokens, shape.width())?;
    for part in [0..1, 1..first_part, first_part..tokens] {
        let rows = before + part.start..before + part.end;
        backend.recur(shape, &weights, &mut state, &inputs, rows, &mut out)?;
    }
    let found = backend.numbers(&out)?;
    compare(&format!("{shape:?}"), &found[before * shape.width()..], &expected)
}
