//! Statements.

mod expressions;

use std::sync::Arc;

use crate::ast::{Action, Expression, For, Kind, Macro, Statement, Target};
use crate::budget::{MAX_EXPRESSION_DEPTH, MAX_SOURCE, MAX_SOURCE_DEPTH};
use crate::error::{Result, fail};
use crate::lex::{self, Token};

/// A template's statements.
pub(crate) fn template(source: &str) -> Result<Vec<Statement>> {
    if source.len() > MAX_SOURCE {
        return fail!("it is {} bytes long, more than {MAX_SOURCE}", source.len());
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let tokens = lex::tokens(source.strip_suffix('\n').unwrap_or(&source))?;
    let mut parser = Parser { tokens, at: 0, depth: 0 };
    let parsed = parser.statements(&[]);
    parsed.map_err(|error| error.at(parser.line()))
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: u16,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn line(&self) -> usize {
        let token = self.tokens.get(self.at).or(self.tokens.last());
        token.map_or(1, |(_, line)| *line)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).map(|(token, _)| token.clone());
        self.at += 1;
        token
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if **found == *name)
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn skip_symbol(&mut self, symbol: &str) -> bool {
        let found = self.is_symbol(symbol);
        self.at += usize::from(found);
        found
    }

    fn skip(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, token: &Token) -> Result<()> {
        if self.skip(token) { Ok(()) } else { self.unexpected(shown(Some(token))) }
    }

    fn expect_symbol(&mut self, symbol: &'static str) -> Result<()> {
        self.expect(&Token::Symbol(symbol))
    }

    fn expect_name(&mut self, name: &str) -> Result<()> {
        if self.skip_name(name) { Ok(()) } else { self.unexpected(format!("{name:?}")) }
    }

    fn name(&mut self) -> Result<Arc<str>> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name".to_owned()),
        }
    }

    fn unexpected<T>(&self, expected: String) -> Result<T> {
        fail!("{expected} is expected, not {}", shown(self.peek()))
    }

    /// Goes one level down into the source.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_SOURCE_DEPTH {
            return fail!("the template is nested deeper than {MAX_SOURCE_DEPTH} levels");
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn expression(&self, kind: Kind) -> Result<Expression> {
        let depth = kind.depth_of_parts() + 1;
        if depth > MAX_EXPRESSION_DEPTH {
            return fail!("an expression is nested deeper than {MAX_EXPRESSION_DEPTH} levels");
        }
        Ok(Expression { kind, depth })
    }

    /// Statements up to a block of one of these names, whose name is passed.
    fn statements(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
        self.nested(|parser| parser.statements_inside(ends))
    }

    fn statements_inside(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
        let mut all = Vec::new();
        loop {
            let line = self.line();
            let kind = match self.next() {
                None if ends.is_empty() => return Ok(all),
                None => {
                    return fail!("the template ends, and {:?} is missing", ends[ends.len() - 1]);
                }
                Some(Token::Text(text)) => Action::Text(text),
                Some(Token::PrintBegin) => {
                    let value = self.tuple()?;
                    self.expect(&Token::PrintEnd)?;
                    Action::Print(value)
                }
                Some(Token::BlockBegin) => {
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(all);
                    }
                    self.statement()?
                }
                Some(other) => return fail!("unexpected {}", shown(Some(&other))),
            };
            all.push(Statement { line, kind });
        }
    }

    /// The body of a block that ends with `end`, which is passed.
    fn body(&mut self, end: &str) -> Result<Vec<Statement>> {
        self.expect(&Token::BlockEnd)?;
        let body = self.statements(&[end])?;
        self.at += 1;
        self.expect(&Token::BlockEnd)?;
        Ok(body)
    }

    fn statement(&mut self) -> Result<Action> {
        let name = self.name()?;
        Ok(match &*name {
            "for" => self.for_loop()?,
            "if" => self.condition()?,
            "set" => self.set()?,
            "macro" => self.macro_block()?,
            "call" => self.call_block()?,
            "filter" => {
                let filters = self.filters_of_captured()?;
                Action::FilterBlock(self.body("endfilter")?, filters)
            }
            "with" => self.with()?,
            // What an assistant says, marked for training; and a part that has a name.
            "generation" => Action::Scope(self.body("endgeneration")?),
            "break" | "continue" => {
                self.expect(&Token::BlockEnd)?;
                if &*name == "break" { Action::Break } else { Action::Continue }
            }
            "print" => {
                let mut values = vec![self.value()?];
                while self.skip_symbol(",") {
                    values.push(self.value()?);
                }
                self.expect(&Token::BlockEnd)?;
                Action::Print(self.expression(Kind::Concatenation(values))?)
            }
            "extends" | "include" | "import" | "from" | "block" => {
                return fail!("there are no other templates for {name:?}");
            }
            other => return fail!("unknown statement {other:?}"),
        })
    }

    fn for_loop(&mut self) -> Result<Action> {
        let target = self.target()?;
        self.expect_name("in")?;
        let items = self.tuple_without_condition()?;
        let condition = if self.skip_name("if") { Some(self.value()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.expect(&Token::BlockEnd)?;
        let body = self.statements(&["endfor", "else"])?;
        let mut otherwise = Vec::new();
        if self.skip_name("else") {
            self.expect(&Token::BlockEnd)?;
            otherwise = self.statements(&["endfor"])?;
        }
        self.at += 1;
        self.expect(&Token::BlockEnd)?;
        Ok(Action::For(For { target, items, condition, recursive, body, otherwise }))
    }

    fn condition(&mut self) -> Result<Action> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple_without_condition()?;
            self.expect(&Token::BlockEnd)?;
            let body = self.statements(&["elif", "else", "endif"])?;
            branches.push((test, body));
            if self.skip_name("elif") {
                continue;
            }
            let mut otherwise = Vec::new();
            if self.skip_name("else") {
                self.expect(&Token::BlockEnd)?;
                otherwise = self.statements(&["endif"])?;
            }
            self.at += 1;
            self.expect(&Token::BlockEnd)?;
            return Ok(Action::If(branches, otherwise));
        }
    }

    fn set(&mut self) -> Result<Action> {
        let target = self.target()?;
        if self.skip_symbol("=") {
            let value = self.tuple()?;
            self.expect(&Token::BlockEnd)?;
            return Ok(Action::Set(target, value));
        }
        let captured = self.expression(Kind::Captured)?;
        let filters = self.filters(captured)?;
        Ok(Action::SetBlock(target, self.body("endset")?, filters))
    }

    fn with(&mut self) -> Result<Action> {
        let mut values = Vec::new();
        while !matches!(self.peek(), Some(Token::BlockEnd) | None) {
            if !values.is_empty() {
                self.expect_symbol(",")?;
            }
            let target = self.target()?;
            self.expect_symbol("=")?;
            values.push((target, self.value()?));
        }
        Ok(Action::With(values, self.body("endwith")?))
    }

    fn macro_block(&mut self) -> Result<Action> {
        let name = self.name()?;
        let parameters = self.parameters()?;
        Ok(Action::Macro(name.clone(), self.macro_body(name, parameters, "endmacro")?))
    }

    fn call_block(&mut self) -> Result<Action> {
        let parameters = if self.is_symbol("(") { self.parameters()? } else { Vec::new() };
        let call = self.value()?;
        if !matches!(call.kind, Kind::Call(..)) {
            return fail!("a call block needs a call");
        }
        Ok(Action::CallBlock(call, self.macro_body("caller".into(), parameters, "endcall")?))
    }

    fn parameters(&mut self) -> Result<Vec<(Arc<str>, Option<Expression>)>> {
        let mut all: Vec<(Arc<str>, Option<Expression>)> = Vec::new();
        self.expect_symbol("(")?;
        while !self.skip_symbol(")") {
            if !all.is_empty() {
                self.expect_symbol(",")?;
            }
            let name = self.name()?;
            let default = if self.skip_symbol("=") { Some(self.value()?) } else { None };
            if default.is_none() && all.last().is_some_and(|(_, default)| default.is_some()) {
                return fail!("a parameter without a default follows one with a default");
            }
            all.push((name, default));
        }
        Ok(all)
    }

    fn macro_body(
        &mut self,
        name: Arc<str>,
        parameters: Vec<(Arc<str>, Option<Expression>)>,
        end: &str,
    ) -> Result<Macro> {
        let start = self.at;
        let body = self.body(end)?;
        let tokens = &self.tokens[start..self.at];
        let uses = |name: &str| {
            let is = |token: &Token| matches!(token, Token::Name(found) if **found == *name);
            tokens.iter().any(|(token, _)| is(token))
        };
        Ok(Macro {
            uses_varargs: uses("varargs"),
            uses_kwargs: uses("kwargs"),
            uses_caller: uses("caller"),
            name,
            parameters,
            body,
        })
    }

    /// `name`, `name.attribute`, or several with commas.
    fn target(&mut self) -> Result<Target> {
        let first = self.one_target()?;
        if !self.is_symbol(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_symbol(",") {
            if self.is_symbol("=") || self.is_name("in") {
                break;
            }
            all.push(self.one_target()?);
        }
        Ok(Target::Several(all))
    }

    fn one_target(&mut self) -> Result<Target> {
        if self.skip_symbol("(") {
            let target = self.nested(Self::target)?;
            self.expect_symbol(")")?;
            return Ok(target);
        }
        let name = self.name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return fail!("nothing can be assigned to {name:?}");
        }
        if self.skip_symbol(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }
}

fn shown(token: Option<&Token>) -> String {
    match token {
        None => "the template's end".to_owned(),
        Some(Token::Text(_)) => "text".to_owned(),
        Some(Token::PrintBegin) => "\"{{\"".to_owned(),
        Some(Token::PrintEnd) => "\"}}\"".to_owned(),
        Some(Token::BlockBegin) => "\"{%\"".to_owned(),
        Some(Token::BlockEnd) => "\"%}\"".to_owned(),
        Some(Token::Name(name)) => format!("{name:?}"),
        Some(Token::String(_)) => "a string".to_owned(),
        Some(Token::Integer(number)) => number.to_string(),
        Some(Token::Float(number)) => number.to_string(),
        Some(Token::Symbol(symbol)) => format!("{symbol:?}"),
    }
}
