//! Lists of strings, one behind the other in one piece of memory: files choose how many
//! strings a list has, and a string of its own takes some fifty bytes for each.

use std::fmt;
use std::ops::Range;

/// A list of strings that lie in `B`, which is [`String`] or bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Joined<B>(Box<Parts<B>>);

/// Boxed, so that values which are no lists are not as large as this.
#[derive(Clone, Default, PartialEq, Eq)]
struct Parts<B> {
    all: B,
    /// Where each ends. None is past the end of `all`, and each is at one's boundary.
    ends: Vec<usize>,
}

/// A list of texts.
pub type Texts = Joined<String>;

/// A list of strings, of which at least one is no UTF-8.
pub type ByteTexts = Joined<Vec<u8>>;

macro_rules! joined {
    ($buffer:ty, $item:ty, $push:ident) => {
        impl Joined<$buffer> {
            /// Adds one at the end.
            pub fn push(&mut self, item: &$item) {
                self.0.all.$push(item);
                self.0.ends.push(self.0.all.len());
            }

            /// The one with this number.
            pub fn get(&self, number: usize) -> Option<&$item> {
                self.0.all.get(self.place(number)?)
            }

            /// All in order.
            pub fn iter(&self) -> impl ExactSizeIterator<Item = &$item> + Clone {
                (0..self.len()).map(|number| self.get(number).unwrap_or_default())
            }
        }

        impl<T: AsRef<$item>> FromIterator<T> for Joined<$buffer> {
            fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
                let mut joined = Self::default();
                items.into_iter().for_each(|item| joined.push(item.as_ref()));
                joined
            }
        }

        impl<T: AsRef<$item>> From<Vec<T>> for Joined<$buffer> {
            fn from(items: Vec<T>) -> Self {
                items.into_iter().collect()
            }
        }

        impl fmt::Debug for Joined<$buffer> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(self.iter()).finish()
            }
        }
    };
}
joined!(String, str, push_str);
joined!(Vec<u8>, [u8], extend_from_slice);

impl<B: Default> Joined<B> {
    /// An empty list with room for so many.
    pub fn with_capacity(count: usize) -> Self {
        Self(Box::new(Parts { all: B::default(), ends: Vec::with_capacity(count) }))
    }
}

impl<B> Joined<B> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.ends.len()
    }

    /// Where the one with this number lies.
    fn place(&self, number: usize) -> Option<Range<usize>> {
        let end = *self.0.ends.get(number)?;
        let before = number.checked_sub(1).and_then(|before| self.0.ends.get(before));
        Some(before.copied().unwrap_or(0)..end)
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }
}

impl Texts {
    /// The same as bytes.
    pub fn into_bytes(self) -> ByteTexts {
        let Parts { all, ends } = *self.0;
        Joined(Box::new(Parts { all: all.into_bytes(), ends }))
    }

    /// Takes the one with this number out.
    pub(crate) fn remove(&mut self, number: usize) {
        let Some(place) = self.place(number) else { return };
        self.0.ends.remove(number);
        self.0.ends.iter_mut().skip(number).for_each(|end| *end -= place.len());
        self.0.all.replace_range(place, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_is_gone() {
        let check = |number: usize, expected: &[&str]| {
            let mut texts: Texts = ["é", "", "ab"].iter().collect();
            texts.remove(number);
            assert_eq!(texts.iter().collect::<Vec<_>>(), expected);
        };
        check(0, &["", "ab"]);
        check(1, &["é", "ab"]);
        check(2, &["é", ""]);
        check(3, &["é", "", "ab"]);
    }

    #[test]
    fn what_is_put_in_comes_out() {
        let check = |expected: &[&str]| {
            let texts: Texts = expected.iter().collect();
            assert_eq!(texts.iter().collect::<Vec<_>>(), expected);
            assert_eq!(texts.len(), expected.len());
            assert_eq!(texts.get(expected.len()), None);
            let bytes = texts.into_bytes();
            assert!(bytes.iter().eq(expected.iter().map(|text| text.as_bytes())));
        };
        check(&[]);
        check(&["", ""]);
        check(&["é", "", "ab", "中"]);
    }
}
