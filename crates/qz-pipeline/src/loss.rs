//! Weights that an output's type cannot hold: blocks of which next to nothing is left once they
//! are decoded, because their scale vanished or their range cannot be said.
//!
//! Looking is cheap where nothing is wrong: the first weights of a block tell that it is
//! an ordinary one. Only a block that is not is decoded.

use qz_tensor::DataType;

/// Below it scales may vanish: binary16's least number, times the levels of a block, and of
/// the scales in a block of blocks.
const FAINT: f32 = 1e-4;

/// The same for scales of E4M3, where nothing else scales them.
const FAINT_E4M3: f32 = 1e-2;

/// Beyond it numbers may become infinite.
const LARGE: f32 = 1e18;

/// How faint a weight is beside the largest that it shares a scale with, before E4M3 cannot
/// hold it any more.
const FAINT_BESIDE: f32 = 1e-5;

/// Which blocks are looked at closely.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspicion {
    /// Weights of a block.
    block: usize,
    /// A block is suspicious whose weights are all smaller.
    faint: f32,
    /// A block is suspicious whose weights have one sign.
    signs: bool,
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
        Self { block, faint, signs: false }
    }

    /// Of groups of a packed layout, of a matrix with this largest magnitude, if that is known.
    pub(crate) fn of_groups(columns: usize, largest: f32) -> Self {
        let faint = FAINT.max(largest * FAINT_BESIDE);
        Self { block: columns.max(1), faint, signs: true }
    }

    fn blocks<'a>(&self, weights: &'a [f32]) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        weights.chunks(self.block)
    }

    /// True if some block may be lost, or become infinite.
    pub(crate) fn is_raised(&self, weights: &[f32]) -> bool {
        self.has_odd_block(weights) || largest(weights) > LARGE
    }

    /// True if some block may be lost.
    pub(crate) fn has_odd_block(&self, weights: &[f32]) -> bool {
        self.blocks(weights).any(|block| self.is_odd(block))
    }

    fn is_odd(&self, block: &[f32]) -> bool {
        let is_faint = block.iter().all(|weight| weight.abs() < self.faint);
        let has_one_sign =
            || block.iter().all(|weight| *weight > 0.0) || block.iter().all(|weight| *weight < 0.0);
        (is_faint && block.iter().any(|weight| *weight != 0.0)) || (self.signs && has_one_sign())
    }

    /// How many weights, of those that are not zero, are in blocks that are lost; or the first
    /// that became no number.
    pub(crate) fn lost(&self, wanted: &[f32], written: &[f32]) -> Result<u64, usize> {
        if let Some(position) = written.iter().position(|weight| !weight.is_finite()) {
            return Err(position);
        }
        let blocks = self.blocks(wanted).zip(self.blocks(written));
        Ok(blocks.map(|(wanted, written)| Energies::of(wanted, written).lost).sum())
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

/// A block before and after.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Energies {
    /// Of the weights as they were.
    pub(crate) wanted: f64,
    /// Weights that are not zero, if the block is lost.
    pub(crate) lost: u64,
}

impl Energies {
    /// A block is lost if less than a hundredth of its energy is left, or a hundred times
    /// as much: a type's worst rounding leaves the largest weight nearly as it was, which has
    /// more.
    pub(crate) fn of(wanted: &[f32], written: &[f32]) -> Self {
        let energy = |weights: &[f32]| -> f64 {
            weights.iter().map(|weight| f64::from(*weight) * f64::from(*weight)).sum()
        };
        let (before, after) = (energy(wanted), energy(written));
        let is_kept = before == 0.0 || (before / 100.0..=before * 100.0).contains(&after);
        let count = || wanted.iter().filter(|weight| **weight != 0.0).count() as u64;
        Self { wanted: before, lost: if is_kept { 0 } else { count() } }
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
            "{target} cannot hold weights of {}{more}: in whole blocks they become zero, or next to it",
            shown.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types() -> [Suspicion; 2] {
        [Suspicion::of_type(DataType::Q8_0, 64), Suspicion::of_groups(32, 0.0)]
    }

    #[test]
    fn ordinary_blocks_raise_none() {
        let weights: Vec<f32> = (0..256).map(|at| (at as f32 * 0.7).sin() * 0.02).collect();
        for suspicion in types() {
            assert!(!suspicion.is_raised(&weights));
            assert!(!suspicion.is_raised(&[0.0; 64]));
        }
    }

    #[test]
    fn odd_blocks_raise_some() {
        let check = |weights: &[f32], expected: [bool; 2]| {
            assert_eq!(types().map(|suspicion| suspicion.is_raised(weights)), expected);
        };
        let mut weights: Vec<f32> =
            (0..64).map(|at| if at % 2 == 0 { 0.1 } else { -0.1 }).collect();
        check(&weights, [false, false]);
        weights[32..].fill(1e-42);
        check(&weights, [true, true]);
        weights[32..].fill(0.5);
        check(&weights, [false, true]);
        weights[32] = -3e38;
        check(&weights, [true, true]);
        weights[32] = -1.0;
        check(&weights, [false, false]);
        assert!(!Suspicion::of_groups(32, 0.0).is_raised(&weights));
        assert!(Suspicion::of_groups(32, 1e6).is_raised(&weights));
    }

    #[test]
    fn whole_blocks_are_lost() {
        let check = |wanted: &[f32], written: &[f32], expected: Result<u64, usize>| {
            assert_eq!(Suspicion::of_groups(2, 0.0).lost(wanted, written), expected);
        };
        check(&[1.0, 2.0, 3.0, 4.0], &[0.0, 0.5, 3.0, 0.0], Ok(0));
        check(&[1.0, 2.0, 3.0, 4.0], &[0.0, 0.0, 3.0, 4.0], Ok(2));
        check(&[1e-42, 0.0, 3.0, 4.0], &[0.0, 0.0, 0.3, 0.3], Ok(3));
        check(&[1e-9, 0.0, 0.0, 0.0], &[1e-4, 0.0, 0.0, 0.0], Ok(1));
        check(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, f32::INFINITY, 4.0], Err(2));
    }

    #[test]
    fn vectors_are_one_block() {
        let vector = Suspicion::of_type(DataType::F16, 1);
        assert!(!vector.is_raised(&[1e-9, 1.0]));
        assert!(vector.is_raised(&[1e-9, 0.0]));
    }

    #[test]
    fn tensors_are_named_once() {
        assert_eq!(warning("q8_0", &[]), None);
        let all: Vec<(&str, u64, u64)> = vec![("a", 1, 2); 10];
        let text = warning("q8_0", &all).expect("a warning");
        assert!(text.starts_with("q8_0 cannot hold weights of a (1 of 2), a (1 of 2), "), "{text}");
        assert!(text.contains(" and 2 more tensors: "), "{text}");
    }
}
