//! A file type's rules at work on one model.

use qz_tensor::{DataType, Shape};

use crate::assign::{PlannedTensor, Reason, Request};
use crate::category::{TensorCategory, is_always_eight_bits};
use crate::order::layer_of;
use crate::rule::Candidate;

/// Rules refer to the how-manieth tensor of a category this is, so it counts.
/// Tensors that never get here (kept, or overridden) are not counted, as in
/// llama.cpp.
pub(crate) struct Mixture<'a> {
    request: &'a Request<'a>,
    value_tensors: usize,
    is_tied: bool,
    seen: Seen,
}

/// Tensors of each counted category so far.
#[derive(Default)]
struct Seen {
    values: usize,
    ups: usize,
    gates: usize,
    downs: usize,
}

impl<'a> Mixture<'a> {
    pub(crate) fn new(request: &'a Request<'a>, tensors: &[PlannedTensor]) -> Self {
        let count = |category| {
            tensors.iter().filter(|tensor| TensorCategory::of(&tensor.name) == category).count()
        };
        Self {
            request,
            value_tensors: count(TensorCategory::AttentionValue),
            is_tied: count(TensorCategory::Output) == 0,
            seen: Seen::default(),
        }
    }

    /// What the rules say about a tensor that may be quantized.
    pub(crate) fn data_type(&mut self, tensor: &PlannedTensor) -> (DataType, Reason) {
        let Request { file_type, facts, overrides, .. } = self.request;
        let category = TensorCategory::of(&tensor.name);
        if is_always_eight_bits(&facts.architecture, &tensor.name) {
            return (DataType::Q8_0, Reason::Architecture);
        }
        let stands_for_output = category == TensorCategory::TokenEmbedding && self.is_tied;
        if category == TensorCategory::Output || stands_for_output {
            return match overrides.output {
                Some(data_type) => (data_type, Reason::OutputOption),
                None => (self.output_type(&tensor.shape), Reason::Output),
            };
        }
        let candidate = self.candidate(category, tensor);
        let mut rules = file_type.rules.iter().flat_map(|rules| *rules);
        match rules.find(|rule| rule.fits(&candidate)) {
            Some(rule) => (rule.data_type, Reason::Rule(rule)),
            None => (file_type.base, Reason::Base),
        }
    }

    /// Eight bits where the rows do not fit.
    fn output_type(&self, shape: &Shape) -> DataType {
        let Request { file_type, facts, .. } = self.request;
        let fits = shape.columns().is_multiple_of(file_type.base.block_elements() as u64);
        if fits && facts.architecture != "falcon" { file_type.output } else { DataType::Q8_0 }
    }

    fn candidate(&mut self, category: TensorCategory, tensor: &PlannedTensor) -> Candidate<'a> {
        let facts = self.request.facts;
        let counter = match category {
            TensorCategory::AttentionValue => Some(&mut self.seen.values),
            TensorCategory::FeedForwardUp => Some(&mut self.seen.ups),
            TensorCategory::FeedForwardGate => Some(&mut self.seen.gates),
            TensorCategory::FeedForwardDown => Some(&mut self.seen.downs),
            _ => None,
        };
        let counted = counter.map_or(0, |seen| {
            *seen += 1;
            *seen - 1
        });
        let is_value = category == TensorCategory::AttentionValue;
        let layer = layer_of(&tensor.name).filter(|_| facts.experts > 1 && !is_value);
        Candidate {
            facts,
            category,
            is_stacked: is_stacked(&tensor.shape),
            has_importance: self.request.has_importance,
            position: layer.map_or(counted, |layer| layer as usize),
            counted,
            count: if is_value { self.value_tensors } else { facts.layers },
        }
    }
}

/// True if the third dimension from the inside is more than one.
fn is_stacked(shape: &Shape) -> bool {
    shape.dimensions().iter().rev().nth(2).is_some_and(|matrices| *matrices > 1)
}

#[cfg(test)]
mod tests;
