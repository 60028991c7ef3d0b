//! From named tensors to weights on a backend.

use std::ops::Range;

use qz_kernels::backend::{Backend, reference};
use qz_tensor::{DataType, Location, Shape};

use crate::error::Error;
use crate::rules::{LayerIndex, Part, Role};

use super::shape::DecoderShape;

/// A tensor of a [`WeightSource`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// How its weights are stored.
    pub data_type: DataType,
    /// Its dimensions, outermost first.
    pub shape: Shape,
}

/// Where the weights of a model come from: tensors by their GGUF names, with rows in
/// GGUF's order.
pub trait WeightSource {
    /// What reading fails with.
    type Error: From<Error>;

    /// The tensor of this name, if there is one.
    fn find(&self, name: &str) -> Option<StoredTensor>;

    /// Fills `out` with the bytes of rows, counted over all outer dimensions.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read(&self, name: &str, rows: Range<u64>, out: &mut [u8]) -> Result<(), Self::Error>;

    /// Where the tensor is, for messages.
    fn location(&self, name: &str) -> Location;
}

/// A product with weights, and the bias that is added.
pub(super) struct Linear<B: Backend> {
    pub(super) name: String,
    pub(super) matrix: B::Matrix,
    pub(super) bias: Option<B::Buffer>,
}

/// Puts a model's tensors on a backend.
pub(super) struct Loader<'a, B: Backend, W: WeightSource> {
    pub(super) backend: &'a B,
    pub(super) source: &'a W,
    pub(super) shape: &'a DecoderShape,
}

impl<B: Backend, W: WeightSource> Loader<'_, B, W> {
    /// The GGUF name of a tensor of this architecture.
    fn name(&self, role: Role, part: Part, layer: Option<LayerIndex>) -> Option<String> {
        let rules = self.shape.architecture.tensor_rules();
        let rule = rules.iter().find(|rule| rule.role == role && rule.part == part)?;
        Some(rule.gguf.name(layer))
    }

    /// A tensor with the name it must have.
    pub(super) fn required(
        &self,
        role: Role,
        layer: Option<LayerIndex>,
    ) -> Result<(String, StoredTensor), W::Error> {
        let name = self.name(role, Part::Weight, layer).unwrap_or_else(|| format!("{role:?}"));
        match self.source.find(&name) {
            Some(tensor) => Ok((name, tensor)),
            None => Err(Error::MissingWeight { location: self.source.location(&name) }.into()),
        }
    }

    fn expect(&self, name: &str, found: &Shape, expected: &[usize]) -> Result<(), Error> {
        let same = found.dimensions().iter().copied().eq(expected.iter().map(|n| *n as u64));
        if same {
            return Ok(());
        }
        Err(Error::WeightShape {
            location: self.source.location(name),
            shapes: Box::new((found.clone(), expected.to_vec())),
        })
    }

    /// The bytes of rows of a tensor.
    pub(super) fn bytes(
        &self,
        name: &str,
        tensor: &StoredTensor,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, W::Error> {
        let row_bytes = tensor.shape.row_bytes(tensor.data_type).unwrap_or(0);
        let size = usize::try_from((rows.end - rows.start) * row_bytes).unwrap_or(usize::MAX);
        let mut bytes = vec![0; size];
        self.source.read(name, rows, &mut bytes)?;
        Ok(bytes)
    }

    fn numbers(&self, name: &str, tensor: &StoredTensor) -> Result<Vec<f32>, W::Error> {
        let bytes = self.bytes(name, tensor, 0..tensor.shape.rows())?;
        reference::decode(tensor.data_type, &bytes)
            .map_err(|source| self.failed(name, source).into())
    }

    /// Turns a backend's refusal into an error about a tensor.
    pub(super) fn failed(&self, name: &str, source: qz_kernels::backend::Error) -> Error {
        Error::Backend { location: self.source.location(name), source }
    }

    /// A vector that must be there.
    pub(super) fn vector(
        &self,
        role: Role,
        layer: Option<LayerIndex>,
        length: usize,
    ) -> Result<B::Buffer, W::Error> {
        let (name, tensor) = self.required(role, layer)?;
        self.expect(&name, &tensor.shape, &[length])?;
        Ok(self.backend.buffer(&self.numbers(&name, &tensor)?))
    }

    /// A vector that may be there.
    pub(super) fn optional_vector(
        &self,
        role: Role,
        part: Part,
        layer: Option<LayerIndex>,
        length: usize,
    ) -> Result<Option<B::Buffer>, W::Error> {
        let Some(name) = self.name(role, part, layer) else { return Ok(None) };
        let Some(tensor) = self.source.find(&name) else { return Ok(None) };
        self.expect(&name, &tensor.shape, &[length])?;
        Ok(Some(self.backend.buffer(&self.numbers(&name, &tensor)?)))
    }

    /// The divisors of the rotary frequencies, if the model has some.
    pub(super) fn rope_factors(&self) -> Result<Option<Vec<f32>>, W::Error> {
        const NAME: &str = "rope_freqs.weight";
        let Some(tensor) = self.source.find(NAME) else { return Ok(None) };
        self.expect(NAME, &tensor.shape, &[self.shape.head_size / 2])?;
        Ok(Some(self.numbers(NAME, &tensor)?))
    }

    /// A matrix and its bias.
    pub(super) fn linear(
        &self,
        role: Role,
        layer: LayerIndex,
        (rows, columns): (usize, usize),
    ) -> Result<Linear<B>, W::Error> {
        let (name, tensor) = self.required(role, Some(layer))?;
        self.expect(&name, &tensor.shape, &[rows, columns])?;
        let matrix = self.rows(&name, &tensor, 0..rows as u64)?;
        let bias = self.optional_vector(role, Part::Bias, Some(layer), rows)?;
        Ok(Linear { name, matrix, bias })
    }

    /// One expert's matrix of a stack.
    pub(super) fn expert(
        &self,
        role: Role,
        layer: LayerIndex,
        (expert, experts): (usize, usize),
        (rows, columns): (usize, usize),
    ) -> Result<Linear<B>, W::Error> {
        let (name, tensor) = self.required(role, Some(layer))?;
        self.expect(&name, &tensor.shape, &[experts, rows, columns])?;
        let first = (expert * rows) as u64;
        let matrix = self.rows(&name, &tensor, first..first + rows as u64)?;
        Ok(Linear { name, matrix, bias: None })
    }

    /// Rows of a tensor as a matrix.
    pub(super) fn rows(
        &self,
        name: &str,
        tensor: &StoredTensor,
        rows: Range<u64>,
    ) -> Result<B::Matrix, W::Error> {
        let bytes = self.bytes(name, tensor, rows.clone())?;
        let rows = usize::try_from(rows.end - rows.start).unwrap_or(usize::MAX);
        let columns = usize::try_from(tensor.shape.columns()).unwrap_or(usize::MAX);
        let matrix = self.backend.matrix(tensor.data_type, rows, columns, bytes);
        matrix.map_err(|source| self.failed(name, source).into())
    }

    /// The token embedding.
    pub(super) fn embedding(&self) -> Result<(String, StoredTensor), W::Error> {
        let (name, tensor) = self.required(Role::TokenEmbedding, None)?;
        self.expect_columns(&name, &tensor)?;
        Ok((name, tensor))
    }

    /// The output matrix: the token embedding where there is none of its own.
    pub(super) fn output(&self) -> Result<(String, StoredTensor), W::Error> {
        let own = self.name(Role::Output, Part::Weight, None);
        let found = own.and_then(|name| self.source.find(&name).map(|tensor| (name, tensor)));
        let Some((name, tensor)) = found else { return self.embedding() };
        self.expect_columns(&name, &tensor)?;
        Ok((name, tensor))
    }

    fn expect_columns(&self, name: &str, tensor: &StoredTensor) -> Result<(), Error> {
        let rows = usize::try_from(tensor.shape.rows()).unwrap_or(usize::MAX);
        self.expect(name, &tensor.shape, &[rows, self.shape.hidden])
    }
}
