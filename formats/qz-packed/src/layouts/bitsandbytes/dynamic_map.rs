//! The signed eight-bit "dynamic" numbers that the blocks' scales are rounded to
//! (`create_dynamic_map`): seven powers of ten, each with twice as many fractions as the one
//! below.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over rows of a matrix whose size was checked, in groups that are not empty"
)]

/// Codes of the map.
pub(super) const COUNT: usize = 256;

/// The numbers by code, ascending.
pub(super) fn numbers() -> [f32; COUNT] {
    const EXPONENTS: i32 = 7;
    let mut numbers = Vec::with_capacity(COUNT);
    for exponent in 0..EXPONENTS {
        let fractions = 1usize << exponent;
        let bounds = linear_space(0.1, 1.0, fractions + 1);
        for pair in bounds.windows(2) {
            // torch multiplies a tensor with a number of Python in the tensor's type.
            let mean = (pair[0] + pair[1]) / 2.0 * POWERS[exponent as usize];
            numbers.extend([mean, -mean]);
        }
    }
    numbers.extend([0.0, 1.0]);
    numbers.sort_by(f32::total_cmp);
    std::array::from_fn(|code| numbers[code])
}

/// Ten to the power of minus six up to zero.
const POWERS: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// `torch.linspace`: steps from the near end.
fn linear_space(first: f32, last: f32, count: usize) -> Vec<f32> {
    let step = (last - first) / (count - 1) as f32;
    let number = |position: usize| match position < count / 2 {
        true => (f64::from(first) + f64::from(step) * position as f64) as f32,
        false => (f64::from(last) - f64::from(step) * (count - 1 - position) as f64) as f32,
    };
    (0..count).map(number).collect()
}

/// The code that a value in -1..=1 gets: that of the number nearest to the middle of one of
/// 65536 equal bins that the value falls in, the lower of two as near. This is what the
/// package's library does (measured on three million values with 0.50.2, none differing);
/// close to the middle of two numbers it is not always the nearer one.
pub(super) fn code_of(numbers: &[f32; COUNT], value: f32) -> u8 {
    const HALF_BINS: f32 = 32_767.5;
    let bin = ((value + 1.0) * HALF_BINS + 0.5).floor();
    nearest(numbers, (f64::from(bin) / f64::from(HALF_BINS) - 1.0) as f32)
}

/// The code of the nearest number, the lower of two as near.
fn nearest(numbers: &[f32; COUNT], value: f32) -> u8 {
    let above = numbers.partition_point(|number| *number < value);
    let below = above.saturating_sub(1);
    let above = above.min(COUNT - 1);
    let is_above = (numbers[above] - value).abs() < (value - numbers[below]).abs();
    (if is_above { above } else { below }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, bytes_of};

    #[test]
    fn as_bitsandbytes_makes_them() {
        assert_golden("bnb-maps", "dynamic", &bytes_of(&numbers()));
    }

    #[test]
    fn numbers_are_nearest_to_themselves() {
        let numbers = numbers();
        for (code, number) in numbers.iter().enumerate() {
            assert_eq!(usize::from(nearest(&numbers, *number)), code);
        }
        assert_eq!(nearest(&numbers, -2.0), 0);
        assert_eq!(nearest(&numbers, 2.0), 255);
    }
}
