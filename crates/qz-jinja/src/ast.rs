//! Templates as trees.

use std::sync::Arc;

use crate::value::Value;

/// An expression, and how many levels of expressions are in it.
#[derive(Debug)]
pub(crate) struct Expression {
    pub(crate) kind: Kind,
    pub(crate) depth: u16,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Constant(Value),
    Name(Arc<str>),
    Tuple(Vec<Expression>),
    List(Vec<Expression>),
    Dictionary(Vec<(Expression, Expression)>),
    Negative(Box<Expression>),
    Positive(Box<Expression>),
    Not(Box<Expression>),
    Binary(Operator, Box<[Expression; 2]>),
    Concatenation(Vec<Expression>),
    Comparison(Box<Expression>, Vec<(Comparison, Expression)>),
    And(Box<[Expression; 2]>),
    Or(Box<[Expression; 2]>),
    /// `yes if test else no`.
    Conditional(Box<[Expression; 2]>, Option<Box<Expression>>),
    Attribute(Box<Expression>, Arc<str>),
    Item(Box<[Expression; 2]>),
    Slice(Box<Expression>, Box<[Option<Expression>; 3]>),
    Call(Box<Expression>, Arguments),
    Filter(Box<Expression>, Arc<str>, Arguments),
    Test(Box<Expression>, Arc<str>, Arguments),
    /// What a `filter` block and a `set` block put through their filters.
    Captured,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) positional: Vec<Expression>,
    pub(crate) named: Vec<(Arc<str>, Expression)>,
    /// `*list`.
    pub(crate) list: Option<Box<Expression>>,
    /// `**dictionary`.
    pub(crate) dictionary: Option<Box<Expression>>,
}

impl Arguments {
    fn each<'a>(&'a self, visit: &mut impl FnMut(&'a Expression)) {
        self.positional.iter().for_each(&mut *visit);
        self.named.iter().map(|(_, value)| value).for_each(&mut *visit);
        self.list.iter().chain(&self.dictionary).map(|one| &**one).for_each(visit);
    }
}

impl Kind {
    /// Levels in the deepest of the parts.
    pub(crate) fn depth_of_parts(&self) -> u16 {
        let mut deepest = 0;
        self.each(&mut |part| deepest = deepest.max(part.depth));
        deepest
    }

    fn each<'a>(&'a self, visit: &mut impl FnMut(&'a Expression)) {
        match self {
            Self::Constant(_) | Self::Name(_) | Self::Captured => {}
            Self::Tuple(parts) | Self::List(parts) | Self::Concatenation(parts) => {
                parts.iter().for_each(visit);
            }
            Self::Dictionary(entries) => entries.iter().for_each(|(key, value)| {
                visit(key);
                visit(value);
            }),
            Self::Negative(one) | Self::Positive(one) | Self::Not(one) => visit(one),
            Self::Attribute(one, _) => visit(one),
            Self::Binary(_, two) | Self::And(two) | Self::Or(two) | Self::Item(two) => {
                two.iter().for_each(visit);
            }
            Self::Comparison(first, rest) => {
                visit(first);
                rest.iter().for_each(|(_, one)| visit(one));
            }
            Self::Conditional(two, otherwise) => {
                two.iter().for_each(&mut *visit);
                otherwise.iter().for_each(|one| visit(one));
            }
            Self::Slice(one, bounds) => {
                visit(one);
                bounds.iter().flatten().for_each(visit);
            }
            Self::Call(one, arguments)
            | Self::Filter(one, _, arguments)
            | Self::Test(one, _, arguments) => {
                visit(one);
                arguments.each(visit);
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) line: usize,
    pub(crate) kind: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    Text(String),
    Print(Expression),
    For(For),
    /// Tests with their bodies, and what is done if none holds.
    If(Vec<(Expression, Vec<Statement>)>, Vec<Statement>),
    Set(Target, Expression),
    /// A body, put through filters.
    SetBlock(Target, Vec<Statement>, Expression),
    FilterBlock(Vec<Statement>, Expression),
    With(Vec<(Target, Expression)>, Vec<Statement>),
    Macro(Arc<str>, Macro),
    /// `call(parameters) function(arguments)`: the expression, with its body as `caller`.
    CallBlock(Expression, Macro),
    /// A body with variables of its own.
    Scope(Vec<Statement>),
    Break,
    Continue,
}

#[derive(Debug)]
pub(crate) struct For {
    pub(crate) target: Target,
    pub(crate) items: Expression,
    pub(crate) condition: Option<Expression>,
    pub(crate) recursive: bool,
    pub(crate) body: Vec<Statement>,
    pub(crate) otherwise: Vec<Statement>,
}

#[derive(Debug)]
pub(crate) struct Macro {
    pub(crate) name: Arc<str>,
    pub(crate) parameters: Vec<(Arc<str>, Option<Expression>)>,
    pub(crate) body: Vec<Statement>,
    /// Whether its body asks for values and names that it has no parameters for, and for the
    /// body of its call.
    pub(crate) uses_varargs: bool,
    pub(crate) uses_kwargs: bool,
    pub(crate) uses_caller: bool,
}

/// What is assigned to.
#[derive(Debug)]
pub(crate) enum Target {
    Name(Arc<str>),
    Attribute(Arc<str>, Arc<str>),
    Several(Vec<Target>),
}
