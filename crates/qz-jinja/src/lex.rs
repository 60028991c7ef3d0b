//! Text and tags, and the tokens in tags. White space around tags goes as in Jinja with
//! `trim_blocks` and `lstrip_blocks`.

use std::sync::Arc;

use crate::error::{Error, Result, fail};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Text(String),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(Arc<str>),
    String(String),
    Integer(i64),
    Float(f64),
    Symbol(&'static str),
}

/// The longest first.
const SYMBOLS: &[&str] = &[
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    tokens: Vec<(Token, usize)>,
    /// What is before `at` ends a line, as far as `lstrip_blocks` asks.
    line_starts: bool,
}

/// All tokens, each with its line.
pub(crate) fn tokens(source: &str) -> Result<Vec<(Token, usize)>> {
    let mut lexer = Lexer { source, at: 0, line: 1, tokens: Vec::new(), line_starts: true };
    let done = lexer.run();
    done.map_err(|error| error.at(lexer.line))?;
    Ok(lexer.tokens)
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.bytes().filter(|byte| *byte == b'\n').count();
        self.at += bytes;
    }

    fn run(&mut self) -> Result<()> {
        while !self.rest().is_empty() {
            let Some((text, tag)) = self.next_tag() else {
                self.text(self.rest().len(), self.rest().len());
                break;
            };
            let sign = self.rest()[text + 2..].chars().next();
            let mut kept = &self.rest()[..text];
            if sign == Some('-') {
                kept = kept.trim_end();
            } else if sign != Some('+') && tag != "{{" {
                let line = kept.rfind('\n').map_or(0, |newline| newline + 1);
                let starts = line > 0 || self.line_starts;
                if starts && kept[line..].chars().all(char::is_whitespace) {
                    kept = &kept[..line];
                }
            }
            self.text(kept.len(), text);
            let signed = matches!(sign, Some('-' | '+'));
            match tag {
                "{#" => self.comment()?,
                "{{" => {
                    self.push(Token::PrintBegin);
                    self.advance(2 + usize::from(signed));
                    self.tag("}}")?;
                }
                _ => {
                    self.advance(2 + usize::from(signed));
                    if !self.raw()? {
                        self.push(Token::BlockBegin);
                        self.tag("%}")?;
                    }
                }
            }
        }
        Ok(())
    }

    /// How far the next tag is, and which.
    fn next_tag(&self) -> Option<(usize, &'static str)> {
        let rest = self.rest();
        let opens = rest.match_indices('{');
        opens.map(|(at, _)| at).find_map(|at| {
            let tags = ["{{", "{%", "{#"];
            tags.into_iter().find(|tag| rest[at..].starts_with(tag)).map(|tag| (at, tag))
        })
    }

    /// Text of which `kept` bytes are kept.
    fn text(&mut self, kept: usize, all: usize) {
        if kept > 0 {
            let text = self.rest()[..kept].to_owned();
            self.push(Token::Text(text));
        }
        self.advance(all);
    }

    /// Passes a tag's end, with the white space that goes with it.
    fn end(&mut self, end: &str) -> Option<()> {
        let rest = self.rest();
        let signed = |sign: char| rest.strip_prefix(sign).is_some_and(|rest| rest.starts_with(end));
        let after = |start: usize| &rest[start + end.len()..];
        let block = end != "}}";
        let length = if signed('-') {
            let after = after(1);
            1 + end.len() + (after.len() - after.trim_start().len())
        } else if block && signed('+') {
            1 + end.len()
        } else if rest.starts_with(end) {
            end.len() + usize::from(block && after(0).starts_with('\n'))
        } else {
            return None;
        };
        self.line_starts = rest[..length].ends_with('\n');
        self.advance(length);
        Some(())
    }

    fn comment(&mut self) -> Result<()> {
        let Some(length) = self.rest()[2..].find("#}") else {
            return fail!("a comment does not end");
        };
        let content = &self.rest()[2..2 + length];
        let signed = content.ends_with(['-', '+']);
        self.advance(2 + length - usize::from(signed));
        self.end("#}").ok_or_else(|| Error::new("a comment does not end"))
    }

    /// Passes `raw %} … {% endraw %}`, if it is here.
    fn raw(&mut self) -> Result<bool> {
        let rest = self.rest();
        let Some(after) = rest.trim_start().strip_prefix("raw") else { return Ok(false) };
        let after = after.trim_start();
        let body = match (after.strip_prefix("-%}"), after.strip_prefix("%}")) {
            (Some(body), _) => body.trim_start(),
            (None, Some(body)) => body,
            (None, None) => return Ok(false),
        };
        self.advance(rest.len() - body.len());
        for (at, _) in body.match_indices("{%") {
            let inner = &body[at + 2..];
            let sign = inner.chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let inner = &inner[usize::from(sign.is_some())..];
            let Some(after) = inner.trim_start().strip_prefix("endraw") else { continue };
            let after = after.trim_start();
            if !["%}", "-%}", "+%}"].iter().any(|end| after.starts_with(end)) {
                continue;
            }
            let mut kept = &body[..at];
            let line = kept.rfind('\n').map_or(0, |newline| newline + 1);
            if sign == Some('-') {
                kept = kept.trim_end();
            } else if sign.is_none() && line > 0 && kept[line..].chars().all(char::is_whitespace) {
                kept = &kept[..line];
            }
            self.text(kept.len(), body.len() - after.len());
            self.end("%}").ok_or_else(|| Error::new("raw text does not end"))?;
            return Ok(true);
        }
        fail!("raw text does not end")
    }

    /// The tokens to a tag's end.
    fn tag(&mut self, end: &'static str) -> Result<()> {
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let space = self.rest().len() - self.rest().trim_start().len();
            self.advance(space);
            if open.is_empty() && self.end(end).is_some() {
                let token = if end == "}}" { Token::PrintEnd } else { Token::BlockEnd };
                self.push(token);
                return Ok(());
            }
            let Some(first) = self.rest().chars().next() else {
                return fail!("a tag does not end with {end:?}");
            };
            match first {
                '\'' | '"' => self.string(first)?,
                '0'..='9' => self.number()?,
                '_' => self.name(),
                letter if letter.is_alphabetic() => self.name(),
                _ => self.symbol(&mut open)?,
            }
        }
    }

    fn symbol(&mut self, open: &mut Vec<&'static str>) -> Result<()> {
        let found = SYMBOLS.iter().find(|symbol| self.rest().starts_with(**symbol));
        let Some(symbol) = found else {
            let first = self.rest().chars().next().unwrap_or_default();
            return fail!("unexpected character {first:?}");
        };
        match *symbol {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" => {
                let expected = open.pop();
                if expected != Some(*symbol) {
                    return fail!("unexpected {symbol:?}");
                }
            }
            _ => {}
        }
        self.push(Token::Symbol(symbol));
        self.advance(symbol.len());
        Ok(())
    }

    fn name(&mut self) {
        let rest = self.rest();
        let inside = |letter: char| letter == '_' || letter.is_alphanumeric();
        let length = rest.find(|letter| !inside(letter)).unwrap_or(rest.len());
        self.push(Token::Name(rest[..length].into()));
        self.advance(length);
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest().as_bytes();
        let radix = match rest.get(1).map(u8::to_ascii_lowercase) {
            Some(b'x') if rest[0] == b'0' => Some(16),
            Some(b'o') if rest[0] == b'0' => Some(8),
            Some(b'b') if rest[0] == b'0' => Some(2),
            _ => None,
        };
        let start = if radix.is_some() { 2 } else { 0 };
        let digits = |from: usize, radix: u32| {
            let digit = |byte: &&u8| (**byte as char).is_digit(radix) || **byte == b'_';
            rest.get(from..).unwrap_or_default().iter().take_while(digit).count()
        };
        let mut end = start + digits(start, radix.unwrap_or(10));
        let mut float = false;
        if radix.is_none() {
            let fraction = digits(end + 1, 10);
            if rest.get(end) == Some(&b'.') && fraction > 0 {
                (end, float) = (end + 1 + fraction, true);
            }
            if matches!(rest.get(end), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(rest.get(end + 1), Some(b'+' | b'-')));
                let exponent = digits(end + 1 + sign, 10);
                if exponent > 0 {
                    (end, float) = (end + 1 + sign + exponent, true);
                }
            }
        }
        let text = self.rest()[start..end].replace('_', "");
        let token = match float {
            true => text.parse().ok().map(Token::Float),
            false => i64::from_str_radix(&text, radix.unwrap_or(10)).ok().map(Token::Integer),
        };
        let Some(token) = token else { return fail!("the number {text} cannot be read") };
        self.push(token);
        self.advance(end);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest[1..].char_indices().find_map(|(at, letter)| {
            let ends = !escaped && letter == quote;
            escaped = !escaped && letter == '\\';
            ends.then_some(at + 1)
        });
        let Some(end) = end else { return fail!("a string does not end") };
        self.push(Token::String(unescaped(&rest[1..end])?));
        self.advance(end + 1);
        Ok(())
    }
}

/// A string's escapes, as Python has them.
fn unescaped(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let mut letters = rest[at + 1..].chars();
        let letter = letters.next().unwrap_or('\\');
        rest = letters.as_str();
        let code = |digits: usize| -> Result<char> {
            let hex = rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
            let found = hex.and_then(char::from_u32);
            found.ok_or_else(|| Error::new(format!("the escape \\{letter} cannot be read")))
        };
        let (found, length) = match letter {
            '\n' => continue,
            'n' => ('\n', 0),
            't' => ('\t', 0),
            'r' => ('\r', 0),
            'a' => ('\u{7}', 0),
            'b' => ('\u{8}', 0),
            'f' => ('\u{c}', 0),
            'v' => ('\u{b}', 0),
            '\\' | '\'' | '"' => (letter, 0),
            'x' => (code(2)?, 2),
            'u' => (code(4)?, 4),
            'U' => (code(8)?, 8),
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte));
                let more = more.count();
                let digits = format!("{letter}{}", &rest[..more]);
                let code = u32::from_str_radix(&digits, 8).unwrap_or_default();
                (char::from_u32(code).unwrap_or_default(), more)
            }
            other => {
                out.push('\\');
                (other, 0)
            }
        };
        out.push(found);
        rest = &rest[length..];
    }
    out.push_str(rest);
    Ok(out)
}
