//! Expressions, with Jinja's precedence.

use std::sync::Arc;

use crate::ast::{Arguments, Comparison, Expression, Kind, Operator};
use crate::error::{Result, fail};
use crate::lex::Token;
use crate::value::Value;

use super::Parser;

impl Parser {
    /// A value, or several with commas.
    pub(super) fn tuple(&mut self) -> Result<Expression> {
        self.listed(Self::value)
    }

    /// As a loop's items stand: `if` behind them is the loop's.
    pub(super) fn tuple_without_condition(&mut self) -> Result<Expression> {
        self.listed(|parser| parser.nested(Self::or))
    }

    fn listed(&mut self, one: impl Fn(&mut Self) -> Result<Expression>) -> Result<Expression> {
        let first = one(self)?;
        if !self.is_symbol(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_symbol(",") {
            if self.ends_tuple() {
                break;
            }
            all.push(one(self)?);
        }
        self.expression(Kind::Tuple(all))
    }

    fn ends_tuple(&self) -> bool {
        match self.peek() {
            None | Some(Token::PrintEnd | Token::BlockEnd) => true,
            Some(Token::Symbol(symbol)) => matches!(*symbol, ")" | "="),
            Some(Token::Name(name)) => matches!(&**name, "in" | "if" | "recursive"),
            Some(_) => false,
        }
    }

    /// `yes if test else no`.
    pub(super) fn value(&mut self) -> Result<Expression> {
        self.nested(|parser| {
            let mut value = parser.or()?;
            while parser.skip_name("if") {
                let test = parser.or()?;
                let otherwise =
                    if parser.skip_name("else") { Some(Box::new(parser.value()?)) } else { None };
                value = parser.expression(Kind::Conditional(Box::new([value, test]), otherwise))?;
            }
            Ok(value)
        })
    }

    fn or(&mut self) -> Result<Expression> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            left = self.expression(Kind::Or(Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            left = self.expression(Kind::And(Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expression> {
        if self.skip_name("not") {
            let inner = self.nested(Self::not)?;
            return self.expression(Kind::Not(Box::new(inner)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expression> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(operator) = self.comparison_operator() {
            rest.push((operator, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        self.expression(Kind::Comparison(Box::new(first), rest))
    }

    fn comparison_operator(&mut self) -> Option<Comparison> {
        let (found, length) = match self.peek()? {
            Token::Symbol("==") => (Comparison::Equal, 1),
            Token::Symbol("!=") => (Comparison::NotEqual, 1),
            Token::Symbol("<") => (Comparison::Less, 1),
            Token::Symbol("<=") => (Comparison::LessOrEqual, 1),
            Token::Symbol(">") => (Comparison::Greater, 1),
            Token::Symbol(">=") => (Comparison::GreaterOrEqual, 1),
            Token::Name(name) if **name == *"in" => (Comparison::In, 1),
            Token::Name(name) if **name == *"not" => match self.tokens.get(self.at + 1) {
                Some((Token::Name(next), _)) if **next == *"in" => (Comparison::NotIn, 2),
                _ => return None,
            },
            _ => return None,
        };
        self.at += length;
        Some(found)
    }

    fn operator(&mut self, known: &[(&str, Operator)]) -> Option<Operator> {
        let (_, operator) = known.iter().find(|(symbol, _)| self.is_symbol(symbol))?;
        self.at += 1;
        Some(*operator)
    }

    fn sum(&mut self) -> Result<Expression> {
        let known = [("+", Operator::Add), ("-", Operator::Subtract)];
        let mut left = self.concatenation()?;
        while let Some(operator) = self.operator(&known) {
            let right = self.concatenation()?;
            left = self.expression(Kind::Binary(operator, Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn concatenation(&mut self) -> Result<Expression> {
        let first = self.product()?;
        if !self.is_symbol("~") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_symbol("~") {
            all.push(self.product()?);
        }
        self.expression(Kind::Concatenation(all))
    }

    fn product(&mut self) -> Result<Expression> {
        let known = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Remainder),
        ];
        let mut left = self.power()?;
        while let Some(operator) = self.operator(&known) {
            let right = self.power()?;
            left = self.expression(Kind::Binary(operator, Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn power(&mut self) -> Result<Expression> {
        let mut left = self.unary(true)?;
        while let Some(operator) = self.operator(&[("**", Operator::Power)]) {
            let right = self.unary(true)?;
            left = self.expression(Kind::Binary(operator, Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expression> {
        let inner = if self.skip_symbol("-") {
            let inner = self.nested(|parser| parser.unary(false))?;
            self.expression(Kind::Negative(Box::new(inner)))?
        } else if self.skip_symbol("+") {
            let inner = self.nested(|parser| parser.unary(false))?;
            self.expression(Kind::Positive(Box::new(inner)))?
        } else {
            self.primary()?
        };
        let inner = self.postfixes(inner)?;
        if with_filters { self.filters_and_tests(inner) } else { Ok(inner) }
    }

    fn primary(&mut self) -> Result<Expression> {
        let kind = match self.next() {
            Some(Token::Name(name)) => match &*name {
                "true" | "True" => Kind::Constant(Value::Bool(true)),
                "false" | "False" => Kind::Constant(Value::Bool(false)),
                "none" | "None" => Kind::Constant(Value::None),
                _ => Kind::Name(name),
            },
            Some(Token::String(mut text)) => {
                while let Some(Token::String(more)) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                Kind::Constant(Value::Text(text.into()))
            }
            Some(Token::Integer(number)) => Kind::Constant(Value::Integer(number)),
            Some(Token::Float(number)) => Kind::Constant(Value::Float(number)),
            Some(Token::Symbol("(")) => {
                if self.skip_symbol(")") {
                    return self.expression(Kind::Tuple(Vec::new()));
                }
                let inner = self.tuple()?;
                self.expect_symbol(")")?;
                return Ok(inner);
            }
            Some(Token::Symbol("[")) => Kind::List(self.sequence("]", Self::value)?),
            Some(Token::Symbol("{")) => Kind::Dictionary(self.sequence("}", |parser| {
                let key = parser.value()?;
                parser.expect_symbol(":")?;
                Ok((key, parser.value()?))
            })?),
            _ => {
                self.at -= 1;
                return self.unexpected("a value".to_owned());
            }
        };
        self.expression(kind)
    }

    fn sequence<T>(&mut self, end: &str, one: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut all = Vec::new();
        while !self.skip_symbol(end) {
            if !all.is_empty() {
                self.expect_symbol(",")?;
                if self.skip_symbol(end) {
                    break;
                }
            }
            all.push(one(self)?);
        }
        Ok(all)
    }

    fn postfixes(&mut self, mut value: Expression) -> Result<Expression> {
        loop {
            let kind = if self.skip_symbol(".") {
                match self.next() {
                    Some(Token::Name(name)) => Kind::Attribute(Box::new(value), name),
                    Some(Token::Integer(number)) => {
                        let number = self.expression(Kind::Constant(Value::Integer(number)))?;
                        Kind::Item(Box::new([value, number]))
                    }
                    _ => {
                        self.at -= 1;
                        return self.unexpected("a name".to_owned());
                    }
                }
            } else if self.skip_symbol("[") {
                self.subscript(value)?
            } else if self.is_symbol("(") {
                Kind::Call(Box::new(value), self.arguments()?)
            } else {
                return Ok(value);
            };
            value = self.expression(kind)?;
        }
    }

    fn subscript(&mut self, value: Expression) -> Result<Kind> {
        let mut bounds = [None, None, None];
        let mut colons = 0;
        while !self.skip_symbol("]") {
            if self.skip_symbol(":") {
                colons += 1;
                if colons > 2 {
                    return fail!("a slice has at most three parts");
                }
            } else if bounds[colons].is_none() {
                bounds[colons] = Some(self.value()?);
            } else {
                return self.unexpected("\"]\"".to_owned());
            }
        }
        if colons > 0 {
            return Ok(Kind::Slice(Box::new(value), Box::new(bounds)));
        }
        match bounds {
            [Some(item), ..] => Ok(Kind::Item(Box::new([value, item]))),
            _ => fail!("there is nothing between brackets"),
        }
    }

    pub(super) fn arguments(&mut self) -> Result<Arguments> {
        self.expect_symbol("(")?;
        let mut all = Arguments::default();
        let mut first = true;
        while !self.skip_symbol(")") {
            if !first {
                self.expect_symbol(",")?;
                if self.skip_symbol(")") {
                    break;
                }
            }
            first = false;
            if self.skip_symbol("*") {
                all.list = Some(Box::new(self.value()?));
            } else if self.skip_symbol("**") {
                all.dictionary = Some(Box::new(self.value()?));
            } else if let (Some(Token::Name(name)), Some((Token::Symbol("="), _))) =
                (self.peek(), self.tokens.get(self.at + 1))
            {
                let name: Arc<str> = name.clone();
                self.at += 2;
                all.named.push((name, self.value()?));
            } else if all.named.is_empty() && all.dictionary.is_none() {
                all.positional.push(self.value()?);
            } else {
                return fail!("an argument without a name follows one with a name");
            }
        }
        Ok(all)
    }

    fn filters_and_tests(&mut self, mut value: Expression) -> Result<Expression> {
        loop {
            if self.is_symbol("|") {
                value = self.filters(value)?;
            } else if self.skip_name("is") {
                value = self.test(value)?;
            } else if self.is_symbol("(") {
                let kind = Kind::Call(Box::new(value), self.arguments()?);
                value = self.expression(kind)?;
            } else {
                return Ok(value);
            }
        }
    }

    pub(super) fn filters(&mut self, mut value: Expression) -> Result<Expression> {
        while self.skip_symbol("|") {
            value = self.filter(value)?;
        }
        Ok(value)
    }

    /// A `filter` block's filters, the first without a bar.
    pub(super) fn filters_of_captured(&mut self) -> Result<Expression> {
        let captured = self.expression(Kind::Captured)?;
        let first = self.filter(captured)?;
        self.filters(first)
    }

    fn filter(&mut self, value: Expression) -> Result<Expression> {
        let name = self.name()?;
        let arguments = if self.is_symbol("(") { self.arguments()? } else { Arguments::default() };
        self.expression(Kind::Filter(Box::new(value), name, arguments))
    }

    fn test(&mut self, value: Expression) -> Result<Expression> {
        let negative = self.skip_name("not");
        let name = self.name()?;
        let mut arguments = Arguments::default();
        let bare = match self.peek() {
            Some(Token::Symbol("(")) => {
                arguments = self.arguments()?;
                false
            }
            Some(Token::Name(name)) => !matches!(&**name, "else" | "or" | "and" | "if" | "is"),
            Some(Token::String(_) | Token::Integer(_) | Token::Float(_)) => true,
            Some(Token::Symbol("[" | "{")) => true,
            _ => false,
        };
        // `x is defined if …` and `x is string not in …` are not arguments.
        if bare && !self.is_name("not") && !self.is_name("in") && !self.is_name("recursive") {
            let argument = self.primary()?;
            arguments.positional.push(self.postfixes(argument)?);
        }
        let test = self.expression(Kind::Test(Box::new(value), name, arguments))?;
        if negative { self.expression(Kind::Not(Box::new(test))) } else { Ok(test) }
    }
}
