//! Expressions, computed.

use std::sync::Arc;

use crate::ast::{Comparison, Expression, Kind};
use crate::error::Result;
use crate::value::{SequenceKind, Value};

use super::functions::{self, Object};
use super::{Renderer, filters, methods, operators, tests};

impl<'t> Renderer<'t> {
    pub(super) fn value(&mut self, expression: &'t Expression) -> Result<Value> {
        self.budget.enter()?;
        let value = self.value_inside(expression)?;
        self.budget.leave();
        Ok(value)
    }

    fn value_inside(&mut self, expression: &'t Expression) -> Result<Value> {
        match &expression.kind {
            Kind::Constant(value) => Ok(value.clone()),
            Kind::Captured => Ok(self.captured.clone()),
            Kind::Name(name) => self.variable(name),
            Kind::Tuple(parts) => {
                let parts = self.values(parts)?;
                Value::tuple(parts, &self.budget)
            }
            Kind::List(parts) => {
                let parts = self.values(parts)?;
                Value::list(parts, &self.budget)
            }
            Kind::Dictionary(parts) => {
                let mut entries = Vec::with_capacity(parts.len());
                for (key, value) in parts {
                    entries.push((self.value(key)?, self.value(value)?));
                }
                Value::map(entries, &self.budget)
            }
            Kind::Negative(inner) => operators::negative(&self.value(inner)?),
            Kind::Positive(inner) => operators::positive(&self.value(inner)?),
            Kind::Not(inner) => Ok(Value::Bool(!self.value(inner)?.is_true())),
            Kind::Binary(operator, parts) => {
                let (left, right) = (self.value(&parts[0])?, self.value(&parts[1])?);
                operators::binary(*operator, &left, &right, &self.budget)
            }
            Kind::Concatenation(parts) => {
                let mut text = String::new();
                for part in parts {
                    self.value(part)?.write(&mut text, &self.budget)?;
                }
                Value::text(text, &self.budget)
            }
            Kind::Comparison(first, rest) => self.comparison(first, rest),
            Kind::And(parts) => {
                let left = self.value(&parts[0])?;
                if left.is_true() { self.value(&parts[1]) } else { Ok(left) }
            }
            Kind::Or(parts) => {
                let left = self.value(&parts[0])?;
                if left.is_true() { Ok(left) } else { self.value(&parts[1]) }
            }
            Kind::Conditional(parts, otherwise) => {
                if self.value(&parts[1])?.is_true() {
                    return self.value(&parts[0]);
                }
                match otherwise {
                    Some(otherwise) => self.value(otherwise),
                    None => Ok(Value::undefined("the value of an inline if without else")),
                }
            }
            Kind::Attribute(object, name) => {
                let object = self.value(object)?;
                match self.attribute(&object, name)? {
                    Value::Undefined(_) if matches!(object, Value::Undefined(_)) => {
                        object.refuse("")
                    }
                    found => Ok(found),
                }
            }
            Kind::Item(parts) => {
                let (object, key) = (self.value(&parts[0])?, self.value(&parts[1])?);
                self.item(&object, &key)
            }
            Kind::Slice(object, bounds) => {
                let object = self.value(object)?;
                let mut values = [None; 3];
                for (value, bound) in values.iter_mut().zip(&**bounds) {
                    *value = match bound.as_ref().map(|bound| self.value(bound)).transpose()? {
                        None | Some(Value::None) => None,
                        Some(other) => match other.as_integer() {
                            Some(number) => Some(number),
                            None => return other.refuse("a slice's bound cannot be"),
                        },
                    };
                }
                operators::slice(&object, values, &self.budget)
            }
            Kind::Call(..) => self.call_with(expression, None),
            Kind::Filter(value, name, arguments) => {
                let value = self.value(value)?;
                let given = self.given(arguments)?;
                filters::apply(self, name, value, given)
            }
            Kind::Test(value, name, arguments) => {
                let value = self.value(value)?;
                let given = self.given(arguments)?;
                tests::apply(self, name, &value, given).map(Value::Bool)
            }
        }
    }

    fn values(&mut self, parts: &'t [Expression]) -> Result<Vec<Value>> {
        self.budget.slots(parts.len())?;
        parts.iter().map(|part| self.value(part)).collect()
    }

    fn comparison(
        &mut self,
        first: &'t Expression,
        rest: &'t [(Comparison, Expression)],
    ) -> Result<Value> {
        let mut left = self.value(first)?;
        for (operator, right) in rest {
            let right = self.value(right)?;
            if !operators::compare(*operator, &left, &right, &self.budget)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn variable(&mut self, name: &Arc<str>) -> Result<Value> {
        if let Some(value) = self.scopes.get(name, &self.budget)? {
            return Ok(value);
        }
        let function = functions::GLOBALS.iter().find(|known| ***known == **name);
        Ok(function.map_or_else(|| Value::Undefined(name.clone()), |name| Value::Function(name)))
    }

    /// `object.name`: a method before an entry.
    pub(super) fn attribute(&self, object: &Value, name: &Arc<str>) -> Result<Value> {
        self.budget.step()?;
        if methods::known(object, name) {
            return object.method(name);
        }
        Ok(match object {
            Value::Map(map) => map.text(name).cloned(),
            Value::Loop(state) => functions::loop_attribute(state, name, &self.budget)?,
            Value::Object(number) => match self.object(*number)? {
                Object::Namespace(variables) => {
                    self.budget.spend(2 * variables.len())?;
                    let found = variables.iter().find(|(known, _)| known == name);
                    found.map(|(_, value)| value.clone())
                }
                Object::Cycler { items, at } if **name == *"current" => {
                    items.items.get(*at).cloned()
                }
                _ => None,
            },
            Value::Macro(number) => match (&**name, self.macros.get(*number)) {
                ("name", Some(found)) => Some(Value::Text(found.definition.name.clone())),
                _ => None,
            },
            _ => None,
        }
        .unwrap_or_else(|| Value::Undefined(name.clone())))
    }

    /// `object[key]`: an entry before an attribute.
    pub(super) fn item(&self, object: &Value, key: &Value) -> Result<Value> {
        self.budget.step()?;
        let found = match (object, key) {
            (Value::Undefined(_), _) => return object.refuse(""),
            (Value::Map(map), key) => map.get(key, &self.budget)?.cloned(),
            (Value::Sequence(sequence), key) if sequence.kind != SequenceKind::Iterator => {
                let index = key.as_integer();
                index
                    .and_then(|index| operators::place(index, sequence.items.len()))
                    .map(|index| sequence.items[index].clone())
            }
            (Value::Text(text), key) => match key.as_integer() {
                Some(index) => operators::letter(text, index, &self.budget)?,
                None => None,
            },
            _ => None,
        };
        match (found, key) {
            (Some(found), _) => Ok(found),
            (None, Value::Text(name)) => self.attribute(object, name),
            (None, key) => {
                let mut shown = String::new();
                key.write_repr(&mut shown, &self.budget)?;
                shown.truncate(shown.floor_char_boundary(60));
                Ok(Value::undefined(&format!("[{shown}]")))
            }
        }
    }

    /// What `attribute='a.b.0'` of a filter means.
    pub(super) fn path(&self, object: &Value, path: &Value) -> Result<Value> {
        let Some(text) = path.as_text() else { return self.item(object, path) };
        let mut value = object.clone();
        for part in text.split('.') {
            let key = match part.parse::<i64>() {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::text(part, &self.budget)?,
            };
            value = self.item(&value, &key)?;
        }
        Ok(value)
    }
}
