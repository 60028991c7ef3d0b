//! Sums over the inputs of a group's matrices, and over what the quantized model lacks beside
//! the full one.

use qz_calib::Moments;
use qz_linalg::{CrossGram, Gram};
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

    /// Multiplies each row with its weight, for a regression in which a token counts the more
    /// the more of the product it gets; the sum of the weights' squares.
    pub(crate) fn weigh(&mut self) -> f64 {
        let width = self.full.len() / self.weights.len().max(1);
        for rows in [&mut self.full, &mut self.quantized] {
            for (row, weight) in rows.chunks_mut(width.max(1)).zip(&self.weights) {
                row.iter_mut().for_each(|number| *number *= weight);
            }
        }
        self.weights.iter().map(|weight| f64::from(*weight).powi(2)).sum()
    }
}

/// Some of rows.
pub(crate) fn gathered(rows: &[f32], tokens: &[usize], width: usize) -> Vec<f32> {
    tokens.iter().flat_map(|token| &rows[token * width..][..width]).copied().collect()
}

/// Which sums of a group's inputs are wanted.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) columns: usize,
    pub(crate) moments: bool,
    pub(crate) gram: bool,
    /// Of what the quantized model lacks beside the full one.
    pub(crate) lacking: Option<LackingKind>,
}

/// Of what differences between the full and the quantized model are.
#[derive(Clone, Copy, PartialEq, Eq)]
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
}

impl Wanted {
    /// Sums without the full model.
    pub(crate) fn alone(self) -> Self {
        Self { lacking: None, ..self }
    }

    /// Sums of nothing.
    pub(crate) fn sums(self) -> Sums {
        Sums {
            moments: self.moments.then(|| Moments::new(self.columns)),
            gram: self.gram.then(|| Gram::new(self.columns)),
            lacking: self.lacking.map(|kind| Lacking::of(kind, self.columns)),
        }
    }

    /// Bytes of the sums over inputs.
    pub(crate) fn input_bytes(self) -> u64 {
        let moments = if self.moments { Moments::bytes(self.columns) } else { 0 };
        moments + self.gram_bytes()
    }

    /// Bytes of the Gram matrix.
    pub(crate) fn gram_bytes(self) -> u64 {
        if self.gram { Gram::bytes(self.columns, &(0..self.columns)) } else { 0 }
    }

    /// Bytes of the sums over what is lacking.
    pub(crate) fn lacking_bytes(self) -> u64 {
        self.lacking.map_or(0, |kind| CrossGram::bytes(kind.rows(self.columns), self.columns))
    }

    /// Bytes of all sums.
    pub(crate) fn bytes(self) -> u64 {
        self.input_bytes() + self.lacking_bytes()
    }
}

/// Inputs of one group's products, summed as far as somebody wants it.
pub(crate) struct Sums {
    pub(crate) moments: Option<Moments>,
    pub(crate) gram: Option<Gram>,
    /// Of what the quantized model lacks beside the full one.
    lacking: Option<Lacking>,
}

/// Sums of what the quantized model lacks beside the full one.
enum Lacking {
    /// Of its inputs.
    Inputs(CrossGram),
    /// Of the results; and the sum of the squares of their weights, where they have any.
    Results { sums: CrossGram, squares: Option<f64> },
}

impl Lacking {
    fn of(kind: LackingKind, columns: usize) -> Self {
        match kind {
            LackingKind::Inputs => Self::Inputs(CrossGram::new(columns, columns)),
            LackingKind::Results(rows) => {
                Self::Results { sums: CrossGram::new(rows, columns), squares: None }
            }
        }
    }

    fn kind(&self) -> LackingKind {
        match self {
            Self::Inputs(_) => LackingKind::Inputs,
            Self::Results { sums, .. } => LackingKind::Results(sums.rows()),
        }
    }

    fn add(&mut self, rows: &[f32], beside: Beside) {
        match (self, beside) {
            (Self::Inputs(cross), Beside::Inputs(full)) => cross.add(&full, rows, rows),
            (Self::Results { sums, squares }, Beside::Results(mut results)) => {
                if !results.weights.is_empty() {
                    *squares.get_or_insert_default() += results.weigh();
                }
                sums.add(&results.full, &results.quantized, rows);
            }
            _ => unreachable!("a group is shown in one way"),
        }
    }

    /// The mean over so many tokens; nothing if there is no difference: before anything was
    /// quantized both models see the same.
    fn finish(self, tokens: u64) -> Option<Vec<f32>> {
        let (sums, squares) = match self {
            Self::Inputs(sums) => (sums, None),
            Self::Results { sums, squares } => (sums, squares),
        };
        let mean = squares.map_or(1.0, |sum| sum / tokens.max(1) as f64);
        let mut means = sums.finish();
        if mean <= 0.0 || means.iter().all(|entry| *entry == 0.0) {
            return None;
        }
        means.iter_mut().for_each(|entry| *entry = (f64::from(*entry) / mean) as f32);
        Some(means)
    }
}

impl Sums {
    /// Tokens so far.
    pub(crate) fn tokens(&self) -> u64 {
        let moments = self.moments.as_ref().map(Moments::rows);
        self.gram.as_ref().map(Gram::tokens).or(moments).unwrap_or(0)
    }

    /// Adds tokens' inputs, and the full model's of the same tokens where they are summed
    /// with these, on the current pool's threads.
    pub(crate) fn add(&mut self, rows: &[f32], beside: Option<Beside>) {
        if let Some(moments) = &mut self.moments {
            moments.add(rows);
        }
        if let Some(gram) = &mut self.gram {
            gram.add(rows);
        }
        if let (Some(lacking), Some(beside)) = (&mut self.lacking, beside) {
            lacking.add(rows, beside);
        }
    }

    /// Makes of sums over fewer than `prior` tokens those over `prior` of them: what is
    /// missing is taken from `mean`, which is of the same kind. What is lacking stays.
    pub(crate) fn shrink(&mut self, prior: u64, mean: &mut Self) {
        if let (Some(own), Some(mean)) = (&mut self.moments, &mean.moments) {
            own.shrink(prior, mean);
        }
        if let (Some(own), Some(mean)) = (&mut self.gram, &mut mean.gram) {
            own.shrink(prior, mean);
        }
    }

    /// Adds what another of the same kind has summed, but for what is lacking.
    pub(crate) fn merge(&mut self, other: Self) {
        if let (Some(own), Some(other)) = (&mut self.moments, &other.moments) {
            own.merge(other);
        }
        if let (Some(own), Some(other)) = (&mut self.gram, other.gram) {
            own.merge(other);
        }
    }

    /// What is lacking, if it is summed.
    pub(crate) fn lacking_kind(&self) -> Option<LackingKind> {
        self.lacking.as_ref().map(Lacking::kind)
    }

    /// Forgets what is lacking; true if it was summed.
    pub(crate) fn forget_lacking(&mut self) -> bool {
        self.lacking.take().is_some()
    }

    /// The mean of what is lacking over so many tokens, if it is summed and there is any.
    pub(crate) fn take_lacking(&mut self, tokens: u64) -> Option<Vec<f32>> {
        self.lacking.take()?.finish(tokens)
    }
}
