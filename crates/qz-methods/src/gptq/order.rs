//! The order in which columns are visited: those whose inputs are largest first, while
//! there are many others to take up their errors.

use qz_codec::grid::GridSpec;
use serde::Serialize;

/// How columns are visited. Nothing of it is seen in the result's layout (`desc_act` is
/// false).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Order {
    /// From left to right.
    #[default]
    Natural,
    /// The largest first; units are fitted to the original weights before.
    Static,
    /// Units as wholes, the one with the largest column first, and within a unit the
    /// largest first; units are fitted to the weights as they are then (GAR,
    /// arXiv 2505.14638).
    GroupAware,
}

/// Columns in the order of visits. Lanes stay together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Visits {
    /// By visit: the column.
    pub(crate) columns: Vec<usize>,
    /// Units are fitted before the first visit.
    pub(crate) is_static: bool,
}

/// Units of more columns are fitted to the original weights: no block holds them.
const WIDEST_BLOCK: usize = 512;

impl Visits {
    /// Rows with their columns in the order of visits.
    pub(crate) fn of_rows(&self, rows: &[f32]) -> Vec<f32> {
        let rows = rows.chunks(self.columns.len().max(1));
        rows.flat_map(|row| self.columns.iter().map(|column| row[*column])).collect()
    }

    pub(crate) fn new(order: Order, spec: &GridSpec, diagonal: &[f32]) -> Self {
        let lane = spec.lane_columns;
        let weight =
            |first: usize| diagonal[first..first + lane].iter().copied().fold(0.0, f32::max);
        let descending = |firsts: &mut Vec<usize>| {
            firsts.sort_by(|a, b| weight(*b).total_cmp(&weight(*a)).then(a.cmp(b)));
        };
        let lanes =
            |first: usize, end: usize| -> Vec<usize> { (first..end).step_by(lane).collect() };
        let unit = spec.unit_columns;
        let firsts = match order {
            Order::Natural => lanes(0, diagonal.len()),
            Order::Static => {
                let mut all = lanes(0, diagonal.len());
                descending(&mut all);
                all
            }
            Order::GroupAware => {
                let mut units: Vec<Vec<usize>> = (0..diagonal.len())
                    .step_by(unit)
                    .map(|first| {
                        let mut lanes = lanes(first, first + unit);
                        descending(&mut lanes);
                        lanes
                    })
                    .collect();
                units.sort_by(|a, b| weight(b[0]).total_cmp(&weight(a[0])).then(a[0].cmp(&b[0])));
                units.concat()
            }
        };
        let columns = firsts.into_iter().flat_map(|first| first..first + lane).collect();
        Self { columns, is_static: order == Order::Static || unit > WIDEST_BLOCK }
    }

    /// True if columns are visited from left to right.
    pub(crate) fn is_natural(&self) -> bool {
        self.columns.iter().enumerate().all(|(visit, column)| visit == *column)
    }
}

/// Columns that are visited before their errors are multiplied with what later ones take
/// up: whole units, if these are not too wide.
pub(crate) fn block_columns(spec: &GridSpec) -> usize {
    const BLOCK: usize = 128;
    match spec.unit_columns {
        unit if unit <= BLOCK => BLOCK / unit * unit,
        unit if unit <= WIDEST_BLOCK => unit,
        unit => (1..=BLOCK / spec.lane_columns)
            .map(|lanes| lanes * spec.lane_columns)
            .rfind(|block| unit.is_multiple_of(*block))
            .unwrap_or(spec.lane_columns),
    }
}

#[cfg(test)]
mod tests {
    use qz_codec::grid::Grid;
    use qz_codec::grid::{IntegerFormat, integers};

    use super::*;

    fn check(order: Order, group_columns: usize, expected: &[usize], is_static: bool) {
        let grid = integers(IntegerFormat { bits: 4, symmetric: true, group_columns });
        let diagonal = [1.0, 5.0, 2.0, 9.0, 3.0, 4.0];
        let visits = Visits::new(order, grid.spec(), &diagonal);
        assert_eq!(visits, Visits { columns: expected.to_vec(), is_static }, "{order:?}");
        assert_eq!(visits.is_natural(), order == Order::Natural);
    }

    #[test]
    fn orders() {
        check(Order::Natural, 2, &[0, 1, 2, 3, 4, 5], false);
        check(Order::Static, 2, &[3, 1, 5, 4, 2, 0], true);
        check(Order::GroupAware, 2, &[3, 2, 1, 0, 5, 4], false);
        check(Order::GroupAware, 6, &[3, 1, 5, 4, 2, 0], false);
    }

    #[test]
    fn blocks_hold_whole_units() {
        let check = |group_columns: usize, expected: usize| {
            let grid = integers(IntegerFormat { bits: 4, symmetric: true, group_columns });
            assert_eq!(block_columns(grid.spec()), expected, "{group_columns}");
        };
        check(32, 128);
        check(48, 96);
        check(128, 128);
        check(256, 256);
        check(2048, 128);
        check(1000, 125);
    }
}
