//! Small systems, in `f64`.

/// Solves `A x = b` in place for a symmetric positive definite matrix of `right.len()`
/// rows, by Cholesky's factor of its lower half. False, with nothing of use left, if the
/// matrix is not positive definite.
///
/// # Panics
/// If the matrix has not the size of `right`.
pub fn solve(matrix: &mut [f64], right: &mut [f64]) -> bool {
    let size = right.len();
    assert_eq!(matrix.len(), size * size, "a square matrix");
    for column in 0..size {
        let (above, own) = matrix.split_at_mut(column * size);
        for row in 0..column {
            let other = &above[row * size..][..row + 1];
            let sum: f64 = own[..row].iter().zip(other).map(|(a, b)| a * b).sum();
            own[row] = (own[row] - sum) / other[row];
        }
        let square: f64 = own[..column].iter().map(|entry| entry * entry).sum();
        let rest = own[column] - square;
        // What is left of a dependent column is rounding.
        if rest.is_nan() || rest <= own[column].abs() * 1e-12 {
            return false;
        }
        own[column] = rest.sqrt();
    }
    for row in 0..size {
        let factors = &matrix[row * size..][..size];
        let sum: f64 = factors.iter().zip(&right[..row]).map(|(a, b)| a * b).sum();
        right[row] = (right[row] - sum) / factors[row];
    }
    for row in (0..size).rev() {
        right[row] /= matrix[row * size + row];
        let value = right[row];
        for earlier in 0..row {
            right[earlier] -= matrix[row * size + earlier] * value;
        }
    }
    true
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Numbers between -1 and 1.
    pub(crate) fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn systems_are_solved() {
        for size in 1..20 {
            let factor = numbers(size * size, size as u32);
            let entry = |i: usize, j: usize| -> f64 {
                let product =
                    (0..size).map(|k| f64::from(factor[i * size + k] * factor[j * size + k]));
                product.sum::<f64>() + if i == j { 0.1 } else { 0.0 }
            };
            let mut matrix: Vec<f64> =
                (0..size * size).map(|at| entry(at / size, at % size)).collect();
            let expected: Vec<f64> = (0..size).map(|at| at as f64 - 3.0).collect();
            let mut right: Vec<f64> =
                (0..size).map(|i| (0..size).map(|j| entry(i, j) * expected[j]).sum()).collect();
            assert!(solve(&mut matrix, &mut right), "{size}");
            for (found, expected) in right.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-6, "{size}: {found} {expected}");
            }
        }
    }

    #[test]
    fn what_is_not_positive_is_refused() {
        assert!(!solve(&mut [0.0], &mut [1.0]));
        assert!(!solve(&mut [1.0, 1.0, 1.0, 1.0], &mut [1.0, 1.0]));
        assert!(!solve(&mut [f64::NAN], &mut [1.0]));
        assert!(!solve(&mut [1.0, 2.0, 2.0, 1.0], &mut [1.0, 1.0]));
    }
}
