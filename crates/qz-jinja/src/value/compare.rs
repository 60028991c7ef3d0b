//! Equality, order and membership.

use std::cmp::Ordering;

use super::{Dictionary, SequenceKind, Value};
use crate::budget::Budget;
use crate::error::{Result, fail};

impl Value {
    pub(crate) fn equals(&self, other: &Self, budget: &Budget) -> Result<bool> {
        budget.step()?;
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Text(one), Self::Text(other)) => {
                if one.len() == other.len() {
                    budget.scan(one.len())?;
                }
                one == other
            }
            (Self::Integer(one), Self::Integer(other)) => one == other,
            (Self::Sequence(one), Self::Sequence(other)) => {
                if one.kind != other.kind || one.items.len() != other.items.len() {
                    return Ok(false);
                }
                for (one, other) in one.items.iter().zip(&other.items) {
                    if !one.equals(other, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Map(one), Self::Map(other)) => maps_equal(one, other, budget)?,
            (Self::Object(one), Self::Object(other)) | (Self::Macro(one), Self::Macro(other)) => {
                one == other
            }
            (Self::Function(one), Self::Function(other)) => one == other,
            _ => match (self.as_float(), other.as_float()) {
                (Some(one), Some(other)) => one == other,
                _ => false,
            },
        })
    }

    pub(crate) fn order(&self, other: &Self, budget: &Budget) -> Result<Option<Ordering>> {
        budget.step()?;
        Ok(match (self, other) {
            (Self::Text(one), Self::Text(other)) => {
                budget.scan(one.len().min(other.len()))?;
                Some(one.cmp(other))
            }
            (Self::Sequence(one), Self::Sequence(other))
                if one.kind == other.kind && one.kind != SequenceKind::Iterator =>
            {
                for (one, other) in one.items.iter().zip(&other.items) {
                    if !one.equals(other, budget)? {
                        return one.order(other, budget);
                    }
                }
                Some(one.items.len().cmp(&other.items.len()))
            }
            _ => match (self.as_integer(), other.as_integer()) {
                (Some(one), Some(other)) => Some(one.cmp(&other)),
                _ => match (self.as_float(), other.as_float()) {
                    (Some(one), Some(other)) => one.partial_cmp(&other),
                    _ => {
                        let of = if matches!(self, Self::Undefined(_)) { self } else { other };
                        return match of {
                            Self::Undefined(_) => of.refuse(""),
                            _ => fail!("{} is not ordered against {}", self.kind(), other.kind()),
                        };
                    }
                },
            },
        })
    }

    /// Whether `item in self`.
    pub(crate) fn contains(&self, item: &Self, budget: &Budget) -> Result<bool> {
        budget.step()?;
        match self {
            Self::Undefined(_) => Ok(false),
            Self::Text(text) => match item {
                Self::Text(part) => {
                    // A search takes several times as long as reading.
                    budget.scan((text.len() + part.len()).saturating_mul(4))?;
                    Ok(text.contains(&**part))
                }
                other => other.refuse("a str does not contain"),
            },
            Self::Sequence(sequence) => {
                for one in &sequence.items {
                    if one.equals(item, budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Map(map) => Ok(map.get(item, budget)?.is_some()),
            other => other.refuse("there is nothing in"),
        }
    }
}

fn maps_equal(one: &Dictionary, other: &Dictionary, budget: &Budget) -> Result<bool> {
    if one.entries().len() != other.entries().len() {
        return Ok(false);
    }
    for (key, value) in one.entries() {
        let found = other.get(key, budget)?;
        let equal = found.map(|found| found.equals(value, budget)).transpose()?;
        if equal != Some(true) {
            return Ok(false);
        }
    }
    Ok(true)
}
