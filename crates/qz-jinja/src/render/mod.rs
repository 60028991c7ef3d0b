//! Statements, carried out.

mod call;
mod expressions;
mod filters;
mod formats;
mod functions;
mod methods;
mod operators;
mod scopes;
mod tests;
mod text_methods;

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::ast::{Action, Expression, For, Macro, Statement, Target};
use crate::budget::{Budget, MAX_TEXT};
use crate::error::{Error, Result, fail};
use crate::value::{Loop, Sequence, Value};

use functions::Object;
use scopes::Scopes;

/// The text of a template.
pub(crate) fn template(body: &[Statement], variables: &Map<String, Json>) -> Result<String> {
    let mut renderer = Renderer {
        budget: Budget::new(),
        scopes: Scopes::new(),
        out: String::new(),
        line: 1,
        captured: Value::None,
        objects: Vec::new(),
        macros: Vec::new(),
        loops: Vec::new(),
    };
    let done = renderer.all(body, variables);
    done.map_err(|error| error.at(renderer.line))?;
    Ok(renderer.out)
}

/// How a list of statements ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Renderer<'t> {
    budget: Budget,
    scopes: Scopes,
    out: String,
    line: usize,
    /// What a block with filters gives them.
    captured: Value,
    objects: Vec<Object>,
    macros: Vec<Defined<'t>>,
    /// Loops whose bodies may call them, with the scope around them.
    loops: Vec<(&'t For, usize)>,
}

/// A macro, with the scope that it sees, and the body that its call has.
#[derive(Clone)]
struct Defined<'t> {
    definition: &'t Macro,
    scope: usize,
}

impl<'t> Renderer<'t> {
    fn all(&mut self, body: &'t [Statement], variables: &Map<String, Json>) -> Result<()> {
        for (name, value) in variables {
            self.scopes.set(name.as_str().into(), Value::from_json(value)?, &self.budget)?;
        }
        // What a template sets hides what it is given, which macros still see.
        let scope = self.scopes.enter(&self.budget)?;
        self.whole(body)?;
        self.scopes.leave(scope);
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<()> {
        if self.out.len() + text.len() > MAX_TEXT {
            return fail!("the template makes more than {MAX_TEXT} bytes of one conversation");
        }
        self.budget.spend(text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    fn statements(&mut self, body: &'t [Statement]) -> Result<Flow> {
        self.budget.enter()?;
        for statement in body {
            let flow = self.statement(statement)?;
            if flow != Flow::On {
                self.budget.leave();
                return Ok(flow);
            }
        }
        self.budget.leave();
        Ok(Flow::On)
    }

    fn statement(&mut self, statement: &'t Statement) -> Result<Flow> {
        self.budget.step()?;
        self.line = statement.line;
        match &statement.kind {
            Action::Text(text) => self.write(text)?,
            Action::Print(value) => {
                let value = self.value(value)?;
                self.print(&value)?;
            }
            Action::For(one) => {
                let items = self.value(&one.items)?;
                self.for_loop(one, &items, 0)?;
            }
            Action::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.value(test)?.is_true() {
                        return self.statements(body);
                    }
                }
                return self.statements(otherwise);
            }
            Action::Set(target, value) => {
                let value = self.value(value)?;
                self.assign(target, value)?;
            }
            Action::SetBlock(target, body, filters) => {
                let value = self.filtered(body, filters)?;
                self.assign(target, value)?;
            }
            Action::FilterBlock(body, filters) => {
                let value = self.filtered(body, filters)?;
                self.print(&value)?;
            }
            Action::With(values, body) => {
                let mut found = Vec::with_capacity(values.len());
                for (target, value) in values {
                    found.push((target, self.value(value)?));
                }
                let scope = self.scopes.enter(&self.budget)?;
                for (target, value) in found {
                    self.assign(target, value)?;
                }
                let flow = self.statements(body)?;
                self.scopes.leave(scope);
                return Ok(flow);
            }
            Action::Macro(name, definition) => {
                let value = self.define(definition)?;
                self.scopes.set(name.clone(), value, &self.budget)?;
            }
            Action::CallBlock(call, body) => {
                let caller = self.define(body)?;
                let value = self.call_with(call, Some(caller))?;
                self.print(&value)?;
            }
            Action::Scope(body) => {
                let scope = self.scopes.enter(&self.budget)?;
                let flow = self.statements(body)?;
                self.scopes.leave(scope);
                return Ok(flow);
            }
            Action::Break => return Ok(Flow::Break),
            Action::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn print(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Text(text) => self.write(text),
            other => {
                let text = other.printed(&self.budget)?;
                self.write(&text)
            }
        }
    }

    /// The text that statements write.
    fn text_of(&mut self, body: &'t [Statement]) -> Result<Value> {
        let before = std::mem::take(&mut self.out);
        self.whole(body)?;
        let text = std::mem::replace(&mut self.out, before);
        Value::text(text, &self.budget)
    }

    /// Statements outside of any loop.
    fn whole(&mut self, body: &'t [Statement]) -> Result<()> {
        match self.statements(body)? {
            Flow::On => Ok(()),
            Flow::Break | Flow::Continue => fail!("a loop is left where there is none"),
        }
    }

    /// The text of a body, with variables of its own.
    fn captured(&mut self, body: &'t [Statement]) -> Result<Value> {
        let scope = self.scopes.enter(&self.budget)?;
        let text = self.text_of(body)?;
        self.scopes.leave(scope);
        Ok(text)
    }

    fn filtered(&mut self, body: &'t [Statement], filters: &'t Expression) -> Result<Value> {
        let text = self.captured(body)?;
        let before = std::mem::replace(&mut self.captured, text);
        let value = self.value(filters)?;
        self.captured = before;
        Ok(value)
    }

    fn define(&mut self, definition: &'t Macro) -> Result<Value> {
        self.budget.slots(4)?;
        let scope = self.scopes.keep();
        self.macros.push(Defined { definition, scope });
        Ok(Value::Macro(self.macros.len() - 1))
    }

    fn assign(&mut self, target: &'t Target, value: Value) -> Result<()> {
        self.budget.slots(2)?;
        match target {
            Target::Name(name) => self.scopes.set(name.clone(), value, &self.budget)?,
            Target::Attribute(name, attribute) => {
                let found = self.scopes.get(name, &self.budget)?;
                let object = match found {
                    Some(Value::Object(number)) => self.objects.get_mut(number),
                    _ => None,
                };
                let Some(Object::Namespace(variables)) = object else {
                    return fail!("{name:?} is no namespace; attributes are set in those alone");
                };
                let place = variables.iter_mut().find(|(known, _)| known == attribute);
                match place {
                    Some((_, place)) => *place = value,
                    None => variables.push((attribute.clone(), value)),
                }
            }
            Target::Several(targets) => {
                let items = value.items(&self.budget)?;
                if items.items.len() != targets.len() {
                    let (given, wanted) = (items.items.len(), targets.len());
                    return fail!("{given} values cannot be assigned to {wanted} names");
                }
                for (target, item) in targets.iter().zip(&items.items) {
                    self.assign(target, item.clone())?;
                }
            }
        }
        Ok(())
    }

    /// A loop over items, at a level of its own kind.
    fn for_loop(&mut self, one: &'t For, items: &Value, level: usize) -> Result<()> {
        let items = self.filtered_items(one, items.items(&self.budget)?)?;
        let recursive = one.recursive.then(|| {
            self.loops.push((one, self.scopes.keep()));
            self.loops.len() - 1
        });
        self.budget.slots(4)?;
        for index in 0..items.items.len() {
            let scope = self.scopes.enter(&self.budget)?;
            self.assign(&one.target, items.items[index].clone())?;
            let state = Loop { items: items.clone(), index, level, recursive };
            let name = self.scopes.loop_name();
            self.scopes.set(name, Value::Loop(Arc::new(state)), &self.budget)?;
            let flow = self.statements(&one.body)?;
            self.scopes.leave(scope);
            if flow == Flow::Break {
                break;
            }
        }
        if items.items.is_empty() {
            let scope = self.scopes.enter(&self.budget)?;
            self.statements(&one.otherwise)?;
            self.scopes.leave(scope);
        }
        Ok(())
    }

    fn filtered_items(&mut self, one: &'t For, items: Arc<Sequence>) -> Result<Arc<Sequence>> {
        let Some(condition) = &one.condition else { return Ok(items) };
        let mut kept = Vec::new();
        for item in &items.items {
            let scope = self.scopes.enter(&self.budget)?;
            self.assign(&one.target, item.clone())?;
            if self.value(condition)?.is_true() {
                kept.push(item.clone());
            }
            self.scopes.leave(scope);
        }
        Value::list(kept, &self.budget)?.items(&self.budget)
    }

    fn loop_again(&mut self, state: &Loop, items: &Value) -> Result<Value> {
        let found = state.recursive.and_then(|number| self.loops.get(number).copied());
        let Some((one, scope)) = found else {
            return fail!("only loops marked as recursive can be called");
        };
        self.budget.enter()?;
        let before = std::mem::take(&mut self.out);
        let around = self.scopes.switch(scope, &self.budget)?;
        self.for_loop(one, items, state.level + 1)?;
        self.scopes.switch_back(around);
        self.budget.leave();
        let text = std::mem::replace(&mut self.out, before);
        Value::text(text, &self.budget)
    }

    fn object(&self, number: usize) -> Result<&Object> {
        self.objects.get(number).ok_or_else(|| Error::new("an object is gone"))
    }
}
