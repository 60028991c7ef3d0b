//! The output matrix with its norm: from the last layer's hidden states to logits.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use qz_kernels::backend::{Backend, reference};
use qz_tensor::Location;

use super::checks::Checks;
use super::run::Forward;
use super::weights::{StoredTensor, WeightSource};
use crate::error::Error;
use crate::graph::NormKind;
use crate::rules::{Part, Role};

/// Bytes of the output matrix that are multiplied at a time.
const TILE_BYTES: u64 = 64 << 20;

/// The norm behind the layers.
pub(super) struct Norm<B: Backend> {
    pub(super) kind: NormKind,
    pub(super) weights: B::Buffer,
    pub(super) bias: Option<B::Buffer>,
    pub(super) epsilon: f32,
}

impl<B: Backend> Norm<B> {
    pub(super) fn apply(&self, backend: &B, hidden: &B::Buffer) -> Result<B::Buffer, Error> {
        let Self { kind, weights, bias, epsilon } = self;
        Ok(match kind {
            NormKind::RootMeanSquare => backend.rms_norm(hidden, weights, 1, *epsilon)?,
            NormKind::Layer | NormKind::Bare => {
                backend.layer_norm(hidden, weights, bias.as_ref(), 1, *epsilon)?
            }
        })
    }
}

/// What makes logits of hidden states.
pub(super) struct Output<B: Backend> {
    norm: Norm<B>,
    name: Arc<str>,
    tensor: StoredTensor,
    /// What is added to each token's logit, if the model has it.
    bias: Option<Vec<f32>>,
    vocabulary: usize,
    /// The matrix, in parts, if it stays in memory; it is read for each use if not.
    resident: Option<Vec<B::Matrix>>,
}

impl<B: Backend> Output<B> {
    /// The matrix stays in memory if it takes no more than `limit` bytes.
    pub(super) fn load<W: WeightSource>(
        forward: &Forward<'_, B, W>,
        limit: u64,
    ) -> Result<Self, W::Error> {
        let loader = forward.loader();
        let norm = loader.output_norm()?.filter(|_| forward.graph.around.predicts);
        let Some(norm) = norm else {
            let location = Location { tensor: None, ..forward.source.location("") };
            return Err(Error::NoLogits { location }.into());
        };
        let (name, tensor) = loader.output()?;
        let vocabulary = usize::try_from(tensor.shape.rows()).unwrap_or(usize::MAX);
        let bias = loader.optional_vector(Role::Output, Part::Bias, None, vocabulary)?;
        let numbers = |bias: &B::Buffer| forward.backend.numbers(bias).map(Cow::into_owned);
        let bias = bias.as_ref().map(numbers).transpose()?;
        let mut output = Self { norm, name: name.into(), tensor, bias, vocabulary, resident: None };
        if output.tensor.shape.byte_size(output.tensor.data_type).is_ok_and(|size| size <= limit) {
            let parts = output.parts().map(|rows| output.read(forward, rows));
            output.resident = Some(parts.collect::<Result<_, _>>()?);
        }
        Ok(output)
    }

    /// Tokens of the vocabulary: numbers in a row of logits.
    pub(super) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Makes `logits` those of rows of hidden states; `tokens` are the rows'
    /// numbers for messages.
    pub(super) fn logits<W: WeightSource>(
        &self,
        forward: &Forward<'_, B, W>,
        hidden: &B::Buffer,
        tokens: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<(), W::Error> {
        let (backend, around) = (forward.backend, &forward.graph.around);
        let normed = self.norm.apply(backend, hidden)?;
        logits.resize(tokens.len() * self.vocabulary, 0.0);
        let mut checks = Checks::default();
        for (number, columns) in self.parts().enumerate() {
            let loaded;
            let matrix = match &self.resident {
                Some(parts) => &parts[number],
                None => {
                    loaded = self.read(forward, columns.clone())?;
                    &loaded
                }
            };
            let part = backend.matmul(forward.options.rounding, &normed, matrix)?;
            checks.add(backend, &self.name, &part)?;
            let part = backend.numbers(&part)?;
            let parts = part.chunks_exact(columns.len());
            for (logits, part) in logits.chunks_exact_mut(self.vocabulary).zip(parts) {
                logits[columns.clone()].copy_from_slice(part);
            }
        }
        if let Some((name, row)) = checks.settle(backend)? {
            let location = forward.source.location(&name);
            return Err(Error::NonFiniteActivation { location, token: tokens[row] }.into());
        }
        if let Some(bias) = &self.bias {
            for logits in logits.chunks_exact_mut(self.vocabulary) {
                logits.iter_mut().zip(bias).for_each(|(logit, bias)| *logit += bias);
            }
        }
        if let Some(scale) = around.logit_scale {
            logits.iter_mut().for_each(|logit| *logit *= scale);
        }
        if let Some(cap) = around.logit_cap {
            logits.iter_mut().for_each(|logit| *logit = reference::soft_capped(*logit, cap));
        }
        Ok(())
    }

    /// The matrix's rows, in parts.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<B> {
        let row_bytes = self.tensor.shape.row_bytes(self.tensor.data_type).unwrap_or(1).max(1);
        let step = usize::try_from(TILE_BYTES / row_bytes).unwrap_or(usize::MAX).max(1);
        let all = self.vocabulary;
        (0..all).step_by(step).map(move |first| first..all.min(first + step))
    }

    fn read<W: WeightSource>(
        &self,
        forward: &Forward<'_, B, W>,
        rows: Range<usize>,
    ) -> Result<B::Matrix, W::Error> {
        let rows = rows.start as u64..rows.end as u64;
        forward.loader().rows(&self.name, &self.tensor, rows)
    }
}
