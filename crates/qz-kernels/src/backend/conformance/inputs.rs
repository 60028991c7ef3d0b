//! Rounded inputs beside their definition, number for number.

use super::super::{Activations, Backend, Number};
use super::{Checked, made_up};

/// Every kind.
pub(super) fn check<B: Backend>(backend: &B) -> Checked {
    for activations in [
        Activations::Full,
        Activations::Token(Number::Int(8)),
        Activations::Token(Number::Int(4)),
        Activations::Token(Number::E4M3),
        Activations::Group(Number::E4M3, 64),
        Activations::Micro(Number::E4M3),
        Activations::Micro(Number::E2M1),
        Activations::Nvfp4,
        Activations::Tensor(Number::E4M3),
        Activations::Tensor(Number::Int(8)),
    ] {
        one(backend, activations)?;
    }
    Ok(())
}

fn one<B: Backend>(backend: &B, activations: Activations) -> Checked {
    const COLUMNS: usize = 192;
    let mut inputs = made_up(13 * COLUMNS, 71);
    // A token of nothing, and one whose numbers are beyond what a static scale holds.
    inputs[..COLUMNS].fill(0.0);
    inputs[COLUMNS..2 * COLUMNS].iter_mut().for_each(|number| *number *= 1e3);
    let rounding = activations.with(activations.stored(0.9));
    let mut expected = inputs.clone();
    expected.chunks_exact_mut(COLUMNS).for_each(|row| rounding.round_row(row));
    let found = backend.round_inputs(&backend.buffer(COLUMNS, &inputs)?, &rounding)?;
    let found = backend.take_numbers(found)?;
    match found.iter().zip(&expected).position(|(found, expected)| found != expected) {
        None if found.len() == expected.len() => Ok(()),
        at => {
            let problem = format!("round_inputs, {activations:?}: number {at:?} differs");
            Err(problem.into())
        }
    }
}
