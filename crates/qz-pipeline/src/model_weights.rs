//! A model as weights to compute with.

use std::collections::HashMap;
use std::ops::Range;

use qz_kernels::backend::Backend;
use qz_models::forward::{Forward, ForwardOptions, StoredTensor, WeightSource};
use qz_tensor::Location;

use crate::error::Error;
use crate::event::{Event, Observer};
use crate::model::{Model, ModelTensor, to_usize};

/// The tensors of a model, by name.
pub struct ModelWeights<'a> {
    model: &'a Model,
    tensors: HashMap<&'a str, &'a ModelTensor>,
}

impl<'a> ModelWeights<'a> {
    /// The tensors of `model`.
    pub fn new(model: &'a Model) -> Self {
        let tensors = model.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor));
        Self { model, tensors: tensors.collect() }
    }
}

impl Model {
    /// The model's forward pass, with `weights` its own.
    pub(crate) fn forward<'a, 'm, B: Backend>(
        &self,
        backend: &'a B,
        weights: &'a ModelWeights<'m>,
        options: ForwardOptions,
    ) -> Result<Forward<'a, B, ModelWeights<'m>>, Error> {
        Forward::new(backend, weights, &self.metadata, self.sliding_window, options)
    }

    /// How many tokens it was made to see, if its metadata says so.
    pub(crate) fn context_length(&self) -> Option<usize> {
        let architecture = self.metadata.string("general.architecture")?;
        let length = self.metadata.unsigned(&format!("{architecture}.context_length"))?;
        Some(to_usize(length))
    }

    /// Warns of a context that the model was not trained on.
    pub(crate) fn check_context(&self, context: usize, observer: &mut dyn Observer) {
        let Some(trained) = self.context_length().filter(|trained| *trained < context) else {
            return;
        };
        let unscaled = match self.lost_scaling {
            Some(kind) => format!(
                ": its rotary scaling of the kind {kind:?} is not computed, so logits differ from \
                 transformers'"
            ),
            None => String::new(),
        };
        observer.observe(Event::Warning(&format!(
            "{}: the model was trained on a context of {trained} tokens, not of {context}; figures beyond are no measure of it{unscaled}",
            self.path.display()
        )));
    }
}

impl WeightSource for ModelWeights<'_> {
    type Error = Error;

    fn find(&self, name: &str) -> Option<StoredTensor> {
        let tensor = self.tensors.get(name)?;
        Some(StoredTensor { data_type: tensor.source_type, shape: tensor.shape.clone() })
    }

    fn read(&self, name: &str, rows: Range<u64>, out: &mut [u8]) -> Result<(), Error> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(()) };
        let (grid_rows, _) = tensor.grid();
        // The elements of a vector are rows of the grid, but one row here.
        let per_row = grid_rows / tensor.shape.rows().max(1);
        let rows = rows.start * per_row..rows.end * per_row;
        self.model.read_ordered_rows(tensor, rows, out)
    }

    fn location(&self, name: &str) -> Location {
        match self.tensors.get(name) {
            Some(tensor) => self.model.location(tensor, 0),
            None => Location::file(&self.model.path).tensor(name),
        }
    }
}
