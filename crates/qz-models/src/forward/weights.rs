//! From named tensors to weights on a backend.

use std::ops::Range;
use std::sync::Arc;

use qz_kernels::backend::{Backend, InputRounding, reference};
use qz_tensor::{DataType, Location, Shape};

use super::output::Norm;
use crate::error::Error;
use crate::rules::{LayerIndex, Part, Presence, Role};

use crate::architecture::Architecture;
use crate::graph::{ModelGraph, NormKind, Otherwise, Rotary, Vector};

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
    type Error: From<Error> + From<qz_kernels::backend::Error>;

    /// The tensor of this name, if there is one.
    fn find(&self, name: &str) -> Option<StoredTensor>;

    /// Fills `out` with the bytes of rows, counted over all outer dimensions.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read(&self, name: &str, rows: Range<u64>, out: &mut [u8]) -> Result<(), Self::Error>;

    /// What becomes of a matrix' inputs before they are multiplied: of one of those stacked in a
    /// tensor, by its number.
    fn inputs(&self, _name: &str, _matrix: usize) -> Option<InputRounding> {
        None
    }

    /// Where the tensor is, for messages.
    fn location(&self, name: &str) -> Location;
}

/// A product with weights, and the bias that is added.
pub(super) struct Linear<B: Backend> {
    pub(super) name: Arc<str>,
    pub(super) matrix: B::Matrix,
    pub(super) bias: Option<B::Buffer>,
    /// What becomes of its inputs.
    pub(super) inputs: Option<InputRounding>,
}

/// Puts a model's tensors on a backend.
pub(super) struct Loader<'a, B: Backend, W: WeightSource> {
    pub(super) backend: &'a B,
    pub(super) source: &'a W,
    pub(super) architecture: &'static dyn Architecture,
    pub(super) graph: &'a ModelGraph,
}

impl<B: Backend, W: WeightSource> Loader<'_, B, W> {
    /// The GGUF name of a tensor of this architecture: the one that the source has, where
    /// layers of several kinds have tensors of the same role.
    fn name(&self, role: Role, part: Part, layer: Option<LayerIndex>) -> Option<String> {
        let rules = self.architecture.tensor_rules().iter();
        let mut names = rules
            .filter(|rule| rule.role == role && rule.part == part)
            .map(|rule| rule.gguf.name(layer));
        let first = names.next()?;
        if self.source.find(&first).is_some() {
            return Some(first);
        }
        Some(names.find(|name| self.source.find(name).is_some()).unwrap_or(first))
    }

    /// True if the source has a layer's tensor of a role.
    pub(super) fn has(&self, role: Role, layer: LayerIndex) -> bool {
        let name = self.name(role, Part::Weight, Some(layer));
        name.is_some_and(|name| self.source.find(&name).is_some())
    }

    /// A weight with the name it must have.
    pub(super) fn required(
        &self,
        role: Role,
        layer: Option<LayerIndex>,
    ) -> Result<(String, StoredTensor), W::Error> {
        self.required_part(role, Part::Weight, layer)
    }

    fn required_part(
        &self,
        role: Role,
        part: Part,
        layer: Option<LayerIndex>,
    ) -> Result<(String, StoredTensor), W::Error> {
        let name = self.name(role, part, layer).unwrap_or_else(|| format!("{role:?}"));
        match self.source.find(&name) {
            Some(tensor) => Ok((name, tensor)),
            None => Err(Error::MissingWeight { location: self.source.location(&name) }.into()),
        }
    }

    /// Checks dimensions; outer ones of one element may be missing, as GGUF files have it.
    pub(super) fn expect(
        &self,
        name: &str,
        found: &Shape,
        expected: &[usize],
    ) -> Result<(), Error> {
        let found_sizes = found.dimensions().iter().copied().skip_while(|size| *size == 1);
        let sizes = expected.iter().map(|size| *size as u64).skip_while(|size| *size == 1);
        if found_sizes.eq(sizes) {
            return Ok(());
        }
        Err(Error::WeightShape {
            location: self.source.location(name),
            shapes: Box::new((found.clone(), expected.to_vec())),
        })
    }

    /// The same of a vector, which some files store with dimensions of one element, or by
    /// parts.
    fn expect_elements(&self, name: &str, found: &Shape, expected: usize) -> Result<(), Error> {
        if found.elements() == expected as u64 {
            return Ok(());
        }
        self.expect(name, found, &[expected])
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
        Error::Backend { location: self.source.location(name), source: source.into() }
    }

    /// A vector that must be there.
    pub(super) fn vector(
        &self,
        role: Role,
        part: Part,
        layer: Option<LayerIndex>,
        length: usize,
    ) -> Result<B::Buffer, W::Error> {
        let (name, tensor) = self.required_part(role, part, layer)?;
        self.expect_elements(&name, &tensor.shape, length)?;
        Ok(self.backend.buffer(length, &self.numbers(&name, &tensor)?)?)
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
        self.expect_elements(&name, &tensor.shape, length)?;
        Ok(Some(self.backend.buffer(length, &self.numbers(&name, &tensor)?)?))
    }

    /// True if every model of the family has such a tensor.
    fn is_always_there(&self, role: Role, part: Part) -> bool {
        let mut rules = self.architecture.tensor_rules().iter();
        let of = rules.find(|rule| rule.role == role && rule.part == part);
        of.is_some_and(|rule| rule.presence == Presence::Required && rule.condition.is_none())
    }

    /// Refuses a tensor with which a layer would compute something else.
    pub(super) fn refuse(&self, role: Role, layer: LayerIndex) -> Result<(), Error> {
        let name = self.name(role, Part::Weight, Some(layer));
        match name.filter(|name| self.source.find(name).is_some()) {
            Some(name) => Err(Error::Hyperparameter {
                location: self.source.location(&name),
                problem: "is there, but the model computes without it".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// A vector of a layer, if the model has it.
    pub(super) fn layer_vector(
        &self,
        vector: &Vector,
        layer: LayerIndex,
    ) -> Result<Option<B::Buffer>, W::Error> {
        let Vector { role, part, length, is_optional, otherwise } = *vector;
        let is_there = || {
            self.name(role, part, Some(layer)).is_some_and(|name| self.source.find(&name).is_some())
        };
        let (role, layer) = match otherwise {
            Otherwise::FirstLayer if !is_there() => (role, LayerIndex(0)),
            Otherwise::Role(other) if !is_there() => (other, layer),
            _ => (role, layer),
        };
        match is_optional {
            true => self.possible_vector(role, part, Some(layer), length),
            false => self.vector(role, part, Some(layer), length).map(Some),
        }
    }

    /// A vector that some families have; of these the model must have it if all models do.
    pub(super) fn possible_vector(
        &self,
        role: Role,
        part: Part,
        layer: Option<LayerIndex>,
        length: usize,
    ) -> Result<Option<B::Buffer>, W::Error> {
        match self.is_always_there(role, part) {
            true => self.vector(role, part, layer, length).map(Some),
            false => self.optional_vector(role, part, layer, length),
        }
    }

    /// Cosines and sines of each of so many positions.
    pub(super) fn rotary(&self, rotary: &Rotary, positions: usize) -> Result<Vec<f32>, W::Error> {
        let named = rotary.factors(positions);
        let found = named.and_then(|name| Some((name, self.source.find(name)?)));
        let Some((name, tensor)) = found else { return Ok(rotary.table(positions, None)) };
        self.expect(name, &tensor.shape, &[rotary.size() / 2])?;
        let factors = self.numbers(name, &tensor)?;
        Ok(rotary.table(positions, Some(&factors)))
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
        let inputs = self.source.inputs(&name, 0);
        Ok(Linear { name: name.into(), matrix, bias, inputs })
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
        let bias = self.expert_bias(role, layer, (expert, experts), rows)?;
        let inputs = self.source.inputs(&name, expert);
        Ok(Linear { name: name.into(), matrix, bias, inputs })
    }

    /// One expert's bias of a stack, if there is one.
    fn expert_bias(
        &self,
        role: Role,
        layer: LayerIndex,
        (expert, experts): (usize, usize),
        length: usize,
    ) -> Result<Option<B::Buffer>, W::Error> {
        let Some(name) = self.name(role, Part::Bias, Some(layer)) else { return Ok(None) };
        let Some(tensor) = self.source.find(&name) else { return Ok(None) };
        self.expect(&name, &tensor.shape, &[experts, length])?;
        let bytes = self.bytes(&name, &tensor, expert as u64..expert as u64 + 1)?;
        let bias = reference::decode(tensor.data_type, &bytes);
        let bias = bias.map_err(|source| self.failed(&name, source))?;
        Ok(Some(self.backend.buffer(length, &bias)?))
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

    /// The norm behind the layers.
    pub(super) fn output_norm(&self) -> Result<Option<Norm<B>>, W::Error> {
        let Some(epsilon) = self.graph.around.epsilon else { return Ok(None) };
        let (role, width) = (Role::OutputNorm, self.graph.hidden);
        let kind = self.graph.around.norm;
        let weights = match kind {
            NormKind::Bare => self.backend.buffer(width, &vec![1.0; width])?,
            NormKind::RootMeanSquare | NormKind::Layer => {
                self.vector(role, Part::Weight, None, width)?
            }
        };
        let bias = self.optional_vector(role, Part::Bias, None, width)?;
        Ok(Some(Norm { kind, weights, bias, epsilon }))
    }

    /// Rows of an embedding beside the tokens', as numbers.
    pub(super) fn embedding_rows(
        &self,
        role: Role,
        rows: Range<u64>,
    ) -> Result<Vec<f32>, W::Error> {
        let (name, tensor) = self.required(role, None)?;
        self.expect_columns(&name, &tensor)?;
        if rows.end > tensor.shape.rows() {
            let (location, positions) = (self.source.location(&name), tensor.shape.rows());
            return Err(Error::Positions { location, wanted: rows.end, positions }.into());
        }
        let bytes = self.bytes(&name, &tensor, rows)?;
        reference::decode(tensor.data_type, &bytes)
            .map_err(|source| self.failed(&name, source).into())
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
        self.expect(name, &tensor.shape, &[rows, self.graph.hidden])
    }
}
