//! What a checkpoint says of the inputs of its matrices, and the number that it may have for
//! them.

use std::borrow::Cow;

use qz_codec::activations::{Activations, InputRounding};

use crate::error::Error;
use crate::layout::{Part, Unfit};
use crate::layouts::numbers::ScaleType;
use crate::method::OpenRequest;

/// What an engine rounds a stored matrix' inputs to.
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs {
    /// This, which may be nothing.
    Known(InputRounding),
    /// Something that is not known here: what says so.
    Unknown(Box<str>),
}

impl Default for Inputs {
    fn default() -> Self {
        Self::Known(Activations::Full.with(1.0))
    }
}

/// What is known of a module's inputs that are rounded so, with its number where they need one.
///
/// # Errors
/// If that cannot be read.
pub(crate) fn of_module(
    request: &OpenRequest<'_>,
    module: &str,
    activations: Activations,
    number: (&'static str, bool),
) -> Result<Inputs, Error> {
    if !activations.is_stored() {
        return Ok(Inputs::Known(activations.with(1.0)));
    }
    let (suffix, is_reciprocal) = number;
    let unknown = |what: &str| Inputs::Unknown(format!("{module}.{suffix}: {what}").into());
    let Some(tensor) = request.tensor(module, suffix) else { return Ok(unknown("is not there")) };
    let dimensions = request.dimensions(tensor);
    let scale = ScaleType::of(request.data_type(tensor));
    let Some(scale) = scale.filter(|_| dimensions.iter().all(|size| *size == 1)) else {
        return Ok(unknown("is not one number"));
    };
    let mut stored = [0.0];
    scale.read(&request.bytes(tensor)?, &mut stored);
    let [stored] = stored;
    if !(stored > 0.0 && stored.is_finite()) {
        return Ok(unknown(&format!("is {stored}")));
    }
    let stored = if is_reciprocal { 1.0 / stored } else { stored };
    Ok(Inputs::Known(activations.with(stored)))
}

/// Where a checkpoint has a matrix' number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputPart {
    /// What follows the module's name and a dot.
    pub suffix: &'static str,
    /// Its element type.
    pub scale: ScaleType,
    /// Its dimensions are so many ones.
    pub rank: usize,
    /// Whether one over the number is stored.
    pub is_reciprocal: bool,
}

impl InputPart {
    /// The tensor.
    ///
    /// # Errors
    /// Never: one number can be counted.
    pub fn part(&self) -> Result<Part, Unfit> {
        let dimensions = vec![1; self.rank];
        Part::new(Cow::Borrowed(self.suffix), self.scale.data_type(), &dimensions)
    }

    /// The number as it is read again.
    pub fn rounded(&self, stored: f32) -> f32 {
        match self.is_reciprocal {
            true => 1.0 / self.scale.rounded(1.0 / stored),
            false => self.scale.rounded(stored),
        }
    }

    /// The tensor's bytes.
    pub fn bytes(&self, stored: f32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let number = if self.is_reciprocal { 1.0 / stored } else { stored };
        self.scale.write(&[number], &mut bytes);
        bytes
    }
}
