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
        let (tensors, origins) = logical(&*stored, packed)?;
        Ok(Self { stored, tensors, origins, method: method.name })
    }

    /// `quant_method`.
    pub fn method(&self) -> &'static str {
        self.method
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

    /// Those that are packed matrices.
    pub fn packed_tensors(&self) -> impl Iterator<Item = TensorIndex> {
        let origins = self.origins.iter().enumerate();
        let packed = origins.filter(|(_, origin)| matches!(origin, Origin::Packed(_)));
        packed.map(|(position, _)| TensorIndex(position))
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
            let exact = tensor.layout.exact_type(tensor.matrix(), &parts)?;
            let data_type = exact.unwrap_or(DataType::F32);
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
