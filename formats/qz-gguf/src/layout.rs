//! What will be written: the files of a model with their headers and places.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use qz_tensor::{Artifact, ArtifactFile, Location, Metadata, PlacedTensor, SinkTensor};

use crate::encode::{NamedFault, layout};
use crate::error::{Error, Fault};
use crate::split::{Part, SplitOptions, parts};

/// A model to be written, in one file or several: every byte but the tensors'.
#[derive(Debug)]
pub struct GgufLayout {
    pub(crate) artifact: Artifact,
    /// For each file its header with the padding that follows.
    pub(crate) headers: Vec<Vec<u8>>,
    /// In the order in which the tensors were given.
    pub(crate) tensors: Vec<Placed>,
}

/// A tensor and its place.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) tensor: PlacedTensor,
    /// Zeros that follow.
    pub(crate) padding: u64,
}

impl GgufLayout {
    /// Lays out a file at `target`, or, with `split`, files beside it that are called
    /// `NAME-00001-of-0000N.gguf` where `target` is `NAME.gguf`. The alignment of a
    /// file is its own `general.alignment`, else 32.
    ///
    /// # Errors
    /// If GGUF cannot hold a key, name, type or shape ([`Fault`]), or a set would
    /// have too many files.
    pub fn new(
        target: &Path,
        metadata: &Metadata,
        tensors: &[SinkTensor],
        split: Option<&SplitOptions>,
    ) -> Result<Self, Error> {
        let malformed = |(name, fault): NamedFault| {
            let location = Location { tensor: name, ..Location::file(target) };
            Error::Malformed { location, fault: Box::new(fault) }
        };
        check_names(tensors).map_err(malformed)?;
        let Some(split) = split else {
            let one =
                Part { name: String::new(), metadata: metadata.clone(), tensors: 0..tensors.len() };
            let (files, headers, tensors) = lay_out(vec![one], tensors).map_err(malformed)?;
            let artifact = Artifact::file(target, files.iter().map(|file| file.size).sum());
            return Ok(Self { artifact, headers, tensors });
        };
        // A size that overflows is found, and named, when its file is laid out.
        let size = |tensor: &SinkTensor| tensor.shape.byte_size(tensor.data_type).unwrap_or(0);
        let divided = split.divide(tensors.iter().map(size));
        let parts = parts(target, metadata, divided).map_err(|fault| malformed((None, fault)))?;
        let (files, headers, tensors) = lay_out(parts, tensors).map_err(malformed)?;
        Ok(Self { artifact: Artifact::set(target, files), headers, tensors })
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.artifact.size()
    }

    /// The final paths.
    pub fn paths(&self) -> Vec<PathBuf> {
        (0..self.artifact.files().len()).map(|file| self.artifact.path_of(file)).collect()
    }
}

type Files = (Vec<ArtifactFile>, Vec<Vec<u8>>, Vec<Placed>);

fn lay_out(parts: Vec<Part>, tensors: &[SinkTensor]) -> Result<Files, NamedFault> {
    let (mut files, mut headers, mut placed) = (Vec::new(), Vec::new(), Vec::new());
    for (file, part) in parts.into_iter().enumerate() {
        let own = tensors.get(part.tensors).unwrap_or_default();
        let layout = layout(&part.metadata, own)?;
        files.push(ArtifactFile { name: part.name, size: layout.size });
        headers.push(layout.header);
        placed.extend(own.iter().zip(layout.places).map(|(tensor, place)| {
            let (name, offset, bytes) = (tensor.name.clone(), place.offset, place.bytes);
            let tensor = PlacedTensor { name, file, offset, bytes };
            Placed { tensor, padding: place.padding }
        }));
    }
    Ok((files, headers, placed))
}

/// No name may occur twice, be it in two files.
fn check_names(tensors: &[SinkTensor]) -> Result<(), NamedFault> {
    let mut places = HashMap::new();
    for (second, tensor) in tensors.iter().enumerate() {
        if let Some(first) = places.insert(tensor.name.as_str(), second) {
            return Err((Some(tensor.name.clone()), Fault::DuplicateName { first, second }));
        }
    }
    Ok(())
}
