//! A source of packed tensors, seen as one of plain matrices.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use qz_tensor::{
    DataType, FileError, Location, Metadata, SourceFile, TensorIndex, TensorInfo, TensorSource,
    stop,
};
use serde_json::{Map, Value};

use crate::error::{Error, Fault};
use crate::exceptions::Patterns;
use crate::inputs::Inputs;
use crate::method::{METHODS, Method, OpenRequest, PackedTensor, StoredParts};

/// How large a packed matrix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedSize {
    /// Bytes of all its parts.
    pub bytes: u64,
    /// Bytes of the largest of them, which holds the codes, as far as codes use its bits.
    pub codes: u64,
    /// Weights of a row that share a scale.
    pub group: u64,
}

/// Packed matrices under their plain names (`….weight`), decoded where they are read;
/// all other tensors as they are.
pub struct PackedSource {
    stored: Box<dyn TensorSource>,
    tensors: Vec<TensorInfo>,
    /// Of each tensor.
    origins: Vec<Origin>,
    method: &'static str,
    /// What a person should know.
    warnings: Vec<String>,
    /// Biases of packed matrices that are zero.
    zero_biases: HashSet<String>,
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
        let request = OpenRequest::new(config, config_path, &*stored);
        let name = config.get("quant_method").and_then(Value::as_str).unwrap_or_default();
        let mut warnings = Vec::new();
        let method = match Method::named(name) {
            Some(method) => method,
            None => {
                let method = unnamed(&request, name)?;
                warnings.push(format!(
                    "{}: quantization_config.quant_method is missing or empty; read as {}, as the \
                     tensors look",
                    config_path.display(),
                    method.name
                ));
                method
            }
        };
        let packed = (method.open)(&request)?;
        warnings.extend(unjudged(&request));
        warnings.extend(remarks(&packed));
        let zero_biases = zero_biases(&request, &packed)?;
        let (tensors, cache_scales) = without_cache_scales(&*stored);
        warnings.extend(cache_scales);
        let mut rounded = (0, 0.0f64);
        let (tensors, origins) = logical(&*stored, &tensors, packed, repack, &mut rounded)?;
        let method = method.name;
        Ok(Self { stored, tensors, origins, method, warnings, zero_biases, rounded })
    }

    /// `quant_method`.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// What a person should know of how it is read.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Biases of packed matrices that are zero, which say nothing where a model has none:
    /// AutoGPTQ and AutoAWQ write one beside every matrix.
    pub fn zero_biases(&self) -> &HashSet<String> {
        &self.zero_biases
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
        match self.origins.get(tensor.0)? {
            Origin::Packed(packed) => Some(packed),
            Origin::Stored(_) => None,
        }
    }

    /// Those that are packed matrices, and how large they are.
    pub fn packed_sizes(&self) -> impl Iterator<Item = (TensorIndex, PackedSize)> {
        // How many matrices are in a part.
        let mut shares: HashMap<TensorIndex, u64> = HashMap::new();
        for origin in &self.origins {
            let Origin::Packed(packed) = origin else { continue };
            for part in &packed.parts {
                let share = shares.entry(*part).or_default();
                *share = share.saturating_add(1);
            }
        }
        let share = move |(part, bytes): (&TensorIndex, u64)| {
            bytes.checked_div(shares.get(part).copied().unwrap_or(1)).unwrap_or(bytes)
        };
        let size = move |packed: &PackedTensor| PackedSize {
            bytes: packed.parts.iter().zip(self.sizes(&packed.parts)).map(&share).sum(),
            codes: match packed.code_bits {
                Some(bits) => packed.shape.elements().saturating_mul(bits.into()).div_ceil(8),
                None => self.sizes(&packed.parts).max().unwrap_or(0),
            },
            group: packed.layout.group_columns(packed.matrix()),
        };
        self.origins.iter().enumerate().filter_map(move |(position, origin)| match origin {
            Origin::Packed(packed) => Some((TensorIndex(position), size(packed))),
            Origin::Stored(_) => None,
        })
    }

    /// Those that are packed matrices, and what engines round their inputs to.
    pub fn inputs(&self) -> impl Iterator<Item = (TensorIndex, &Inputs)> {
        self.origins.iter().enumerate().filter_map(|(position, origin)| match origin {
            Origin::Packed(packed) => Some((TensorIndex(position), &packed.inputs)),
            Origin::Stored(_) => None,
        })
    }

    fn sizes(&self, parts: &[TensorIndex]) -> impl Iterator<Item = u64> {
        parts.iter().filter_map(|part| self.stored.tensors().get(part.0)).map(|info| info.bytes)
    }

    #[allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "the bytes asked for are the tensor's, as was asserted, and its size was checked"
    )]
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

/// The method that a configuration without a method's name is of.
fn unnamed(request: &OpenRequest<'_>, name: &str) -> Result<&'static Method, Error> {
    let known = METHODS.iter().map(|method| method.name).collect();
    let fault = match name {
        "" => match recognised(request) {
            Some((method, _)) => return Ok(method),
            None => Fault::UnnamedMethod { known },
        },
        name => Fault::UnknownMethod { method: name.to_owned(), known },
    };
    let location = Location::file(request.config_path).tensor("quantization_config.quant_method");
    Err(Error::Malformed { location, fault: Box::new(fault) })
}

fn recognised(request: &OpenRequest<'_>) -> Option<(&'static Method, TensorIndex)> {
    METHODS.iter().find_map(|method| Some((method, (method.recognise)(request)?)))
}

/// The method that a source's tensors look like, without a word of a configuration; and
/// the tensor that shows it.
pub fn recognise(source: &dyn TensorSource) -> Option<(&'static Method, TensorIndex)> {
    recognised(&OpenRequest::new(&Map::new(), Path::new(""), source))
}

/// What is remarked of matrices, once for all with the same.
fn remarks(packed: &[PackedTensor]) -> Vec<String> {
    let mut all: Vec<(&str, &str, usize)> = Vec::new();
    for tensor in packed {
        let Some(remark) = &tensor.remark else { continue };
        match all.iter_mut().find(|(known, ..)| known == remark) {
            Some((.., count)) => *count = count.saturating_add(1),
            None => all.push((remark, &tensor.name, 1)),
        }
    }
    let shown = |(remark, first, count): (&str, &str, usize)| match count {
        1 => format!("{first}: {remark}"),
        _ => format!("{first} and {} more matrices: {remark}", count.saturating_sub(1)),
    };
    all.into_iter().map(shown).collect()
}

/// A warning for each rule of the configuration that nobody here can hold to a module.
fn unjudged<'a>(request: &OpenRequest<'a>) -> impl Iterator<Item = String> + use<'a> {
    let path = request.config_path.display();
    Patterns::default().unknown(request.config).into_iter().map(move |key| {
        format!(
            "{path}: quantization_config.{key}: looks around or back, or is no pattern: which \
             modules it is about was not judged"
        )
    })
}

fn zero_biases(
    request: &OpenRequest<'_>,
    packed: &[PackedTensor],
) -> Result<HashSet<String>, Error> {
    const FLOATS: [DataType; 3] = [DataType::F16, DataType::BF16, DataType::F32];
    let mut zero = HashSet::new();
    for tensor in packed {
        let module = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let Some(bias) = request.tensor(module, "bias") else { continue };
        let data_type = request.data_type(bias);
        let bytes = match FLOATS.contains(&data_type) {
            true => request.bytes(bias)?,
            false => continue,
        };
        // The highest bit is the sign.
        let mut numbers = bytes.chunks(data_type.block_bytes());
        let is_zero = |number: &[u8]| match number.split_last() {
            Some((last, rest)) => last & 0x7f == 0 && rest.iter().all(|byte| *byte == 0),
            None => true,
        };
        if numbers.all(is_zero) {
            zero.insert(format!("{module}.bias"));
        }
    }
    Ok(zero)
}

/// All tensors but the scales of keys and values, which engines cache in fewer bits; and
/// what is said of those.
fn without_cache_scales(stored: &dyn TensorSource) -> (Vec<TensorIndex>, Option<String>) {
    let (mut others, mut scales) = (Vec::new(), Vec::new());
    for (position, info) in stored.tensors().iter().enumerate() {
        match is_cache_scale(&info.name) {
            true => scales.push(&*info.name),
            false => others.push(TensorIndex(position)),
        }
    }
    let note = scales.first().map(|first| {
        let more = match scales.len() {
            1 => String::new(),
            count => format!(" and {} more", count.saturating_sub(1)),
        };
        format!("{first}{more}: left out: a scale of cached keys and values changes no weight")
    });
    (others, note)
}

/// Scales and zero points of queries, keys, values and probabilities, as vLLM, AutoFP8,
/// compressed-tensors, Quark and ModelOpt call them.
fn is_cache_scale(name: &str) -> bool {
    const OWN: &[&str] = &["q", "k", "v", "kv", "qkv", "prob", "prob_output", "k_cache", "v_cache"];
    const OF_PROJECTION: &[&str] = &["q_proj", "k_proj", "v_proj", "qkv_proj", "kv_proj"];
    const KINDS: &[&str] = &["_scale", "_zero_point", "_global_scale", "_scale_inv"];
    let Some((module, last)) = name.rsplit_once('.') else { return false };
    let subject = |last: &str| {
        // The longest kind ends it: `k_global_scale` is one of `k`.
        let subjects = KINDS.iter().filter_map(|kind| last.strip_suffix(kind));
        subjects.min_by_key(|subject| subject.len()).map(str::to_owned)
    };
    match subject(last).as_deref() {
        Some("output") => OF_PROJECTION.contains(&module.rsplit('.').next().unwrap_or_default()),
        Some(subject) => OWN.contains(&subject),
        None => last == "_amax" && module.ends_with("_bmm_quantizer"),
    }
}

/// The tensors that are seen, and what each is. A packed matrix stands where its first
/// part stood; several may share it.
fn logical(
    stored: &dyn TensorSource,
    seen: &[TensorIndex],
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
    for index in seen.iter().copied() {
        // Every matrix' scales are read.
        if stop::is_requested() {
            break;
        }
        let Some(info) = stored.tensors().get(index.0) else { continue };
        for tensor in first.remove(&index).unwrap_or_default() {
            let parts = StoredParts { source: stored, parts: &tensor.parts };
            let data_type = match repack {
                Repack::Exact => tensor.layout.exact_type(tensor.matrix(), &parts)?,
                Repack::Nearest => {
                    let nearest = tensor.layout.nearest_type(tensor.matrix(), &parts)?;
                    nearest.map(|(data_type, moved)| {
                        let count = rounded.0.saturating_add(usize::from(moved > 0.0));
                        *rounded = (count, rounded.1.max(moved));
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
                name: tensor.name.as_str().into(),
                data_type,
                shape: tensor.shape.clone(),
                file: info.file.clone(),
                offset: info.offset,
                bytes,
            });
            origins.push(Origin::Packed(Box::new(tensor)));
        }
        if !hidden.contains(&index) {
            if names.contains(&*info.name) {
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
    #[allow(clippy::indexing_slicing, reason = "what the trait says of a tensor that is not there")]
    fn read(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        let info = &self.tensors[tensor.0];
        info.assert_has(offset, out.len());
        match &self.origins[tensor.0] {
            Origin::Stored(stored) => self.stored.read(*stored, offset, out),
            Origin::Packed(packed) => self.read_packed(packed, info.data_type, offset, out),
        }
    }

    /// Of a packed matrix its first part: there is no byte of its own.
    #[allow(clippy::indexing_slicing, reason = "what the trait says of a tensor that is not there")]
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
