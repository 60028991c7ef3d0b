//! What is known of the inputs of a layer.

use qz_linalg::{CrossMean, Symmetric};

use crate::gptq::Shared;

/// Statistics of the vectors that a matrix is multiplied with. All are of as many columns
/// as the matrix has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics<'a> {
    /// `E[x xᵀ]`.
    pub gram: Option<&'a Symmetric>,
    /// `E[x²]` of each column; the Gram matrix' diagonal where this is not given.
    pub importance: Option<&'a [f32]>,
    /// `E[(x̃ − x) xᵀ]`, row by row: x̃ is the full model's input where x is the quantized
    /// one's.
    pub cross: Option<&'a CrossMean>,
    /// `E[(ỹ − y) xᵀ]`, a row for each row of the matrix, in place of `cross`: ỹ is the full
    /// model's result, y what the quantized model gets with the matrix as it was. A result may
    /// be the sum of the product and of what it is added to.
    pub missing: Option<&'a CrossMean>,
    /// Some of the inputs, to see whether error feedback pays on inputs that it was not made of.
    pub held_out: Option<HeldOut<'a>>,
    /// Where what is computed of these statistics is kept for the next matrix with the same.
    pub shared: Option<&'a Shared>,
}

/// Some of the inputs that a Gram matrix is of.
#[derive(Clone, Copy, Debug)]
pub struct HeldOut<'a> {
    /// The inputs, one after the other.
    pub inputs: &'a [f32],
    /// As how many tokens all inputs count.
    pub tokens: u64,
    /// Where what is computed without these inputs is kept for the next matrix.
    pub shared: &'a Shared,
}

impl Statistics<'_> {
    /// The importance of each column, if it is known and can be used.
    pub(crate) fn importance(&self) -> Option<Vec<f32>> {
        let given = self.importance.map(<[f32]>::to_vec);
        let importance = given.or_else(|| self.gram.map(Symmetric::diagonal))?;
        let usable = importance.iter().all(|value| value.is_finite() && *value >= 0.0)
            && importance.iter().any(|value| *value > 0.0);
        usable.then_some(importance)
    }

    /// The columns of what is given, if any.
    pub(crate) fn columns(&self) -> impl Iterator<Item = usize> {
        let cross = self.cross.map(|cross| cross.mean.len().isqrt());
        [self.gram.map(Symmetric::size), self.importance.map(<[f32]>::len), cross]
            .into_iter()
            .flatten()
    }
}
