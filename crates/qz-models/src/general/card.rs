//! The YAML block at the head of a model card (`README.md`).
//!
//! Scalars stay text: `1.10` is a version and not a number, `no` is Norwegian
//! and not false. Only what YAML calls null is nothing. That is where we read
//! more than the reference, which stops on a version that YAML takes for a
//! number.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Deeper than any model card, shallow enough for the stack.
const DEEPEST: usize = 32;

/// A YAML value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// The model card's own metadata: the top level of its YAML block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Card {
    entries: Vec<(String, Node)>,
}

impl Card {
    /// What `key` holds. `Some(Node::Null)` if it is there and null.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        // As in a Python dictionary, the last of several counts.
        self.entries.iter().rev().find(|(known, _)| known == key).map(|(_, node)| node)
    }

    /// The string under `key`.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The strings under `key`, which holds one or a list of them.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<String>> {
        match self.get(key)? {
            Node::Null => None,
            Node::Text(text) => Some(vec![text.clone()]),
            Node::List(nodes) => Some(nodes.iter().filter_map(Node::text).collect()),
            Node::Map(_) => Some(Vec::new()),
        }
    }
}

impl Node {
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

/// Reads the YAML block of a model card; a card without one is empty.
///
/// # Errors
/// Why the block is not what it should be, in words. The caller goes on without.
pub(crate) fn read_card(readme: &[u8]) -> Result<Card, String> {
    let text = std::str::from_utf8(readme).map_err(|error| error.to_string())?;
    let Some(block) = front_matter(text) else { return Ok(Card::default()) };
    match read_yaml(&block)? {
        Node::Map(entries) => Ok(Card { entries }),
        Node::Null => Ok(Card::default()),
        _ => Err("the YAML block is not a mapping".to_owned()),
    }
}

/// The lines between a first line `---` and the next one. Tabs become spaces:
/// YAML forbids them, cards have them.
fn front_matter(text: &str) -> Option<String> {
    let is_break = |letter: char| {
        matches!(letter, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}')
            || matches!(letter, '\u{2028}' | '\u{2029}')
    };
    let unified = text.replace("\r\n", "\n");
    let mut lines = unified.split(is_break);
    if lines.next()? != "---" {
        return None;
    }
    let mut block = String::new();
    for line in lines.take_while(|line| *line != "---") {
        block.push_str(&line.replace('\t', "  "));
        block.push('\n');
    }
    Some(block)
}

fn read_yaml(block: &str) -> Result<Node, String> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(block) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        let line = span.start.line() + 1;
        if builder.take(event).map_err(|problem| format!("line {line}: {problem}"))? {
            break;
        }
    }
    Ok(builder.root.unwrap_or(Node::Null))
}

/// Values that are open, outermost first; a mapping with the key it waits with.
#[derive(Default)]
struct Builder {
    open: Vec<(Node, Option<String>)>,
    root: Option<Node>,
}

impl Builder {
    /// Takes one event; true when the document is complete.
    fn take(&mut self, event: Event<'_>) -> Result<bool, String> {
        match event {
            Event::Scalar(text, style, _, _) => {
                let is_null = style == ScalarStyle::Plain
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                self.place(if is_null { Node::Null } else { Node::Text(text.into_owned()) })?;
            }
            Event::SequenceStart(..) => self.open(Node::List(Vec::new()))?,
            Event::MappingStart(..) => self.open(Node::Map(Vec::new()))?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((node, _)) = self.open.pop() {
                    self.place(node)?;
                }
            }
            // A handful of aliases can stand for gigabytes; cards have none.
            Event::Alias(_) => return Err("an alias, which is not supported".to_owned()),
            Event::DocumentEnd => return Ok(true),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {}
        }
        Ok(false)
    }

    fn open(&mut self, node: Node) -> Result<(), String> {
        if self.open.len() == DEEPEST {
            return Err(format!("nested more than {DEEPEST} deep"));
        }
        self.open.push((node, None));
        Ok(())
    }

    /// Puts a complete value where it belongs.
    fn place(&mut self, node: Node) -> Result<(), String> {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((Node::List(nodes), _)) => nodes.push(node),
            Some((Node::Map(entries), key)) => match (key.take(), node) {
                (Some(key), node) => entries.push((key, node)),
                (None, Node::Text(text)) => *key = Some(text),
                (None, Node::Null) => *key = Some(String::new()),
                (None, _) => return Err("a key that is not a string".to_owned()),
            },
            Some((Node::Null | Node::Text(_), _)) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Node {
        Node::Text(text.to_owned())
    }

    fn check(readme: &str, expected: &[(&str, Node)]) {
        let card = read_card(readme.as_bytes()).expect("a card");
        let expected =
            expected.iter().map(|(key, node)| ((*key).to_owned(), node.clone())).collect();
        assert_eq!(card.entries, Vec::from_iter::<Vec<(String, Node)>>(expected), "{readme:?}");
    }

    #[test]
    fn cards() {
        check("", &[]);
        check("# Title\n---\nlicense: mit\n---\n", &[]);
        check("---\n---\n", &[]);
        check("---\nlicense: mit\n---\n# T: x\n", &[("license", text("mit"))]);
        check("---\r\nlicense: mit\r\n---\r\n", &[("license", text("mit"))]);
        check("---\nlicense: mit\n", &[("license", text("mit"))]);
        check(
            "---\nversion: 1.10\nname: ~\n---",
            &[("version", text("1.10")), ("name", Node::Null)],
        );
        check(
            "---\nlanguage:\n- en\n- no\n---",
            &[("language", Node::List(vec![text("en"), text("no")]))],
        );
        check("---\ntags: [a, 'b c']\n---", &[("tags", Node::List(vec![text("a"), text("b c")]))]);
        check(
            "---\nbase_model:\n-\tname: x\n---",
            &[("base_model", Node::List(vec![Node::Map(vec![("name".to_owned(), text("x"))])]))],
        );
    }

    #[test]
    fn what_is_no_card_is_told() {
        let check = |readme: &str, expected: &str| {
            let problem = read_card(readme.as_bytes()).expect_err("refused");
            assert!(problem.contains(expected), "{readme:?}: {problem}");
        };
        check("---\n- a\n---", "not a mapping");
        check("---\na: &x [1]\nb: *x\n---", "alias");
        check("---\na: [\n---", "");
        check("---\n? [a]\n: b\n---", "not a string");
        check(&format!("---\na: {}\n---", "[".repeat(100)), "nested more than 32 deep");
        let deep = format!("---\na: {}\n---", "[".repeat(100_000));
        assert!(read_card(deep.as_bytes()).is_err());
    }
}
