//! `general.size_label` from the number of weights.

use crate::recipe::TensorRecipe;

/// How many weights a model has (`get_total_parameter_count` in
/// `gguf-py/gguf/gguf_writer.py`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ParameterCount {
    pub(crate) total: u64,
    /// Those outside of experts.
    shared: u64,
    /// Those of the first, second, ... expert of all layers.
    of_one_expert: u64,
    /// Experts of a layer; 0 in a model without.
    experts: u64,
}

impl ParameterCount {
    /// Counts them; `None` if there are too many to count.
    pub(crate) fn of(tensors: &[TensorRecipe]) -> Option<Self> {
        let mut count = Self::default();
        for tensor in tensors {
            let elements = tensor.shape.elements();
            count.total = count.total.checked_add(elements)?;
            match tensor.shape.dimensions() {
                [experts, _, _] if tensor.name.contains("_exps.") => {
                    count.experts = *experts;
                    count.of_one_expert += elements.checked_div(*experts).unwrap_or(0);
                }
                _ => count.shared += elements,
            }
        }
        Some(count)
    }

    /// The size, or that of a model with one expert a layer and their number
    /// before it (`size_label` in `gguf-py/gguf/utility.py`).
    pub(crate) fn label(&self) -> String {
        match self.experts {
            0 => size_label(self.total),
            experts => format!("{experts}x{}", size_label(self.shared + self.of_one_expert)),
        }
    }
}

/// Two significant digits or more, with the largest fitting suffix
/// (`model_weight_count_rounded_notation` in `gguf-py/gguf/utility.py`).
fn size_label(parameters: u64) -> String {
    let parameters = parameters as f64;
    let (scaled, suffix) = if parameters > 1e12 {
        (parameters * 1e-12, "T")
    } else if parameters > 1e9 {
        (parameters * 1e-9, "B")
    } else if parameters > 1e6 {
        (parameters * 1e-6, "M")
    } else {
        (parameters * 1e-3, "K")
    };
    let whole = scaled.round_ties_even();
    // A zero counts as no digit.
    let digits = if whole == 0.0 { 0 } else { format!("{whole}").len() };
    format!("{scaled:.*}{suffix}", 2usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_reference() {
        // From gguf.utility.size_label of llama.cpp 0c1e57098.
        let check = |parameters: u64, expected: &str| {
            assert_eq!(size_label(parameters), expected, "{parameters}");
        };
        check(1, "0.00K");
        check(499, "0.50K");
        check(275_200, "275K");
        check(1_000_000, "1000K");
        check(1_000_001, "1.0M");
        check(9_499_999, "9.5M");
        check(9_500_000, "10M");
        check(99_500, "100K");
        check(9_999_999, "10M");
        check(134_515_008, "135M");
        check(1_235_814_432, "1.2B");
        check(8_030_261_248, "8.0B");
        check(70_553_706_496, "71B");
        check(1_026_000_000_000, "1.0T");
    }

    #[test]
    fn experts_are_a_factor() {
        let count = ParameterCount {
            total: 46_702_792_704,
            shared: 1_605_640_192,
            of_one_expert: 5_637_144_576,
            experts: 8,
        };
        assert_eq!(count.label(), "8x7.2B");
    }
}
