//! SentencePiece's compiled normalizer: which sequences of bytes are replaced by
//! what. A length, a double array that is a trie (`xcda_array_view` in
//! `src/llama-vocab.cpp`), and the replacements, each ended by a zero.

/// A map that was checked.
pub(super) struct CharsMap {
    nodes: Vec<Node>,
    replacements: Vec<u8>,
}

/// An entry of the double array.
#[derive(Clone, Copy)]
struct Node(u32);

impl Node {
    /// Where its children begin, before their byte is applied.
    fn base(self) -> usize {
        ((self.0 >> 10) << ((self.0 & (1 << 9)) >> 6)) as usize
    }

    /// True if this is the child for `byte`.
    fn is_for(self, byte: u8) -> bool {
        self.0 & (1 << 31 | 0xff) == u32::from(byte)
    }

    /// True if a sequence ends here; its value is the child for zero.
    fn is_end(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn value(self) -> usize {
        (self.0 & !(1 << 31)) as usize
    }
}

impl CharsMap {
    /// `None` if the parts do not fit `blob`.
    pub(super) fn read(blob: &[u8]) -> Option<Self> {
        let (length, rest) = blob.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (array, replacements) = rest.split_at_checked(length)?;
        let (nodes, odd) = array.as_chunks::<4>();
        // With a zero at the end every replacement has one.
        (odd.is_empty() && replacements.last() == Some(&0)).then(|| Self {
            nodes: nodes.iter().map(|bytes| Node(u32::from_le_bytes(*bytes))).collect(),
            replacements: replacements.to_vec(),
        })
    }

    /// What the longest known beginning of `text` becomes, and its length.
    pub(super) fn replace(&self, text: &str) -> Option<(&str, usize)> {
        let mut place = self.nodes.first()?.base();
        let mut found = None;
        for (length, byte) in (1..).zip(text.bytes().take_while(|byte| *byte != 0)) {
            place ^= usize::from(byte);
            let Some(node) = self.nodes.get(place).filter(|node| node.is_for(byte)) else { break };
            place ^= node.base();
            if node.is_end() {
                found = self.nodes.get(place).map(|node| (node.value(), length));
            }
        }
        let (start, length) = found?;
        let rest = self.replacements.get(start..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let replacement = str::from_utf8(&rest[..end]).ok()?;
        text.is_char_boundary(length).then_some((replacement, length))
    }
}
