//! What is summed in one pass over a layer, so that it fits memory.

use qz_models::graph::GroupIndex;

use super::sums::WantedSums;

/// Statistics of one matrix, or of one expert's, that are summed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) group: GroupIndex,
    pub(crate) expert: Option<usize>,
    pub(crate) wanted: WantedSums,
}

impl Item {
    /// True if an expert saw too few tokens to make up for what others lost: a regression on
    /// as many inputs needs as many.
    pub(crate) fn is_too_short(&self, tokens: u64) -> bool {
        self.expert.is_some() && tokens < self.wanted.columns as u64
    }
}

/// How many such sums fit `limit` bytes beside those of all experts, if they are wanted.
pub(super) fn at_once(wanted: &WantedSums, limit: u64, with_all: bool) -> u64 {
    let all = if with_all { wanted.gram_bytes() } else { 0 };
    (limit.saturating_sub(all) / wanted.large_bytes().max(1)).max(1)
}

/// Cuts items, which are in the order of their stages, into passes of at most `limit` bytes
/// each, of at least one item that counts. `with_all` tells that experts ask for the sums of
/// all of them.
pub(super) fn passes(items: Vec<Item>, limit: u64, with_all: bool) -> Vec<Vec<Item>> {
    let mut passes: Vec<Vec<Item>> = vec![Vec::new()];
    let (mut used, mut of_all) = (0u64, 0u64);
    for item in items {
        let bytes = item.wanted.large_bytes();
        let asks = with_all && item.expert.is_some();
        let asked = if asks { item.wanted.gram_bytes() } else { 0 };
        if bytes > 0 && used > 0 && used + bytes + of_all.max(asked) > limit {
            passes.push(Vec::new());
            (used, of_all) = (0, 0);
        }
        used += bytes;
        of_all = of_all.max(asked);
        passes.last_mut().expect("a pass").push(item);
    }
    passes
}

#[cfg(test)]
mod tests {
    use qz_linalg::gram_bytes;

    use super::*;

    /// Items of a group whose inputs have so many columns.
    fn group(number: usize, columns: usize, experts: &[Option<usize>], gram: bool) -> Vec<Item> {
        let item = |expert: &Option<usize>| Item {
            group: GroupIndex(number),
            expert: *expert,
            wanted: WantedSums {
                columns,
                moments: !gram,
                maxima: false,
                gram: gram.then_some(0..columns),
                lacking: None,
                samples: false,
            },
        };
        experts.iter().map(item).collect()
    }

    /// For each pass the groups of its items.
    fn check(items: &[Vec<Item>], limit: u64, with_all: bool, expected: &[&[usize]]) {
        let found = passes(items.concat(), limit, with_all);
        let groups =
            |pass: &Vec<Item>| -> Vec<usize> { pass.iter().map(|item| item.group.0).collect() };
        assert_eq!(found.iter().map(groups).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn passes_hold_what_fits() {
        let dense = |number, columns| group(number, columns, &[None], true);
        let layer = [dense(0, 10), dense(1, 10), dense(2, 10), dense(3, 20)];
        let one = gram_bytes(10, &(0..10));
        assert!(2 * one < gram_bytes(20, &(0..20)));
        check(&layer, u64::MAX, true, &[&[0, 1, 2, 3]]);
        check(&layer, 3 * one, true, &[&[0, 1, 2], &[3]]);
        check(&layer, 2 * one, true, &[&[0, 1], &[2], &[3]]);
        check(&layer, 1, true, &[&[0], &[1], &[2], &[3]]);
    }

    #[test]
    fn the_sums_of_all_experts_have_room() {
        let experts = [Some(0), Some(1), Some(2)];
        let layer = [group(0, 10, &[None], false), group(1, 10, &experts, true)];
        let one = gram_bytes(10, &(0..10));
        // The router's moments are summed with whatever is summed first.
        check(&layer, 3 * one, false, &[&[0, 1, 1, 1]]);
        check(&layer, 3 * one, true, &[&[0, 1, 1], &[1]]);
        check(&layer, one, true, &[&[0, 1], &[1], &[1]]);
        let wanted = &layer[1][0].wanted;
        assert_eq!([at_once(wanted, 3 * one, false), at_once(wanted, 3 * one, true)], [3, 2]);
    }
}
