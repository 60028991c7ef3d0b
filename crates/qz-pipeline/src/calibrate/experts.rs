//! Experts: whose tokens count as theirs, and what is said of those with few.

use qz_models::forward::Routing;
use qz_models::graph::{GroupIndex, LayerGraph};

/// Which inputs count as an expert's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertOptions {
    /// Show every token to every expert.
    pub all: bool,
    /// As how many tokens the mean over the layer's experts counts; 0 leaves the sums as they
    /// are. Nothing: a quarter of the columns in Gram matrices, and moments are filled up to 64.
    pub prior: Option<u64>,
}

/// Moments of experts with fewer tokens are filled up.
const LEAST_TOKENS: u64 = 64;

/// Columns for each token that the mean over a layer's experts counts as in their Gram matrices.
/// On a trained mixture twice and half as many were as good, a Gram matrix without the mean lost
/// two to three times as much with fewer tokens than columns, and the same above eight times as
/// many (QUALITY.md).
const COLUMNS_PER_TOKEN: u64 = 4;

impl ExpertOptions {
    /// As how many tokens the mean over the layer's experts counts, beside an expert's own, in a
    /// Gram matrix.
    pub(crate) fn tokens_of_mean(self, columns: usize) -> u64 {
        self.prior.unwrap_or(columns as u64 / COLUMNS_PER_TOKEN)
    }

    /// The tokens that moments are filled up to with the mean over the layer's experts. An
    /// importance matrix of experts with more is that of llama-imatrix.
    pub(crate) fn least_tokens(self) -> u64 {
        self.prior.unwrap_or(LEAST_TOKENS)
    }

    pub(crate) fn routing(self) -> Routing {
        if self.all { Routing::All } else { Routing::Chosen }
    }
}

/// Whose inputs are those of all of a group's experts together. For gate and up they are the
/// router's, once each: a token is given to as many experts as any other.
pub(crate) fn inputs_of_all(graph: &LayerGraph, group: GroupIndex) -> GroupIndex {
    graph.group(group).inputs_of_all.unwrap_or(group)
}

/// How a layer's experts share the tokens.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ExpertCoverage {
    /// The layer.
    pub layer: u32,
    /// Each expert's tokens.
    pub tokens: Vec<u64>,
}

impl ExpertCoverage {
    /// Which experts have few tokens, and what becomes of them.
    pub(crate) fn warnings(&self, prior: u64) -> Vec<String> {
        let list = |wanted: &dyn Fn(u64) -> bool| {
            let numbers = self.tokens.iter().enumerate().filter(|(_, count)| wanted(**count));
            numbers.map(|(expert, _)| expert.to_string()).collect::<Vec<_>>().join(", ")
        };
        let stand_in = if prior > 0 { ": the layer's mean stands in" } else { "" };
        let none = (list(&|count| count == 0), format!("were given no token{stand_in}"));
        let few =
            format!("were given fewer than {prior} tokens, and are drawn toward the layer's mean");
        let few = (list(&|count| count > 0 && count < prior), few);
        let named = [none, few].into_iter().filter(|(experts, _)| !experts.is_empty());
        named
            .map(|(experts, what)| format!("layer {}: experts {experts} {what}", self.layer))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_with_few_tokens_are_named() {
        let check = |prior: u64, expected: &[&str]| {
            let coverage = ExpertCoverage { layer: 3, tokens: vec![0, 70, 5, 0, 64] };
            assert_eq!(coverage.warnings(prior), expected);
        };
        check(0, &["layer 3: experts 0, 3 were given no token"]);
        check(
            64,
            &[
                "layer 3: experts 0, 3 were given no token: the layer's mean stands in",
                "layer 3: experts 2 were given fewer than 64 tokens, and are drawn toward the \
                 layer's mean",
            ],
        );
    }
}
