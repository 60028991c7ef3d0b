//! Matrices in somebody's memory.

use std::ops::Range;

use qz_codec::grid::Rows;

/// A matrix that is read: element `(r, c)` is at `r · row_stride + c · column_stride`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    numbers: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// `rows` rows of `columns` numbers, which begin `stride` numbers apart.
    ///
    /// # Panics
    /// If the numbers end before the matrix does.
    pub fn new(numbers: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        check(numbers.len(), rows, columns, stride);
        Self { numbers, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// Rows one behind the other.
    ///
    /// # Panics
    /// If the numbers end before the matrix does.
    pub fn dense(numbers: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::new(numbers, rows, columns, columns)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows become columns.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Some rows of some columns.
    ///
    /// # Panics
    /// If they are not within the matrix.
    pub fn block(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows of a block");
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns of a block");
        let (row_count, column_count) = (rows.len(), columns.len());
        let first = rows.start * self.row_stride + columns.start * self.column_stride;
        // An empty block may begin behind the last number.
        let numbers = self.numbers.get(first..).unwrap_or_default();
        Self { numbers, rows: row_count, columns: column_count, ..self }
    }

    /// One row's numbers, if they lie behind each other, and how far rows are apart.
    pub(super) fn contiguous_rows(&self) -> Option<(&'a [f32], usize)> {
        (self.column_stride == 1).then_some((self.numbers, self.row_stride))
    }

    /// One element.
    pub fn at(&self, row: usize, column: usize) -> f32 {
        self.numbers[row * self.row_stride + column * self.column_stride]
    }
}

impl<'a> From<Rows<'a>> for View<'a> {
    fn from(rows: Rows<'a>) -> Self {
        let (numbers, stride) = rows.strided();
        Self::new(numbers, rows.count(), rows.columns(), stride)
    }
}

/// A matrix that is written: element `(r, c)` is at `r · stride + c`.
#[derive(Debug)]
pub struct ViewMut<'a> {
    numbers: &'a mut [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> ViewMut<'a> {
    /// `rows` rows of `columns` numbers, which begin `stride` numbers apart.
    ///
    /// # Panics
    /// If the numbers end before the matrix does, or rows overlap.
    pub fn new(numbers: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        check(numbers.len(), rows, columns, stride);
        assert!(rows <= 1 || stride >= columns, "rows overlap");
        Self { numbers, rows, columns, stride }
    }

    /// Rows one behind the other.
    ///
    /// # Panics
    /// If the numbers end before the matrix does.
    pub fn dense(numbers: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::new(numbers, rows, columns, columns)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn fill(&mut self, value: f32) {
        for row in 0..self.rows {
            self.numbers[row * self.stride..][..self.columns].fill(value);
        }
    }

    /// The numbers, and how far rows are apart.
    pub(super) fn into_parts(self) -> (&'a mut [f32], usize) {
        (self.numbers, self.stride)
    }

    pub(super) fn parts(&mut self) -> (&mut [f32], usize) {
        (self.numbers, self.stride)
    }
}

/// Panics if a matrix does not fit its memory.
fn check(numbers: usize, rows: usize, columns: usize, stride: usize) {
    if rows > 0 && columns > 0 {
        let last = (rows - 1).checked_mul(stride).and_then(|first| first.checked_add(columns));
        assert!(
            last.is_some_and(|last| last <= numbers),
            "{numbers} numbers hold no {rows} x {columns} matrix with rows {stride} apart"
        );
    }
}
