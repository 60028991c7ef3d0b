//! Which texts of a list begin what is left of a text, byte by byte: a trie in
//! one array.

use std::ops::Range;

/// The texts, each with a value.
pub(super) struct Prefixes<T> {
    /// A node's children stand side by side, in the order of their bytes. The
    /// first is the root.
    nodes: Vec<Node<T>>,
}

struct Node<T> {
    byte: u8,
    children: Range<u32>,
    value: Option<T>,
}

/// A place in the trie.
pub(super) struct Walk<'a, T> {
    nodes: &'a [Node<T>],
    node: &'a Node<T>,
}

impl<T: Copy> Prefixes<T> {
    pub(super) fn new<'t>(texts: impl Iterator<Item = (&'t str, T)>) -> Self {
        let mut texts: Vec<(&str, T)> = texts.collect();
        texts.sort_by_key(|(text, _)| *text);
        let mut nodes = vec![Node { byte: 0, children: 0..0, value: None }];
        // Of every node the texts that go through it, level by level.
        let mut level = vec![(0, 0..texts.len())];
        for depth in 0.. {
            let mut next = Vec::new();
            for (node, mut range) in level {
                // The text that ends here comes first.
                if let Some((text, value)) = texts.get(range.start)
                    && text.len() == depth
                    && !range.is_empty()
                {
                    nodes[node].value = Some(*value);
                    range.start += 1;
                }
                let first = nodes.len() as u32;
                let byte = |text: &(&str, T)| text.0.as_bytes()[depth];
                for group in texts[range.clone()].chunk_by(|left, right| byte(left) == byte(right))
                {
                    next.push((nodes.len(), range.start..range.start + group.len()));
                    range.start += group.len();
                    nodes.push(Node { byte: byte(&group[0]), children: 0..0, value: None });
                }
                nodes[node].children = first..nodes.len() as u32;
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        Self { nodes }
    }

    pub(super) fn walk(&self) -> Walk<'_, T> {
        Walk { nodes: &self.nodes, node: &self.nodes[0] }
    }
}

impl<T: Copy> Walk<'_, T> {
    /// Goes on to the texts whose next byte is this one; false if there are none.
    pub(super) fn step(&mut self, byte: u8) -> bool {
        let Range { start, end } = self.node.children;
        let children = &self.nodes[start as usize..end as usize];
        match children.binary_search_by_key(&byte, |node| node.byte) {
            Ok(place) => {
                self.node = &children[place];
                true
            }
            Err(_) => false,
        }
    }

    /// The value of the text that ends here.
    pub(super) fn value(&self) -> Option<T> {
        self.node.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_from_their_start() {
        let texts = ["ab", "abc", "b", "", "a\u{e9}"];
        let prefixes = Prefixes::new(texts.into_iter().zip(0..));
        let check = |text: &str, expected: &[i32], steps: usize| {
            let mut walk = prefixes.walk();
            let mut found: Vec<i32> = walk.value().into_iter().collect();
            let went = text.bytes().take_while(|byte| {
                let goes_on = walk.step(*byte);
                found.extend(walk.value().filter(|_| goes_on));
                goes_on
            });
            assert_eq!(went.count(), steps, "{text:?}");
            assert_eq!(found, expected, "{text:?}");
        };
        check("abcd", &[3, 0, 1], 3);
        check("a\u{e9}", &[3, 4], 3);
        check("ac", &[3], 1);
        check("c", &[3], 0);
        check("", &[3], 0);
    }
}
