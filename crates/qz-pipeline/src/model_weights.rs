//! A model as weights to compute with.

use std::collections::HashMap;
use std::ops::Range;

use qz_kernels::backend::{Backend, InputRounding};
use qz_kernels::codec_for;
use qz_models::forward::{Forward, ForwardOptions, StoredTensor, WeightSource};
use qz_tensor::{DataType, Location};

use crate::error::Error;
use crate::event::{Event, Observer};
use crate::model::{Model, ModelTensor, to_usize};
use crate::rounded_inputs::TensorInputs;

/// The tensors of a model, by name.
pub struct ModelWeights<'a> {
    model: &'a Model,
    tensors: HashMap<&'a str, &'a ModelTensor>,
    /// Tensors that are seen as they come back from another type.
    rounded: HashMap<String, DataType>,
    /// What becomes of the inputs of matrices.
    inputs: TensorInputs,
}

impl<'a> ModelWeights<'a> {
    /// The tensors of `model`.
    pub fn new(model: &'a Model) -> Self {
        let tensors = model.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor));
        let tensors = tensors.collect();
        Self { model, tensors, rounded: HashMap::new(), inputs: HashMap::new() }
    }

    /// The same with a tensor as a conversion to a type that has an encoder makes it.
    pub(crate) fn with_rounded(mut self, name: &str, to: DataType) -> Self {
        self.rounded.insert(name.to_owned(), to);
        self
    }

    /// The same with what becomes of the inputs of matrices.
    pub(crate) fn with_inputs(self, inputs: TensorInputs) -> Self {
        Self { inputs, ..self }
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
        if self.is_of_unknown_class {
            return Err(Error::NoKnownClass(self.path.clone()));
        }
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
        let data_type = self.rounded.get(name).copied().unwrap_or(tensor.source_type);
        Some(StoredTensor { data_type, shape: tensor.shape.clone() })
    }

    fn read(&self, name: &str, rows: Range<u64>, out: &mut [u8]) -> Result<(), Error> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(()) };
        let (grid_rows, _) = tensor.grid();
        // The elements of a vector are rows of the grid, but one row here.
        let per_row = grid_rows / tensor.shape.rows().max(1);
        let rows = rows.start * per_row..rows.end * per_row;
        let Some(to) = self.rounded.get(name) else {
            return self.model.read_ordered_rows(tensor, rows, out);
        };
        let (count, columns) = (to_usize(rows.end - rows.start), to_usize(tensor.grid().1));
        let mut bytes = vec![0; count * tensor.row_bytes(tensor.source_type)];
        self.model.read_ordered_rows(tensor, rows, &mut bytes)?;
        let codecs = codec_for(tensor.source_type).zip(codec_for(*to));
        let (decoder, encoder) = codecs.ok_or_else(|| self.model.no_decoder(tensor))?;
        let mut numbers = vec![0.0; count * columns];
        decoder.decode(&bytes, &mut numbers);
        encoder.encode(&numbers, columns, None, out);
        Ok(())
    }

    fn inputs(&self, name: &str, matrix: usize) -> Option<InputRounding> {
        *self.inputs.get(name)?.get(matrix)?
    }

    fn location(&self, name: &str) -> Location {
        match self.tensors.get(name) {
            Some(tensor) => self.model.location(tensor, 0),
            None => Location::file(&self.model.path).tensor(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::convert::{ConvertOptions, Output};
    use crate::event::Silent;
    use crate::model::OpenOptions;
    use crate::planning::PlanOptions;
    use crate::stream::Cancel;

    #[test]
    fn rounded_rows_are_those_of_a_conversion() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama-spm");
        let model = Model::open(&source, &OpenOptions::default()).expect("a model");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.gguf");
        let outputs = [Output { target: "q4_0".parse().expect("a target"), path: path.clone() }];
        let options =
            ConvertOptions { threads: 1, output: Default::default(), plan: PlanOptions::default() };
        crate::convert::convert(&model, &outputs, &options, &Cancel::default(), &mut Silent)
            .expect("converted");
        let written = Model::open(&path, &OpenOptions::default()).expect("a model");
        let (name, rows) = ("token_embd.weight", 3..7);
        let read = |weights: &ModelWeights<'_>| {
            let stored = weights.find(name).expect("an embedding");
            let columns = stored.shape.columns();
            let bytes = stored.data_type.byte_size(4 * columns).expect("whole blocks");
            let mut bytes = vec![0; to_usize(bytes)];
            weights.read(name, rows.clone(), &mut bytes).expect("read");
            (stored, bytes)
        };
        let (stored, expected) = read(&ModelWeights::new(&written));
        assert!(stored.data_type.is_block());
        let rounded = ModelWeights::new(&model).with_rounded(name, stored.data_type);
        assert_eq!(read(&rounded), (stored, expected));
    }
}
