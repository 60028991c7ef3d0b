//! What the quantized model lacks beside the full one.

use qz_calib::{INPUT_CROSS, RESULT_CROSS};
use qz_kernels::Error;
use qz_kernels::backend::{Backend, ExpertLoad, Shaped};
use qz_linalg::{CrossGram, CrossMean, cross_bytes};
use qz_models::graph::LinearGroup;

/// What the full model has of the tokens whose inputs are summed; `T` are a device's buffers.
pub(crate) enum Beside<T> {
    /// Its inputs of the same products.
    Inputs(T),
    /// Where products are added to hidden states, the sums.
    Results(Results<T>),
}

/// Rows of hidden states behind a product.
pub(crate) struct Results<T> {
    /// The full model's.
    pub(crate) full: T,
    /// The quantized model's, with the matrix as it was.
    pub(crate) quantized: T,
    /// What the product's rows are multiplied with before they are added: the weights of all
    /// of a token's experts together. Nothing where they are added as they are.
    pub(crate) weights: Vec<f32>,
}

impl<T: Shaped> Results<T> {
    /// Those of some tokens, given by the numbers of their rows.
    pub(crate) fn of<B: Backend<Buffer = T>>(
        &self,
        backend: &B,
        tokens: &[usize],
    ) -> Result<Self, Error> {
        let weights = &self.weights;
        Ok(Self {
            full: backend.gather(&self.full, tokens)?,
            quantized: backend.gather(&self.quantized, tokens)?,
            weights: tokens.iter().filter_map(|token| weights.get(*token)).copied().collect(),
        })
    }

    /// Both models' rows multiplied with their weights, for a regression in which a token
    /// counts the more the more of the product it gets.
    fn weighed<B: Backend<Buffer = T>>(&self, backend: &B) -> Result<[T; 2], Error> {
        let tokens = (0..self.weights.len()).collect();
        let load = ExpertLoad { tokens, weights: self.weights.clone() };
        let weighed = |rows: &T| {
            let mut weighed = backend.zeros(rows.rows(), rows.columns())?;
            backend.scatter_add(&mut weighed, &load, rows)?;
            Ok(weighed)
        };
        Ok([weighed(&self.full)?, weighed(&self.quantized)?])
    }

    /// The sum of the weights' squares.
    fn squares(&self) -> f64 {
        self.weights.iter().map(|weight| f64::from(*weight).powi(2)).sum()
    }
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

    /// What the names of the sums end in, in a statistics file.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Inputs => INPUT_CROSS,
            Self::Results(_) => RESULT_CROSS,
        }
    }
}

/// Which sums of what is lacking are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WantedLacking {
    pub(crate) kind: LackingKind,
    /// Over two halves of the text, each for itself.
    pub(crate) in_halves: bool,
}

impl WantedLacking {
    /// Bytes of the sums, for matrices of so many columns.
    pub(crate) fn bytes(self, columns: usize) -> u64 {
        cross_bytes(self.kind.rows(columns), columns, self.in_halves)
    }
}

/// Sums of what the quantized model lacks beside the full one.
pub(crate) struct Lacking<T> {
    wanted: WantedLacking,
    columns: usize,
    sums: CrossGram<T>,
    /// The sum of the squares of the results' weights, where they have any.
    squares: Option<f64>,
}

impl<T: Shaped> Lacking<T> {
    /// Of no token.
    pub(super) fn new<B: Backend<Buffer = T>>(
        backend: &B,
        wanted: WantedLacking,
        columns: usize,
    ) -> Result<Self, Error> {
        let rows = wanted.kind.rows(columns);
        let sums = CrossGram::new(backend, rows, columns, wanted.in_halves)?;
        Ok(Self { wanted, columns, sums, squares: None })
    }

    pub(crate) fn kind(&self) -> LackingKind {
        self.wanted.kind
    }

    pub(super) fn bytes(&self) -> u64 {
        self.wanted.bytes(self.columns)
    }

    pub(super) fn tokens(&self) -> u64 {
        self.sums.tokens()
    }

    pub(super) fn add<B: Backend<Buffer = T>>(
        &mut self,
        backend: &B,
        rows: &T,
        beside: &Beside<T>,
    ) -> Result<(), Error> {
        match (self.wanted.kind, beside) {
            (LackingKind::Inputs, Beside::Inputs(full)) => self.sums.add(backend, full, rows, rows),
            (LackingKind::Results(_), Beside::Results(results)) if results.weights.is_empty() => {
                self.sums.add(backend, &results.full, &results.quantized, rows)
            }
            (LackingKind::Results(_), Beside::Results(results)) => {
                *self.squares.get_or_insert_default() += results.squares();
                let [full, quantized] = results.weighed(backend)?;
                self.sums.add(backend, &full, &quantized, rows)
            }
            _ => unreachable!("a group is shown in one way"),
        }
    }

    /// The mean over the tokens; nothing if there is no difference: before anything was
    /// quantized both models see the same.
    pub(crate) fn finish<B: Backend<Buffer = T>>(
        self,
        backend: &B,
    ) -> Result<Option<CrossMean>, Error> {
        let tokens = self.sums.tokens();
        let mean = self.squares.map_or(1.0, |sum| sum / tokens.max(1) as f64);
        let mut means = self.sums.finish(backend)?;
        if mean <= 0.0 || means.mean.iter().all(|entry| *entry == 0.0) {
            return Ok(None);
        }
        let of_part = means.part.iter_mut().flat_map(|(part, _)| part);
        for entry in means.mean.iter_mut().chain(of_part) {
            *entry = (f64::from(*entry) / mean) as f32;
        }
        Ok(Some(means))
    }
}
