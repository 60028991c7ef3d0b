//! A source of packed tensors, seen as one of plain matrices.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use qz_tensor::{
    DataType, FileError, Location, Metadata, SourceFile, TensorIndex, TensorInfo, TensorSource,
};
use serde_json::{Map, Value};

use crate::error::{Error, Fault};
use crate::method::{METHODS, OpenRequest, PackedTensor, StoredParts};

/// Packed matrices under their plain names (`….weight`), decoded where they are read;
/// all other tensors as they are.
pub struct PackedSource {
    stored: Box<dyn TensorSource>,
    tensors: Vec<TensorInfo>,
    /// Of each tensor.
    origins: Vec<Origin>,
    method: &'static str,
    /// Matrices that are read with rounded offsets, and the most steps that moves a
    /// value.
    rounded: (usize, f64),
}

/// How packed matrices without an exact block type are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repack {
    /// Decoded, as f32.
    #[default]
    Exact,
    /// As blocks of the nearest type with the same codes.
    Nearest,
}

enum Origin {
    Stored(TensorIndex),
    Packed(Box<PackedTensor>),
}

impl PackedSource {
    /// Finds the packed matrices of a checkpoint, as its `quantization_config` says.
    ///
    /// # Errors
    /// If the method is not known, or a part is missing or not as it should be.
    pub fn open(
        stored: Box<dyn TensorSource>,
        config: &Map<String, Value>,
        config_path: &Path,
    ) -> Result<Self, Error> {
        Self::open_as(stored, config, config_path, Repack::Exact)
    }

    /// The same, with matrices shown as `repack` says.
    ///
    /// # Errors
    /// As [`PackedSource::open`].
    pub fn open_as(
        stored: Box<dyn TensorSource>,
        config: &Map<String, Value>,
        config_path: &Path,
        repack: Repack,
    ) -> Result<Self, Error> {
        let names = stored
            .tensors()
            .iter()
            .enumerate()
            .map(|(position, info)| (&*info.name, TensorIndex(position)))
            .collect();
        let request = OpenRequest { config, config_path, source: &*stored, names };
        let method = config.get("quant_method").and_then(Value::as_str).unwrap_or_default();
        let method = METHODS.iter().find(|known| known.name == method).ok_or_else(|| {
            let known = METHODS.iter().map(|method| method.name).collect();
            let location = Location::file(config_path).tensor("quantization_config.quant_method");
            let fault = Box::new(Fault::UnknownMethod { method: method.to_owned(), known });
            Error::Malformed { location, fault }
        })?;
        let packed = (method.open)(&request)?;
        let mut rounded = (0, 0.0f64);
        let (tensors, origins) = logical(&*stored, packed, repack, &mut rounded)?;
        Ok(Self { stored, tensors, origins, method: method.name, rounded })
    }

    /// `quant_method`.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// How many matrices are read with rounded offsets, and the most steps of their
    /// scales that a value moves by that.
    pub fn rounded(&self) -> (usize, f64) {
        self.rounded
    }

    /// The tensors as they are stored.
    pub fn stored(&self) -> &dyn TensorSource {
        &*self.stored
    }

    /// The packed matrix that a tensor is, if it is one.
    pub fn packed(&self, tensor: TensorIndex) -> Option<&PackedTensor> {
        match &self.origins[tensor.0] {
            Origin::Packed(packed) => Some(packed),
            Origin::Stored(_) => None,
        }
    }

    /// Those that are packed matrices, and the bytes of all their parts.
    pub fn packed_bytes(&self) -> impl Iterator<Item = (TensorIndex, u64)> {
        let bytes = |packed: &PackedTensor| {
            packed.parts.iter().map(|part| self.stored.tensors()[part.0].bytes).sum()
        };
        self.origins.iter().enumerate().filter_map(move |(position, origin)| match origin {
            Origin::Packed(packed) => Some((TensorIndex(position), bytes(packed))),
            Origin::Stored(_) => None,
        })
    }

    fn read_packed(
        &self,
        packed: &PackedTensor,
        data_type: DataType,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        let parts = StoredParts { source: &*self.stored, parts: &packed.parts };
        let matrix = packed.matrix();
        // Whole blocks fill the rows: the layout said so.
        let row_bytes = data_type.byte_size(matrix.columns).unwrap_or(1).max(1);
        let rows = offset / row_bytes..(offset + out.len() as u64).div_ceil(row_bytes);
        let begin = (offset - rows.start * row_bytes) as usize;
        let count = (rows.end - rows.start) as usize;
        if data_type != DataType::F32 {
            if begin == 0 && out.len() == count * row_bytes as usize {
                return packed.layout.repack(matrix, &parts, rows, out);
            }
            let mut blocks = vec![0; count * row_bytes as usize];
            packed.layout.repack(matrix, &parts, rows, &mut blocks)?;
            out.copy_from_slice(&blocks[begin..][..out.len()]);
            return Ok(());
        }
        let mut weights = vec![0.0f32; count * matrix.columns as usize];
        packed.layout.decode(matrix, &parts, rows, &mut weights)?;
        if begin.is_multiple_of(4) && out.len().is_multiple_of(4) {
            for (out, weight) in out.as_chunks_mut().0.iter_mut().zip(&weights[begin / 4..]) {
                *out = weight.to_le_bytes();
            }
        } else {
            let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
            out.copy_from_slice(&bytes[begin..][..out.len()]);
        }
        Ok(())
    }
}

/// The tensors that are seen, and what each is. A packed matrix stands where its first
/// part stood; several may share it.
fn logical(
    stored: &dyn TensorSource,
    packed: Vec<PackedTensor>,
    repack: Repack,
    rounded: &mut (usize, f64),
) -> Result<(Vec<TensorInfo>, Vec<Origin>), Error> {
    let mut hidden: HashSet<TensorIndex> = HashSet::new();
    let mut first: HashMap<TensorIndex, Vec<PackedTensor>> = HashMap::new();
    for tensor in packed {
        hidden.extend(tensor.parts.iter().chain(&tensor.unused));
        let Some(part) = tensor.parts.iter().min() else { continue };
        first.entry(*part).or_default().push(tensor);
    }
    let names: HashSet<String> =
        first.values().flatten().map(|tensor| tensor.name.clone()).collect();
    let (mut tensors, mut origins) = (Vec::new(), Vec::new());
    for (position, info) in stored.tensors().iter().enumerate() {
        let index = TensorIndex(position);
        for tensor in first.remove(&index).unwrap_or_default() {
            let parts = StoredParts { source: stored, parts: &tensor.parts };
            let data_type = match repack {
                Repack::Exact => tensor.layout.exact_type(tensor.matrix(), &parts)?,
                Repack::Nearest => {
                    let nearest = tensor.layout.nearest_type(tensor.matrix(), &parts)?;
                    nearest.map(|(data_type, moved)| {
                        *rounded = (rounded.0 + usize::from(moved > 0.0), rounded.1.max(moved));
                        data_type
                    })
                }
            };
            let data_type = data_type.unwrap_or(DataType::F32);
            let bytes = tensor.shape.byte_size(data_type).map_err(|error| Error::Malformed {
                location: info.location(0),
                fault: Box::new(Fault::Unfit(error.to_string())),
            })?;
            tensors.push(TensorInfo {
                name: tensor.name.clone(),
                data_type,
                shape: tensor.shape.clone(),
                file: info.file.clone(),
                offset: info.offset,
                bytes,
            });
            origins.push(Origin::Packed(Box::new(tensor)));
        }
        if !hidden.contains(&index) {
            if names.contains(&info.name) {
                let (location, fault) = (info.location(0), Box::new(Fault::Twice));
                return Err(Error::Malformed { location, fault });
            }
            tensors.push(info.clone());
            origins.push(Origin::Stored(index));
        }
    }
    Ok((tensors, origins))
}

impl TensorSource for PackedSource {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &Metadata {
        self.stored.metadata()
    }

    fn files(&self) -> Vec<&SourceFile> {
        self.stored.files()
    }

    /// # Panics
    /// If there is no such tensor, or it does not have the bytes asked for.
    fn read(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        let info = &self.tensors[tensor.0];
        info.assert_has(offset, out.len());
        match &self.origins[tensor.0] {
            Origin::Stored(stored) => self.stored.read(*stored, offset, out),
            Origin::Packed(packed) => self.read_packed(packed, info.data_type, offset, out),
        }
    }

    /// Of a packed matrix its first part: there is no byte of its own.
    fn location(&self, tensor: TensorIndex, offset: u64) -> Location {
        match &self.origins[tensor.0] {
            Origin::Stored(stored) => self.stored.location(*stored, offset),
            Origin::Packed(packed) => {
                let first = packed.parts.iter().min().copied().unwrap_or(TensorIndex(0));
                let location = self.stored.location(first, 0);
                Location { offset: None, ..location.tensor(&packed.name) }
            }
        }
    }
}
