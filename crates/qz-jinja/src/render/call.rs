//! Calls: of macros, functions, methods and loops.

use std::sync::Arc;

use crate::ast::{Arguments, Expression, Kind, Macro};
use crate::error::{Result, fail};
use crate::value::Value;

use super::{Renderer, functions, methods};

/// The values that something is called with.
#[derive(Default)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Arc<str>, Value)>,
}

impl Given {
    /// The values by the names of parameters.
    pub(super) fn bind<const N: usize>(
        self,
        what: &str,
        names: [&str; N],
    ) -> Result<[Option<Value>; N]> {
        let given = self.positional.len();
        if given > N {
            return fail!("{what} takes {N} values, not {given}");
        }
        let mut values = self.positional.into_iter();
        let mut bound = names.map(|_| values.next());
        for (name, value) in self.named {
            match names.iter().position(|known| **known == *name) {
                Some(at) if bound[at].is_none() => bound[at] = Some(value),
                Some(_) => return fail!("{what} is given {name:?} twice"),
                None => return fail!("{what} knows no {name:?}"),
            }
        }
        Ok(bound)
    }
}

impl<'t> Renderer<'t> {
    pub(super) fn given(&mut self, arguments: &'t Arguments) -> Result<Given> {
        let mut given = Given::default();
        for value in &arguments.positional {
            given.positional.push(self.value(value)?);
        }
        for (name, value) in &arguments.named {
            given.named.push((name.clone(), self.value(value)?));
        }
        if let Some(list) = &arguments.list {
            let items = self.value(list)?.items(&self.budget)?;
            self.budget.slots(items.items.len())?;
            given.positional.extend(items.items.iter().cloned());
        }
        if let Some(dictionary) = &arguments.dictionary {
            let Value::Map(map) = self.value(dictionary)? else {
                return fail!("what follows ** is no dict");
            };
            self.budget.slots(map.entries().len())?;
            for (name, value) in map.entries() {
                let Some(name) = name.as_text() else {
                    return fail!("a name that follows ** is no str");
                };
                given.named.push((name.clone(), value.clone()));
            }
        }
        Ok(given)
    }

    /// Carries out a call expression; a call block adds its body.
    pub(super) fn call_with(
        &mut self,
        call: &'t Expression,
        caller: Option<Value>,
    ) -> Result<Value> {
        let Kind::Call(callee, arguments) = &call.kind else {
            return fail!("a call block needs a call");
        };
        if let Kind::Attribute(object, name) = &callee.kind {
            let object = self.value(object)?;
            let found = self.attribute(&object, name)?;
            let mut given = self.given(arguments)?;
            given.named.extend(caller.map(|caller| ("caller".into(), caller)));
            return match found {
                Value::Method(_) => methods::call(&object, name, given, &self.budget),
                Value::Undefined(_) => match object {
                    Value::Undefined(name) => fail!("'{name}' is undefined"),
                    Value::Object(number) => self.call_object(number, name, given),
                    other => fail!("{} has no method {name:?}", other.kind()),
                },
                found => self.call_value(&found, given),
            };
        }
        let callee = self.value(callee)?;
        let mut given = self.given(arguments)?;
        given.named.extend(caller.map(|caller| ("caller".into(), caller)));
        self.call_value(&callee, given)
    }

    pub(super) fn call_value(&mut self, callee: &Value, given: Given) -> Result<Value> {
        self.budget.step()?;
        match callee {
            Value::Macro(number) => self.call_macro(*number, given),
            Value::Function(name) => functions::call(self, name, given),
            Value::Method(method) => methods::call(&method.0, &method.1, given, &self.budget),
            Value::Loop(state) => {
                let [items] = given.bind("a loop", ["items"])?;
                let items = items.unwrap_or(Value::undefined("items"));
                self.loop_again(state, &items)
            }
            Value::Object(number) => self.call_object(*number, "", given),
            other => other.refuse("what is called is no function but"),
        }
    }

    fn call_macro(&mut self, number: usize, given: Given) -> Result<Value> {
        let Some(found) = self.macros.get(number).cloned() else {
            return fail!("a macro is gone");
        };
        self.budget.enter()?;
        let scope = self.scopes.switch(found.scope, &self.budget)?;
        self.parameters(found.definition, given)?;
        let line = self.line;
        let text = self.text_of(&found.definition.body)?;
        self.line = line;
        self.scopes.switch_back(scope);
        self.budget.leave();
        Ok(text)
    }

    /// Sets a macro's parameters in its new scope.
    fn parameters(&mut self, definition: &'t Macro, given: Given) -> Result<()> {
        let Macro { name, parameters, .. } = definition;
        let mut rest = Vec::new();
        for (index, value) in given.positional.into_iter().enumerate() {
            match parameters.get(index) {
                Some((name, _)) => self.scopes.set(name.clone(), value, &self.budget)?,
                None => rest.push(value),
            }
        }
        let mut extra = Vec::new();
        for (given, value) in given.named {
            let known = parameters.iter().any(|(known, _)| *known == given);
            if known || *given == *"caller" && definition.uses_caller {
                self.scopes.set(given, value, &self.budget)?;
            } else {
                extra.push((Value::Text(given), value));
            }
        }
        for (name, default) in parameters {
            if !self.scopes.has(name) {
                let value = match default {
                    Some(default) => self.value(default)?,
                    None => Value::Undefined(name.clone()),
                };
                self.scopes.set(name.clone(), value, &self.budget)?;
            }
        }
        if !rest.is_empty() && !definition.uses_varargs {
            return fail!("macro {name:?} takes no more than {} values", parameters.len());
        }
        if let (Some((extra, _)), false) = (extra.first(), definition.uses_kwargs) {
            let extra = extra.as_text().map_or("", |text| &**text);
            return fail!("macro {name:?} knows no {extra:?}");
        }
        let rest = Value::tuple(rest, &self.budget)?;
        self.scopes.set("varargs".into(), rest, &self.budget)?;
        let extra = Value::map(extra, &self.budget)?;
        self.scopes.set("kwargs".into(), extra, &self.budget)?;
        if !self.scopes.has("caller") {
            self.scopes.set("caller".into(), Value::undefined("caller"), &self.budget)?;
        }
        Ok(())
    }
}
