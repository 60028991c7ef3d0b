//! What the quantized model lacks beside the full one.

use qz_calib::{INPUT_CROSS, RESULT_CROSS};
use qz_linalg::CrossGram;
use qz_models::graph::LinearGroup;

/// What the full model has of the tokens whose inputs are summed.
pub(crate) enum Beside {
    /// Its inputs of the same products.
    Inputs(Vec<f32>),
    /// Where products are added to hidden states, the sums.
    Results(Results),
}

/// Rows of hidden states behind a product.
#[derive(Default)]
pub(crate) struct Results {
    /// The full model's.
    pub(crate) full: Vec<f32>,
    /// The quantized model's, with the matrix as it was.
    pub(crate) quantized: Vec<f32>,
    /// What the product's rows are multiplied with before they are added: the weights of all
    /// of a token's experts together. Nothing where they are added as they are.
    pub(crate) weights: Vec<f32>,
}

impl Results {
    /// Those of some tokens, given by the numbers of their rows.
    pub(crate) fn of(&self, tokens: &[usize], width: usize) -> Self {
        Self {
            full: gathered(&self.full, tokens, width),
            quantized: gathered(&self.quantized, tokens, width),
            weights: gathered(&self.weights, tokens, 1),
        }
    }

    /// Both models' rows multiplied with their weights, for a regression in which a token
    /// counts the more the more of the product it gets.
    fn weighed(&self) -> [Vec<f32>; 2] {
        let width = self.full.len() / self.weights.len().max(1);
        [&self.full, &self.quantized].map(|rows| {
            let rows = rows.chunks(width.max(1)).zip(&self.weights);
            rows.flat_map(|(row, weight)| row.iter().map(move |number| number * weight)).collect()
        })
    }

    /// The sum of the weights' squares.
    fn squares(&self) -> f64 {
        self.weights.iter().map(|weight| f64::from(*weight).powi(2)).sum()
    }
}

/// Some of rows.
pub(crate) fn gathered(rows: &[f32], tokens: &[usize], width: usize) -> Vec<f32> {
    tokens.iter().flat_map(|token| &rows[token * width..][..width]).copied().collect()
}

/// Of what differences between the full and the quantized model are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LackingKind {
    /// Of inputs.
    Inputs,
    /// Of so many numbers of a hidden state, with the product in it.
    Results(usize),
}

impl LackingKind {
    /// That of a group's matrices, in a model with hidden states of so many numbers. Nothing
    /// where nobody knows what the full model has: of heads, and of experts whose sum is
    /// changed before it is added.
    pub(crate) fn of(group: &LinearGroup, hidden: usize) -> Option<Self> {
        match (group.is_added, group.experts, group.inputs_of_all) {
            _ if group.is_router => None,
            (true, _, _) => Some(Self::Results(hidden)),
            (false, None, _) | (false, Some(_), Some(_)) => Some(Self::Inputs),
            (false, Some(_), None) => None,
        }
    }

    /// Rows of the sums, for matrices of so many columns.
    pub(crate) fn rows(self, columns: usize) -> usize {
        match self {
            Self::Inputs => columns,
            Self::Results(rows) => rows,
        }
    }

    /// Bytes of the sums, for matrices of so many columns.
    pub(crate) fn bytes(self, columns: usize) -> u64 {
        CrossGram::bytes(self.rows(columns), columns)
    }

    /// What the names of the sums end in, in a statistics file.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Inputs => INPUT_CROSS,
            Self::Results(_) => RESULT_CROSS,
        }
    }
}

/// Sums of what the quantized model lacks beside the full one.
pub(crate) struct Lacking {
    kind: LackingKind,
    columns: usize,
    sums: CrossGram,
    /// The sum of the squares of the results' weights, where they have any.
    squares: Option<f64>,
}

impl Lacking {
    /// Of no token.
    pub(super) fn new(kind: LackingKind, columns: usize) -> Self {
        let sums = CrossGram::new(kind.rows(columns), columns);
        Self { kind, columns, sums, squares: None }
    }

    pub(crate) fn kind(&self) -> LackingKind {
        self.kind
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn tokens(&self) -> u64 {
        self.sums.tokens()
    }

    pub(super) fn add(&mut self, rows: &[f32], beside: &Beside) {
        match (self.kind, beside) {
            (LackingKind::Inputs, Beside::Inputs(full)) => self.sums.add(full, rows, rows),
            (LackingKind::Results(_), Beside::Results(results)) if results.weights.is_empty() => {
                self.sums.add(&results.full, &results.quantized, rows);
            }
            (LackingKind::Results(_), Beside::Results(results)) => {
                *self.squares.get_or_insert_default() += results.squares();
                let [full, quantized] = results.weighed();
                self.sums.add(&full, &quantized, rows);
            }
            _ => unreachable!("a group is shown in one way"),
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.sums.merge(other.sums);
        if let Some(squares) = other.squares {
            *self.squares.get_or_insert_default() += squares;
        }
    }

    /// The mean over the tokens; nothing if there is no difference: before anything was
    /// quantized both models see the same.
    pub(crate) fn finish(self) -> Option<Vec<f32>> {
        let tokens = self.sums.tokens();
        let mean = self.squares.map_or(1.0, |sum| sum / tokens.max(1) as f64);
        let mut means = self.sums.finish();
        if mean <= 0.0 || means.iter().all(|entry| *entry == 0.0) {
            return None;
        }
        means.iter_mut().for_each(|entry| *entry = (f64::from(*entry) / mean) as f32);
        Some(means)
    }
}
