//! Numbers that checkpoints have in a tensor of each layer, and GGUF files in a list of their
//! metadata.

use qz_tensor::{Array, Metadata, Shape, TensorIndex, Value};

use crate::architecture::Architecture;
use crate::rules::{LayerIndex, NamePattern};

/// Such a number.
#[derive(Clone, Copy, Debug)]
pub struct LayerNumber {
    /// The tensor's name in the checkpoint.
    pub tensor: NamePattern,
    /// Its dimensions there: one of one element, or none.
    pub shape: &'static [u64],
    /// The key of the list, as it stands in the file.
    pub key: &'static str,
}

impl LayerNumber {
    /// The tensor's dimensions, as a shape; there are at most a few.
    pub(crate) fn shape(&self) -> Shape {
        Shape::new(self.shape).expect("few dimensions of one element")
    }
}

/// The tensors of a checkpoint that have the numbers of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNumbers {
    /// The list's key. It is there without numbers, for the caller to set.
    pub key: &'static str,
    /// Of each layer the tensor.
    pub tensors: Vec<TensorIndex>,
}

/// Those of a family that were found so far.
pub(crate) struct FoundNumbers {
    known: &'static [LayerNumber],
    /// Of each number, of each layer.
    found: Vec<Vec<Option<TensorIndex>>>,
}

impl FoundNumbers {
    pub(crate) fn new(architecture: &dyn Architecture, layers: u32) -> Self {
        let known = architecture.layer_numbers();
        Self { known, found: vec![vec![None; layers as usize]; known.len()] }
    }

    /// The number that a tensor has by its name, if it is one; it is noted then.
    pub(crate) fn take(&mut self, name: &str, index: TensorIndex) -> Option<&'static LayerNumber> {
        self.known.iter().zip(&mut self.found).find_map(|(number, found)| {
            let layer = number.tensor.matches(name)?.layer?;
            *found.get_mut(layer.0 as usize)? = Some(index);
            Some(number)
        })
    }

    /// The tensors that are not there.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (String, Shape)> {
        let numbers = self.known.iter().zip(&self.found);
        numbers.flat_map(|(number, found)| {
            let layers = (0..).zip(found).filter(|(_, tensor)| tensor.is_none());
            layers.map(|(layer, _)| (number.tensor.name(Some(LayerIndex(layer))), number.shape()))
        })
    }

    pub(crate) fn finish(self) -> Vec<StoredNumbers> {
        let numbers = self.known.iter().zip(self.found);
        let stored = |(number, found): (&LayerNumber, Vec<Option<TensorIndex>>)| StoredNumbers {
            key: number.key,
            tensors: found.into_iter().flatten().collect(),
        };
        numbers.map(stored).collect()
    }
}

/// A tensor of the checkpoint that a GGUF file has the number of.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoredNumber {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Shape,
    /// Its layer.
    pub layer: LayerIndex,
    /// Its only element.
    pub value: f32,
}

/// All of them, as far as the file's lists go.
pub fn restored_numbers(
    architecture: &dyn Architecture,
    metadata: &Metadata,
) -> Vec<RestoredNumber> {
    let of_list = |number: &LayerNumber| {
        let list = list_of(metadata, number.key).unwrap_or_default();
        let restored = |(layer, value): (u32, &f32)| RestoredNumber {
            name: number.tensor.name(Some(LayerIndex(layer))),
            shape: number.shape(),
            layer: LayerIndex(layer),
            value: *value,
        };
        (0..).zip(list).map(restored).collect::<Vec<_>>()
    };
    architecture.layer_numbers().iter().flat_map(of_list).collect()
}

/// The numbers of a list, if there is one.
pub(crate) fn list_of<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a [f32]> {
    match metadata.get(key)? {
        Value::Array(Array::F32(numbers)) => Some(numbers),
        _ => None,
    }
}
