//! In which order a tensor's rows are written.

/// The order of a tensor's rows (of a vector: its elements, that is, always the
/// outermost dimension) in the output, in terms of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowOrder {
    /// As in the source.
    AsStored,
    /// Within each run of `head_rows` rows the first half takes the even places
    /// and the second half the odd ones. `head_rows` is even and divides the
    /// tensor's rows.
    InterleavedHalves {
        /// Rows of one attention head.
        head_rows: u64,
    },
    /// The way back: within each run of `head_rows` rows the even ones make the
    /// first half and the odd ones the second.
    SeparatedHalves {
        /// Rows of one attention head.
        head_rows: u64,
    },
    /// The first `before` rows stay. Behind them lie blocks of `rows` rows, `outer` times
    /// `inner` of them in the source; in the output they lie `inner` times `outer`.
    Turned {
        /// Rows that stay.
        before: u64,
        /// How many runs of blocks the source has.
        outer: u64,
        /// How many blocks a run has.
        inner: u64,
        /// Rows of a block.
        rows: u64,
    },
}

impl RowOrder {
    /// The order that puts rows of this one back.
    pub fn inverse(self) -> Self {
        match self {
            Self::AsStored => Self::AsStored,
            Self::InterleavedHalves { head_rows } => Self::SeparatedHalves { head_rows },
            Self::SeparatedHalves { head_rows } => Self::InterleavedHalves { head_rows },
            Self::Turned { before, outer, inner, rows } => {
                Self::Turned { before, outer: inner, inner: outer, rows }
            }
        }
    }

    /// Rows that move among themselves: output rows `[k * unit, (k + 1) * unit)`
    /// need source rows of the same range, and no others. At least 1.
    pub fn unit(self) -> u64 {
        match self {
            Self::AsStored => 1,
            Self::InterleavedHalves { head_rows } | Self::SeparatedHalves { head_rows } => {
                head_rows.max(1)
            }
            Self::Turned { before, outer, inner, rows } => {
                outer.saturating_mul(inner).saturating_mul(rows).saturating_add(before).max(1)
            }
        }
    }

    /// The source row that output row `row` is.
    pub fn source_row(self, row: u64) -> u64 {
        match self {
            Self::AsStored => row,
            Self::InterleavedHalves { head_rows } => interleaved(row, head_rows),
            Self::SeparatedHalves { head_rows } => separated(row, head_rows),
            Self::Turned { before, outer, inner, rows } => {
                turned(row, before, [outer, inner], rows)
            }
        }
    }

    /// The output row that source row `row` becomes.
    pub fn output_row(self, row: u64) -> u64 {
        match self {
            Self::AsStored => row,
            Self::InterleavedHalves { head_rows } => separated(row, head_rows),
            Self::SeparatedHalves { head_rows } => interleaved(row, head_rows),
            Self::Turned { .. } => self.inverse().source_row(row),
        }
    }

    /// True if rows stay where they are.
    pub fn is_identity(self) -> bool {
        matches!(
            self,
            Self::AsStored
                | Self::InterleavedHalves { head_rows: 0..=2 }
                | Self::SeparatedHalves { head_rows: 0..=2 }
                | Self::Turned { outer: 0..=1, .. }
                | Self::Turned { inner: 0..=1, .. }
        )
    }
}

/// The row of the source that is at `row` of blocks whose runs are turned. Tensors of several
/// matrices have each in this order.
fn turned(row: u64, before: u64, [outer, inner]: [u64; 2], rows: u64) -> u64 {
    let unit = RowOrder::Turned { before, outer, inner, rows }.unit();
    let (first, within) = (row - row % unit, row % unit);
    let Some(within) = within.checked_sub(before) else { return row };
    let (block, own) = (within / rows.max(1), within % rows.max(1));
    let (run, place) = (block % outer.max(1), block / outer.max(1));
    first + before + (run * inner + place) * rows + own
}

/// The row of separated halves that is at `row` of interleaved ones.
fn interleaved(row: u64, head_rows: u64) -> u64 {
    let within = row % head_rows.max(1);
    row - within + (within % 2) * (head_rows / 2) + within / 2
}

/// The row of interleaved halves that is at `row` of separated ones.
fn separated(row: u64, head_rows: u64) -> u64 {
    let (within, half) = (row % head_rows.max(1), (head_rows / 2).max(1));
    row - within + (within % half) * 2 + within / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_follow_the_reference() {
        // numpy: arange(16).reshape(2, 2, 4).swapaxes(1, 2).reshape(16)
        let expected = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15];
        let order = RowOrder::InterleavedHalves { head_rows: 8 };
        let found: Vec<u64> = (0..16).map(|row| order.source_row(row)).collect();
        assert_eq!(found, expected);
        // numpy: arange(12).reshape(2, 3, 2).swapaxes(0, 1).reshape(12), behind two others
        let expected = [0, 1, 2, 3, 8, 9, 4, 5, 10, 11, 6, 7, 12, 13];
        let order = RowOrder::Turned { before: 2, outer: 2, inner: 3, rows: 2 };
        let found: Vec<u64> = (0..14).map(|row| order.source_row(row)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_stay_in_their_unit_and_come_back() {
        for order in [
            RowOrder::AsStored,
            RowOrder::InterleavedHalves { head_rows: 2 },
            RowOrder::InterleavedHalves { head_rows: 64 },
            RowOrder::InterleavedHalves { head_rows: 96 },
            RowOrder::SeparatedHalves { head_rows: 64 },
            RowOrder::Turned { before: 0, outer: 2, inner: 3, rows: 4 },
            RowOrder::Turned { before: 32, outer: 4, inner: 2, rows: 8 },
            RowOrder::Turned { before: 32, outer: 1, inner: 2, rows: 8 },
        ] {
            for row in 0..384 {
                let source = order.source_row(row);
                assert_eq!(source / order.unit(), row / order.unit(), "{order:?} {row}");
                assert_eq!(order.output_row(source), row, "{order:?} {row}");
                assert_eq!(order.inverse().source_row(row), order.output_row(row), "{row}");
                assert!(!order.is_identity() || source == row, "{order:?} {row}");
            }
        }
    }
}
