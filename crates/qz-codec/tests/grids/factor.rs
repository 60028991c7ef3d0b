//! Factors of symmetric matrices.

/// An upper triangular `R` with `matrix = R Rᵀ`, row by row. With errors `e` of a
/// row, `e H eᵀ = |e R|²`: component `k` holds the errors of columns up to `k` only,
/// so columns can be rounded from left to right, each taking up what the earlier
/// ones lost (Chee et al., "QuIP", section 3: LDLQ, which is GPTQ).
pub(crate) fn upper(matrix: &[f64], size: usize) -> Option<Vec<f64>> {
    let mut upper = vec![0.0; size * size];
    for k in (0..size).rev() {
        for i in (0..=k).rev() {
            let (row_i, row_k) = (&upper[i * size..][..size], &upper[k * size..][..size]);
            let later: f64 = row_i[k + 1..].iter().zip(&row_k[k + 1..]).map(|(a, b)| a * b).sum();
            let rest = matrix[i * size + k] - later;
            upper[i * size + k] = if i < k {
                rest / upper[k * size + k]
            } else if rest > 0.0 {
                rest.sqrt()
            } else {
                return None;
            };
        }
    }
    Some(upper)
}

/// The matrix with a part of its mean diagonal added to its diagonal.
pub(crate) fn damped(matrix: &[f64], size: usize, part: f64) -> Vec<f64> {
    let mean = (0..size).map(|at| matrix[at * (size + 1)]).sum::<f64>() / size as f64;
    let mut damped = matrix.to_vec();
    for at in 0..size {
        damped[at * (size + 1)] += part * mean.max(f64::MIN_POSITIVE);
    }
    damped
}

/// Solves `x A = b` for symmetric positive definite `A`; none if it is not.
pub(crate) fn solve(matrix: &[f64], right: &[f64]) -> Option<Vec<f64>> {
    let size = right.len();
    let upper = upper(matrix, size)?;
    // R Rᵀ x = b: first R y = b, from below; then Rᵀ x = y, from above.
    let mut x = right.to_vec();
    for i in (0..size).rev() {
        let row = &upper[i * size..][..size];
        let later: f64 = row[i + 1..].iter().zip(&x[i + 1..]).map(|(a, b)| a * b).sum();
        x[i] = (x[i] - later) / row[i];
    }
    for i in 0..size {
        let earlier: f64 = (0..i).map(|j| upper[j * size + i] * x[j]).sum();
        x[i] = (x[i] - earlier) / upper[i * size + i];
    }
    Some(x)
}
