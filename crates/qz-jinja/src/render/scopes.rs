//! Variables: scopes in scopes. A macro keeps the scope that it was defined in.

use std::sync::Arc;

use crate::budget::{Budget, SLOT};
use crate::error::Result;
use crate::value::Value;

/// What it costs to look at a variable's name.
const LOOK: usize = 5;

pub(super) struct Scopes {
    all: Vec<Scope>,
    current: usize,
    /// Scopes up to here may still be seen by macros.
    kept: usize,
    loop_name: Arc<str>,
}

struct Scope {
    variables: Vec<(Arc<str>, Value)>,
    parent: Option<usize>,
}

impl Scopes {
    pub(super) fn new() -> Self {
        let first = Scope { variables: Vec::new(), parent: None };
        Self { all: vec![first], current: 0, kept: 0, loop_name: "loop".into() }
    }

    pub(super) fn loop_name(&self) -> Arc<str> {
        self.loop_name.clone()
    }

    /// Opens a scope in the current one, and gives the one to return to.
    pub(super) fn enter(&mut self, budget: &Budget) -> Result<usize> {
        self.switch(self.current, budget)
    }

    /// Opens a scope in another one.
    pub(super) fn switch(&mut self, parent: usize, budget: &Budget) -> Result<usize> {
        budget.spend(2 * SLOT)?;
        let before = self.current;
        self.all.push(Scope { variables: Vec::new(), parent: Some(parent) });
        self.current = self.all.len() - 1;
        Ok(before)
    }

    pub(super) fn leave(&mut self, before: usize) {
        self.switch_back(before);
    }

    pub(super) fn switch_back(&mut self, before: usize) {
        if self.current + 1 == self.all.len() && self.current > self.kept {
            self.all.pop();
        }
        self.current = before;
    }

    /// The current scope, which stays from now on.
    pub(super) fn keep(&mut self) -> usize {
        self.kept = self.kept.max(self.all.len() - 1);
        self.current
    }

    pub(super) fn set(&mut self, name: Arc<str>, value: Value, budget: &Budget) -> Result<()> {
        let variables = &mut self.all[self.current].variables;
        budget.spend(LOOK * variables.len() + SLOT)?;
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, place)) => *place = value,
            None => variables.push((name, value)),
        }
        Ok(())
    }

    /// Whether the current scope has a variable of its own.
    pub(super) fn has(&self, name: &str) -> bool {
        self.all[self.current].variables.iter().any(|(known, _)| **known == *name)
    }

    pub(super) fn get(&self, name: &str, budget: &Budget) -> Result<Option<Value>> {
        let mut scope = Some(self.current);
        while let Some(found) = scope.and_then(|number| self.all.get(number)) {
            budget.spend(LOOK * found.variables.len() + 2)?;
            let variable = found.variables.iter().find(|(known, _)| **known == *name);
            if let Some((_, value)) = variable {
                return Ok(Some(value.clone()));
            }
            scope = found.parent;
        }
        Ok(None)
    }
}
