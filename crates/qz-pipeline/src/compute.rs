//! How models compute, and on what: the one place that chooses a backend. Jobs are written
//! for any of them ([`Computation`]).

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use qz_kernels::Workers;
use qz_kernels::backend::{Backend, CpuBackend, FewTokens, Rounding};
use qz_models::forward::ForwardOptions;
use qz_tensor::DataType;

use crate::error::Error;
use crate::model::Model;
use crate::model_weights::ModelWeights;
use crate::rounded_inputs::RoundedInputs;
use crate::stream::Cancel;

/// How forward passes compute, and within what.
#[derive(Clone, Debug)]
pub struct ComputeOptions {
    /// What becomes of activations before products.
    pub rounding: Rounding,
    /// Whether inputs of packed matrices become what their checkpoint's configuration says that
    /// engines round them to.
    pub rounds_inputs: bool,
    /// The type keys and values are kept in.
    pub cache_type: DataType,
    /// Memory for everything whose size can be chosen, in bytes.
    pub max_memory: u64,
    /// Where hidden states go that do not fit.
    pub spill_folder: PathBuf,
    /// Threads.
    pub threads: usize,
}

/// Work that computes with models, on any backend.
pub(crate) trait Computation {
    /// What comes of it.
    type Output;

    /// True if models get their tokens one by one.
    const ONE_BY_ONE: bool = false;

    /// Does the work. Statistics, methods and scoring run on `workers`.
    fn run<B: Backend>(self, backend: &B, workers: &Workers) -> Result<Self::Output, Error>;
}

impl ComputeOptions {
    /// Does a job's work on the backend of this machine, and on threads whose work ends early
    /// once the job is to stop.
    pub(crate) fn run<C: Computation>(
        &self,
        cancel: &Cancel,
        computation: C,
    ) -> Result<C::Output, Error> {
        let workers = Workers::stopped_by(self.threads, cancel)?;
        #[cfg(test)]
        if let Some(backend) = tests::chosen() {
            return computation.run(&*backend, &workers);
        }
        let few = if C::ONE_BY_ONE { FewTokens::Own } else { FewTokens::AsMany };
        computation.run(&CpuBackend::new(&workers).with_few_tokens(few), &workers)
    }

    /// The same in f32, without any rounding of what products see.
    pub fn exact(self) -> Self {
        Self { rounding: Rounding::Exact, rounds_inputs: false, cache_type: DataType::F32, ..self }
    }

    /// A model's weights, with inputs as they are wanted.
    ///
    /// # Errors
    /// If its configuration asks for something that is not computed here.
    pub(crate) fn weights<'m>(&self, model: &'m Model) -> Result<ModelWeights<'m>, Error> {
        let weights = ModelWeights::new(model);
        match self.rounds_inputs {
            true => Ok(weights.with_inputs(model.stored_inputs()?)),
            false => Ok(weights),
        }
    }

    /// What is said of inputs that are rounded, of some models.
    pub(crate) fn rounded_inputs<'m>(
        &self,
        models: impl IntoIterator<Item = &'m Model>,
    ) -> Vec<RoundedInputs> {
        match self.rounds_inputs {
            true => models.into_iter().flat_map(Model::rounded_inputs).collect(),
            false => Vec::new(),
        }
    }

    /// What one of so many models may use.
    pub(crate) fn share(&self, models: usize) -> ForwardOptions {
        ForwardOptions {
            rounding: self.rounding,
            cache_type: self.cache_type,
            max_memory: self.max_memory / models.max(1) as u64,
            spill_folder: self.spill_folder.clone(),
        }
    }
}
