//! Which names have been read: a number for each name, not another copy.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;

/// The names read so far, by their hashes. Names of the same hash are compared where they
/// lie; the hashes are keyed, so that no file can choose names of one hash.
#[derive(Default)]
pub(crate) struct Seen {
    hasher: RandomState,
    first: HashMap<u64, u32>,
}

impl Seen {
    /// Adds the name with the next number. Returns the number of an equal one before it;
    /// `name_at` gives the name with a number.
    pub(crate) fn insert<'n>(
        &mut self,
        name: &str,
        number: usize,
        name_at: impl Fn(usize) -> Option<&'n str>,
    ) -> Option<usize> {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        match self.first.entry(self.hasher.hash_one(name)) {
            Entry::Vacant(entry) => {
                entry.insert(number);
                None
            }
            Entry::Occupied(entry) => {
                let first = *entry.get() as usize;
                if name_at(first) == Some(name) {
                    return Some(first);
                }
                // Two names of one hash, which practically does not occur.
                (0..number as usize).find(|before| name_at(*before) == Some(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Seen;

    #[test]
    fn repeated_names_are_found() {
        let names = ["a", "b", "", "b", "a"];
        let mut seen = Seen::default();
        let found: Vec<Option<usize>> = (0..names.len())
            .map(|number| seen.insert(names[number], number, |at| names.get(at).copied()))
            .collect();
        assert_eq!(found, [None, None, None, Some(1), Some(0)]);
    }
}
