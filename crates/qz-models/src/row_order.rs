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
}

impl RowOrder {
    /// The order that puts rows of this one back.
    pub fn inverse(self) -> Self {
        match self {
            Self::AsStored => Self::AsStored,
            Self::InterleavedHalves { head_rows } => Self::SeparatedHalves { head_rows },
            Self::SeparatedHalves { head_rows } => Self::InterleavedHalves { head_rows },
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
        }
    }

    /// The source row that output row `row` is.
    pub fn source_row(self, row: u64) -> u64 {
        match self {
            Self::AsStored => row,
            Self::InterleavedHalves { head_rows } => interleaved(row, head_rows),
            Self::SeparatedHalves { head_rows } => separated(row, head_rows),
        }
    }

    /// The output row that source row `row` becomes.
    pub fn output_row(self, row: u64) -> u64 {
        match self {
            Self::AsStored => row,
            Self::InterleavedHalves { head_rows } => separated(row, head_rows),
            Self::SeparatedHalves { head_rows } => interleaved(row, head_rows),
        }
    }

    /// True if rows stay where they are.
    pub fn is_identity(self) -> bool {
        matches!(
            self,
            Self::AsStored
                | Self::InterleavedHalves { head_rows: 0..=2 }
                | Self::SeparatedHalves { head_rows: 0..=2 }
        )
    }
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
    }

    #[test]
    fn rows_stay_in_their_unit_and_come_back() {
        for order in [
            RowOrder::AsStored,
            RowOrder::InterleavedHalves { head_rows: 2 },
            RowOrder::InterleavedHalves { head_rows: 64 },
            RowOrder::InterleavedHalves { head_rows: 96 },
            RowOrder::SeparatedHalves { head_rows: 64 },
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
