//! `general.size_label` from the number of weights.

/// Two significant digits or more, with the largest fitting suffix
/// (`model_weight_count_rounded_notation` in `gguf-py/gguf/utility.py`).
pub(crate) fn size_label(parameters: u64) -> String {
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
}
