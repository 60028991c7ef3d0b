//! The packed upper triangle of a symmetric matrix: rows one behind the other, each from
//! its diagonal on.

/// Elements of the triangle of a matrix with so many rows.
pub fn packed_len(size: usize) -> usize {
    size * (size + 1) / 2
}

/// Where a row's diagonal is.
pub(crate) fn packed_start(size: usize, row: usize) -> usize {
    row * size - row * row.saturating_sub(1) / 2
}

/// The whole symmetric matrix, row by row.
///
/// # Panics
/// If there are not that many elements.
pub fn unpack(size: usize, packed: &[f32]) -> Vec<f32> {
    assert_eq!(packed.len(), packed_len(size), "elements of the triangle");
    let mut full = vec![0.0; size * size];
    for row in 0..size {
        let upper = &packed[packed_start(size, row)..][..size - row];
        full[row * size + row..(row + 1) * size].copy_from_slice(upper);
        for (column, number) in (row..size).zip(upper) {
            full[column * size + row] = *number;
        }
    }
    full
}
