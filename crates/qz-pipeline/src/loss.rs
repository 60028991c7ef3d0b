//! Weights that an output's type cannot hold: blocks of which more than half is lost once they
//! are decoded, because their scale vanished or cannot be said, or their range was cut.
//!
//! Looking is cheap where nothing is wrong: the first weights of a block tell that it is
//! an ordinary one, of which no type loses so much. Only a block that is not is decoded.

use qz_tensor::DataType;

/// Below it scales of binary16 may be subnormal numbers, or vanish: in blocks of blocks they
/// are a weight's 4096th part.
const FAINT: f32 = 1e-3;

/// The same for scales of E4M3, where nothing else scales them: 2^-9 is their least.
const FAINT_E4M3: f32 = 2e-2;

/// Beyond it numbers may become infinite.
const LARGE: f32 = 1e18;

/// How faint a weight is beside the largest that it shares a scale with, before E4M3 cannot
/// hold it any more.
const FAINT_BESIDE: f32 = 1e-4;

/// Types with fewer bits for a weight lose more than half of many an ordinary block.
const FEWEST_BITS: f64 = 2.6;

/// Which blocks are looked at closely.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspicion {
    /// Weights of a block.
    block: usize,
    /// A block is suspicious whose weights are all smaller.
    faint: f32,
    /// A block is suspicious whose weights have one sign.
    signs: bool,
    /// A block is suspicious of whose weights most are zero.
    zeros: bool,
    /// Half of a suspicious block has to be left.
    fine: bool,
    /// The largest magnitude of all weights that are looked at, if that is known.
    largest: Option<f32>,
}

impl Suspicion {
    /// Of blocks of an element type; those of plain numbers are rows.
    pub(crate) fn of_type(data_type: DataType, columns: usize) -> Self {
        let block = match data_type.is_block() {
            true => data_type.block_elements(),
            // A vector's elements are rows of one.
            false if columns <= 1 => usize::MAX,
            false => columns,
        };
        let faint = if data_type == DataType::NVFP4 { FAINT_E4M3 } else { FAINT };
        // Its grid has no zero.
        let zeros = data_type == DataType::IQ3_S;
        let fine = data_type.bits_per_weight() >= FEWEST_BITS;
        Self { block, faint, signs: false, zeros, fine, largest: None }
    }

    /// Of groups of a packed layout. `faint` is what the layout says of the matrix, `largest` the
    /// largest magnitude of the weights that are looked at.
    pub(crate) fn of_groups(columns: usize, faint: f32, largest: f32) -> Self {
        let faint = FAINT.max(faint).max(largest * FAINT_BESIDE);
        let (block, largest) = (columns.max(1), Some(largest));
        Self { block, faint, signs: true, zeros: false, fine: true, largest }
    }

    /// Of groups of which nothing but their size is known, nor who chose their values: error
    /// feedback may change an ordinary group by more than half, where its inputs are weak.
    pub(crate) fn of_unknown_groups(columns: usize, bits: f64) -> Self {
        Self { fine: bits >= FEWEST_BITS, ..Self::of_groups(columns, FAINT, 0.0) }
    }

    /// The same as who writes groups looks at them: half of a suspicious one has to be left,
    /// however few bits there are.
    pub(crate) fn as_written(self) -> Self {
        Self { fine: true, ..self }
    }

    fn blocks<'a>(&self, weights: &'a [f32]) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        weights.chunks(self.block)
    }

    /// True if some block may be lost, or become infinite.
    pub(crate) fn is_raised(&self, weights: &[f32]) -> bool {
        self.has_odd_block(weights) || self.largest.unwrap_or_else(|| largest(weights)) > LARGE
    }

    /// True if some block may be lost.
    pub(crate) fn has_odd_block(&self, weights: &[f32]) -> bool {
        self.blocks(weights).any(|block| self.is_odd(block))
    }

    fn is_odd(&self, block: &[f32]) -> bool {
        let is_faint = || block.iter().all(|weight| weight.abs() < self.faint);
        let has_one_sign = || {
            block.iter().all(|weight| *weight >= 0.0) || block.iter().all(|weight| *weight <= 0.0)
        };
        let is_bare = || 2 * block.iter().filter(|weight| **weight == 0.0).count() > block.len();
        (is_faint() || (self.signs && has_one_sign()) || (self.zeros && is_bare()))
            && block.iter().any(|weight| *weight != 0.0)
    }

    /// What is lost of the blocks, or the first weight that became no number.
    pub(crate) fn lost(&self, wanted: &[f32], written: &[f32]) -> Result<Lost, usize> {
        if let Some(position) = written.iter().position(|weight| !weight.is_finite()) {
            return Err(position);
        }
        let blocks = self.blocks(wanted).zip(self.blocks(written));
        let lost = blocks.filter(|(wanted, written)| {
            Energies::of(wanted, written).is_lost(self.fine && self.is_odd(wanted))
        });
        Ok(lost.map(|(wanted, _)| Lost::of(wanted)).fold(Lost::default(), Lost::and))
    }
}

/// The largest magnitude.
pub(crate) fn largest(weights: &[f32]) -> f32 {
    let mut most = [0.0f32; 16];
    let (whole, rest) = weights.as_chunks::<16>();
    for weights in whole {
        for (most, weight) in most.iter_mut().zip(weights) {
            let weight = weight.abs();
            *most = if weight > *most { weight } else { *most };
        }
    }
    rest.iter().chain(&most).fold(0.0, |most, weight| most.max(weight.abs()))
}

/// Lost blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Lost {
    /// Weights that are not zero.
    pub(crate) weights: u64,
    /// Their energy.
    pub(crate) energy: f64,
}

impl Lost {
    fn of(block: &[f32]) -> Self {
        let weights = block.iter().filter(|weight| **weight != 0.0).count() as u64;
        Self { weights, energy: energy(block) }
    }

    /// These and others.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { weights: self.weights + other.weights, energy: self.energy + other.energy }
    }
}

fn energy(weights: &[f32]) -> f64 {
    weights.iter().map(|weight| f64::from(*weight) * f64::from(*weight)).sum()
}

/// A block before and after.
#[derive(Clone, Copy, Debug)]
struct Energies {
    wanted: f64,
    written: f64,
    error: f64,
}

impl Energies {
    fn of(wanted: &[f32], written: &[f32]) -> Self {
        let differences = wanted.iter().zip(written);
        let differences =
            differences.map(|(wanted, written)| f64::from(*wanted) - f64::from(*written));
        let error = differences.map(|difference| difference * difference).sum();
        Self { wanted: energy(wanted), written: energy(written), error }
    }

    /// A block of a type with enough bits is lost if less than half of its energy is left, more
    /// than twice as much, or the error has more than half. Any other has a hundredth at least: a
    /// type's worst rounding leaves the largest weight nearly as it was.
    fn is_lost(self, fine: bool) -> bool {
        let least = if fine { 2.0 } else { 100.0 };
        let is_left = (self.wanted / least..=self.wanted * least).contains(&self.written);
        let is_far = fine && self.error > self.wanted / 2.0;
        self.wanted > 0.0 && (!is_left || is_far)
    }
}

/// What is said of an output's lost weights: of each tensor, its name, how many weights are
/// lost, and of how many.
pub(crate) fn warning(target: &str, tensors: &[(&str, u64, u64)]) -> Option<String> {
    const LISTED: usize = 8;
    let shown: Vec<String> = tensors
        .iter()
        .take(LISTED)
        .map(|(name, lost, all)| format!("{} ({lost} of {all})", name.escape_debug()))
        .collect();
    let more = match tensors.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more tensors"),
    };
    (!shown.is_empty()).then(|| {
        format!(
            "{target} cannot hold weights of {}{more}: of whole blocks more than half is lost",
            shown.join(", ")
        )
    })
}

#[cfg(test)]
mod tests;
