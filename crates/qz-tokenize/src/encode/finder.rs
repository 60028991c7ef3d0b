//! Finds any of many texts in one pass, within a bound of memory.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

/// The most states, each of which takes some forty bytes. Vocabularies with a
/// hundred thousand numbered tokens have a few hundred thousand.
const MOST_STATES: usize = 1 << 21;

/// The finder of `texts`; what is wrong with them if they are too many or too long.
pub(super) fn finder(texts: &[&str], kind: MatchKind) -> Result<AhoCorasick, String> {
    let states = states(texts);
    if states > MOST_STATES {
        return Err(format!(
            "has special tokens of {states} bytes that no other one shares, more than {MOST_STATES}"
        ));
    }
    // A table per state would take 1 kB each.
    let mut builder = AhoCorasick::builder();
    let builder = builder.match_kind(kind).kind(Some(AhoCorasickKind::ContiguousNFA));
    builder.build(texts).map_err(|error| error.to_string())
}

/// How many nodes the trie of `texts` has.
fn states(texts: &[&str]) -> usize {
    let mut sorted = texts.to_vec();
    sorted.sort_unstable();
    let mut previous = "";
    let own = sorted.into_iter().map(|text| {
        let pairs = previous.bytes().zip(text.bytes());
        let shared = pairs.take_while(|(left, right)| left == right).count();
        previous = text;
        text.len() - shared
    });
    own.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_beginnings_count_once() {
        assert_eq!(states(&["<1>", "<12>", "<2>", "<1>"]), 3 + 2 + 2);
        assert_eq!(states(&[]), 0);
    }

    #[test]
    fn too_much_text_is_refused() {
        let long = "x".repeat(MOST_STATES);
        assert!(finder(&[&long], MatchKind::Standard).is_ok());
        assert!(finder(&[&long, "y"], MatchKind::Standard).is_err());
    }
}
