//! Rules: which tensors of a category get another type than their file type's
//! base. Data, so that plans can show them.

use std::fmt;

use qz_tensor::DataType;

use crate::category::TensorCategory;
use crate::facts::ModelFacts;

/// Gives tensors of a category a type.
#[derive(Debug)]
pub struct Rule {
    /// Which tensors; `None` for all.
    pub category: Option<TensorCategory>,
    /// Which of them: those for which all conditions hold.
    pub conditions: &'static [Condition],
    /// What they get.
    pub data_type: DataType,
}

/// What a rule can ask of a tensor, its model and the job. A *position* is the
/// tensor's number among those of its category: counted one by one, but for
/// feed-forward tensors of models with experts the layer's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// The first this many positions.
    First(usize),
    /// The first `count / this` positions.
    FirstPart(usize),
    /// The first `count / this`, counted one by one even with experts.
    CountedFirstPart(usize),
    /// The first and last eighth, and every third between.
    MoreBits,
    /// Neither the first nor the last eighth.
    Inner,
    /// At least four query heads share a key head.
    GroupedQuery,
    /// The model has at least this many experts.
    Experts(u64),
    /// The model has exactly eight experts (Mixtral's shape).
    EightExperts,
    /// The model has the shape that llama.cpp calls 70B.
    SeventyBillion,
    /// The model is of this architecture.
    Architecture(&'static str),
    /// Several matrices are stacked in the tensor.
    Stacked,
    /// The job has importance weights (for whatever tensors).
    Importance,
    /// The job has none.
    NoImportance,
}

/// A tensor that rules are asked about.
pub(crate) struct Candidate<'a> {
    pub(crate) facts: &'a ModelFacts,
    pub(crate) category: TensorCategory,
    pub(crate) is_stacked: bool,
    pub(crate) has_importance: bool,
    /// Its position among `count`.
    pub(crate) position: usize,
    /// How many of its category came before it.
    pub(crate) counted: usize,
    pub(crate) count: usize,
}

impl Rule {
    pub(crate) fn fits(&self, candidate: &Candidate<'_>) -> bool {
        self.category.is_none_or(|category| category == candidate.category)
            && self.conditions.iter().all(|condition| condition.holds(candidate))
    }
}

impl Condition {
    fn holds(self, candidate: &Candidate<'_>) -> bool {
        let Candidate { facts, position, counted, count, .. } = *candidate;
        // llama-quant.cpp computes these bounds in this order of operations.
        let (eighth, last_eighth) = (count / 8, 7 * count / 8);
        match self {
            Self::First(limit) => position < limit,
            Self::FirstPart(parts) => position < count / parts,
            Self::CountedFirstPart(parts) => counted < count / parts,
            Self::MoreBits => {
                position < eighth || position >= last_eighth || (position - eighth) % 3 == 2
            }
            Self::Inner => (eighth..last_eighth).contains(&position),
            Self::GroupedQuery => facts.heads_per_key_head >= 4,
            Self::Experts(least) => facts.experts >= least,
            Self::EightExperts => facts.experts == 8,
            Self::SeventyBillion => facts.is_seventy_billion,
            Self::Architecture(name) => facts.architecture == name,
            Self::Stacked => candidate.is_stacked,
            Self::Importance => candidate.has_importance,
            Self::NoImportance => !candidate.has_importance,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First(limit) => write!(f, "first {limit}"),
            Self::FirstPart(parts) | Self::CountedFirstPart(parts) => write!(f, "first 1/{parts}"),
            Self::MoreBits => f.write_str("first and last 1/8, every third between"),
            Self::Inner => f.write_str("between first and last 1/8"),
            Self::GroupedQuery => f.write_str("4 or more query heads per key head"),
            Self::Experts(least) => write!(f, "{least} or more experts"),
            Self::EightExperts => f.write_str("8 experts"),
            Self::SeventyBillion => f.write_str("70B shape"),
            Self::Architecture(name) => f.write_str(name),
            Self::Stacked => f.write_str("stacked matrices"),
            Self::Importance => f.write_str("with importance"),
            Self::NoImportance => f.write_str("without importance"),
        }
    }
}

/// `attn_v: first 2`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.category.map_or("any", TensorCategory::name))?;
        for (number, condition) in self.conditions.iter().enumerate() {
            write!(f, "{}{condition}", if number == 0 { ": " } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(facts: &ModelFacts, position: usize, count: usize) -> Candidate<'_> {
        Candidate {
            facts,
            category: TensorCategory::FeedForwardDown,
            is_stacked: false,
            has_importance: false,
            position,
            counted: position,
            count,
        }
    }

    #[test]
    fn more_bits_promotes_half() {
        let facts = ModelFacts::default();
        let check = |count, expected| {
            let holds =
                |position: &usize| Condition::MoreBits.holds(&candidate(&facts, *position, count));
            assert_eq!((0..count).filter(holds).count(), expected, "of {count}");
        };
        check(28, 14);
        check(32, 16);
        check(80, 40);
        check(6, 2);
        check(1, 1);
    }

    #[test]
    fn all_conditions_must_hold() {
        let rule = Rule {
            category: Some(TensorCategory::FeedForwardDown),
            conditions: &[Condition::First(2), Condition::Architecture("falcon")],
            data_type: DataType::Q6_K,
        };
        let check = |architecture: &str, position, expected| {
            let facts = ModelFacts { architecture: architecture.into(), ..ModelFacts::default() };
            assert_eq!(rule.fits(&candidate(&facts, position, 8)), expected, "{architecture}");
        };
        check("falcon", 1, true);
        check("falcon", 2, false);
        check("llama", 1, false);
        assert_eq!(rule.to_string(), "ffn_down: first 2, falcon");
    }
}
