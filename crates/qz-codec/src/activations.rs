//! What an engine rounds the inputs of a matrix to before it multiplies. Source:
//! compressed-tensors 0.20 (`quantization/lifecycle/forward.py`, `quantization/utils/helpers.py`),
//! whose results in f32 these are, number for number.
//!
//! A scale is found for each token, or for each run of a token's numbers (dynamic), or the
//! checkpoint has a number for the whole tensor (static; NVFP4 has one beside its dynamic scales).

use std::fmt;

use crate::small_float::{
    E2M1, LARGEST_E2M1, LARGEST_E4M3, e2m1_from_f32, e4m3_from_f32, f32_from_e4m3, f32_from_e8m0,
};

/// Numbers of NVFP4 that share a scale.
const NVFP4_RUN: usize = 16;
/// Numbers of the microscaling formats that share one.
const MICRO_RUN: usize = 32;

/// What an input can become, times a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Number {
    /// A signed integer of so many bits.
    Int(u32),
    /// A float of eight bits.
    E4M3,
    /// A float of four bits.
    E2M1,
}

/// What inputs are rounded to, and with which scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// Nothing: they stay in 16 bits.
    #[default]
    Full,
    /// A scale for each token.
    Token(Number),
    /// A scale for each run of so many numbers of a token.
    Group(Number, usize),
    /// A power of two for each 32 numbers of a token.
    Micro(Number),
    /// E2M1 with an E4M3 scale for each 16 numbers of a token, all divided by a number that the
    /// checkpoint has for the tensor.
    Nvfp4,
    /// A scale that the checkpoint has for the tensor.
    Tensor(Number),
}

/// [`Activations`] of one matrix, with the number that its checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputRounding {
    /// What inputs become.
    pub activations: Activations,
    /// The number; 1 where none is stored.
    pub stored: f32,
}

impl Number {
    /// The largest magnitude on either side.
    fn limits(self) -> (f32, f32) {
        match self {
            Self::Int(bits) => {
                let half = f32::from(1u16 << bits.clamp(1, 15).wrapping_sub(1));
                (-half, half - 1.0)
            }
            Self::E4M3 => (-LARGEST_E4M3, LARGEST_E4M3),
            Self::E2M1 => (-LARGEST_E2M1, LARGEST_E2M1),
        }
    }

    /// What the largest magnitude is divided by: half of the range.
    fn half_range(self) -> f32 {
        let (least, most) = self.limits();
        (most - least) / 2.0
    }

    /// The scale of numbers of which the largest has this magnitude.
    fn scale(self, largest: f32) -> f32 {
        let scale = largest / self.half_range();
        if scale == 0.0 { f32::EPSILON } else { scale }
    }

    /// The nearest one, times the scale.
    fn rounded(self, value: f32, scale: f32) -> f32 {
        let (least, most) = self.limits();
        let scaled = (value / scale).clamp(least, most);
        let nearest = match self {
            Self::Int(_) => scaled.round_ties_even(),
            Self::E4M3 => f32_from_e4m3(e4m3_from_f32(scaled)),
            Self::E2M1 => E2M1[usize::from(e2m1_from_f32(scaled))],
        };
        nearest * scale
    }

    fn round_all(self, values: &mut [f32], scale: f32) {
        values.iter_mut().for_each(|value| *value = self.rounded(*value, scale));
    }

    /// The power of two of a run: its largest magnitude rounded to one, in parts of the largest
    /// of the type's own. Rounding up begins at the upper half of E2M1's last step, for E4M3, too
    /// (`generate_mx_scales`).
    fn power(self, largest: f32) -> f32 {
        let largest_exponent = match self {
            Self::E4M3 => 8,
            Self::E2M1 | Self::Int(_) => 2,
        };
        let exponent = (largest.to_bits() + (1 << 21)) >> 23;
        f32_from_e8m0(exponent.saturating_sub(largest_exponent).min(254) as u8)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(bits) => write!(f, "{bits}-bit integers"),
            Self::E4M3 => f.write_str("E4M3"),
            Self::E2M1 => f.write_str("E2M1"),
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("what they are"),
            Self::Token(number) => write!(f, "{number}, a scale for each token"),
            Self::Group(number, run) => write!(f, "{number}, a scale for each {run}"),
            Self::Micro(number) => write!(f, "{number}, a power of two for each {MICRO_RUN}"),
            Self::Nvfp4 => f.write_str("NVFP4"),
            Self::Tensor(number) => write!(f, "{number}, a stored scale"),
        }
    }
}

impl Activations {
    /// True if inputs become anything else than they are.
    pub fn rounds(self) -> bool {
        self != Self::Full
    }

    /// True if the checkpoint has a number for each matrix, which only inputs can tell.
    pub fn is_stored(self) -> bool {
        matches!(self, Self::Nvfp4 | Self::Tensor(_))
    }

    /// Numbers of a token that share a scale; none where all do.
    pub fn run(self) -> Option<usize> {
        match self {
            Self::Full | Self::Token(_) | Self::Tensor(_) => None,
            Self::Group(_, run) => Some(run),
            Self::Micro(_) => Some(MICRO_RUN),
            Self::Nvfp4 => Some(NVFP4_RUN),
        }
    }

    /// The number of a tensor whose largest input has this magnitude: what inputs are divided by;
    /// of NVFP4 what its scales are multiplied with before they become E4M3 (`generate_gparam`).
    pub fn stored(self, largest: f32) -> f32 {
        match self {
            Self::Tensor(number) => number.scale(largest),
            Self::Nvfp4 => {
                let stored = 1.0 / largest.max(f32::MIN_POSITIVE) * (LARGEST_E4M3 * LARGEST_E2M1);
                if stored.is_finite() { stored } else { 1.0 }
            }
            Self::Full | Self::Token(_) | Self::Group(..) | Self::Micro(_) => 1.0,
        }
    }

    /// The rounding of a matrix with this number.
    pub fn with(self, stored: f32) -> InputRounding {
        InputRounding { activations: self, stored }
    }
}

impl InputRounding {
    /// Rounds one token's inputs.
    pub fn round_row(&self, row: &mut [f32]) {
        let stored = self.stored;
        match self.activations {
            Activations::Full => {}
            Activations::Token(number) => number.round_all(row, number.scale(largest(row))),
            Activations::Tensor(number) => number.round_all(row, stored),
            Activations::Group(number, run) => {
                for run in row.chunks_mut(run.max(1)) {
                    number.round_all(run, number.scale(largest(run)));
                }
            }
            Activations::Micro(number) => {
                for run in row.chunks_mut(MICRO_RUN) {
                    number.round_all(run, number.power(largest(run)));
                }
            }
            Activations::Nvfp4 => {
                for run in row.chunks_mut(NVFP4_RUN) {
                    let scale = nvfp4_scale(largest(run), stored) / stored;
                    Number::E2M1.round_all(run, scale);
                }
            }
        }
    }
}

/// The E4M3 scale of a run.
fn nvfp4_scale(largest: f32, stored: f32) -> f32 {
    /// What compressed-tensors takes instead of zero, the type's epsilon.
    const EPSILON: f32 = 0.125;
    let scale = f32_from_e4m3(e4m3_from_f32(largest / LARGEST_E2M1 * stored));
    if scale == 0.0 { EPSILON } else { scale }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}
