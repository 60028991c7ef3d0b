//! Which texts of a list begin what is left of a text, byte by byte.

/// Texts in order, each with a value.
pub(super) struct Prefixes<T> {
    texts: Vec<(Box<str>, T)>,
}

/// The texts that begin with the bytes so far.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a, T> {
    texts: &'a [(Box<str>, T)],
    depth: usize,
}

impl<T: Copy> Prefixes<T> {
    pub(super) fn new(texts: impl Iterator<Item = (Box<str>, T)>) -> Self {
        let mut texts: Vec<_> = texts.collect();
        texts.sort_by(|(left, _), (right, _)| left.as_bytes().cmp(right.as_bytes()));
        Self { texts }
    }

    pub(super) fn walk(&self) -> Walk<'_, T> {
        Walk { texts: &self.texts, depth: 0 }
    }
}

impl<T: Copy> Walk<'_, T> {
    /// Goes on to the texts whose next byte is this one; false if there are none.
    pub(super) fn step(&mut self, byte: u8) -> bool {
        // A text that ends here has no next byte, and comes first.
        let next = |text: &str| text.as_bytes().get(self.depth).copied();
        let start = self.texts.partition_point(|(text, _)| next(text) < Some(byte));
        let end = self.texts.partition_point(|(text, _)| next(text) <= Some(byte));
        self.texts = &self.texts[start..end];
        self.depth += 1;
        !self.texts.is_empty()
    }

    /// The value of the text that ends here.
    pub(super) fn value(&self) -> Option<T> {
        let (text, value) = self.texts.first()?;
        (text.len() == self.depth).then_some(*value)
    }
}
