//! What can be read, as a list to walk: quantization methods that a configuration
//! names.

use std::collections::HashMap;
use std::fmt;

use qz_tensor::{DataType, Shape, TensorIndex, TensorInfo, TensorSource};
use serde_json::{Map, Value};

use crate::error::{Error, Fault};
use crate::inputs::Inputs;
use crate::layout::{Layout, Matrix, PartBytes, PartIndex};
use crate::layouts;
use crate::layouts::numbers::ScaleType;

/// A quantization method as `config.json` names it.
pub struct Method {
    /// `quant_method`.
    pub name: &'static str,
    /// Other spellings of it.
    pub aliases: &'static [&'static str],
    /// The tensors of a module that show it, as a message lists them.
    pub looks_like: &'static str,
    /// The first tensor that shows it. Where several methods find one, the first in
    /// [`METHODS`] has it.
    pub recognise: fn(&OpenRequest<'_>) -> Option<TensorIndex>,
    /// Finds the packed matrices.
    pub open: fn(&OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error>,
}

/// Every method that can be read.
pub static METHODS: &[Method] = &[
    layouts::gptq::METHOD,
    layouts::awq::METHOD,
    layouts::auto_round::METHOD,
    layouts::compressed::METHOD,
    layouts::modelopt::METHOD,
    layouts::fp8::METHOD,
    layouts::bitsandbytes::METHOD,
    layouts::hqq::METHOD,
    layouts::aqlm::METHOD,
    layouts::mlx::METHOD,
    layouts::gpt_oss::METHOD,
];

impl Method {
    /// The method of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        METHODS.iter().find(|method| method.name == name || method.aliases.contains(&name))
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A checkpoint whose packed matrices are to be found.
pub struct OpenRequest<'a> {
    /// `quantization_config`.
    pub config: &'a Map<String, Value>,
    /// Where it was read, for messages.
    pub config_path: &'a std::path::Path,
    /// The tensors as they are stored.
    pub source: &'a dyn TensorSource,
    /// Their names.
    pub names: HashMap<&'a str, TensorIndex>,
}

/// A matrix that is stored as several tensors.
#[derive(Debug)]
pub struct PackedTensor {
    /// Its plain name: `….weight`.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Shape,
    /// How it is stored; the rows of all stacked matrices together are its rows.
    pub layout: Box<dyn Layout>,
    /// The tensors of the source that its parts are, in the layout's order.
    pub parts: Vec<TensorIndex>,
    /// Tensors of the source that belong to it and are not read: scales of activations.
    pub unused: Vec<TensorIndex>,
    /// Bits of a code, where fewer are used than are stored.
    pub code_bits: Option<u32>,
    /// What engines round its inputs to.
    pub inputs: Inputs,
    /// What a person should know of how it is read, for all matrices with the same.
    pub remark: Option<String>,
}

impl PackedTensor {
    /// All its rows as one matrix.
    pub fn matrix(&self) -> Matrix {
        Matrix { rows: self.shape.rows(), columns: self.shape.columns() }
    }
}

/// The parts of a packed matrix in a source.
pub(crate) struct StoredParts<'a> {
    pub(crate) source: &'a dyn TensorSource,
    pub(crate) parts: &'a [TensorIndex],
}

impl PartBytes for StoredParts<'_> {
    #[allow(
        clippy::indexing_slicing,
        reason = "a layout asks for its own parts, which are all there"
    )]
    fn read(
        &self,
        part: PartIndex,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), qz_tensor::FileError> {
        self.source.read(self.parts[part.0], offset, out)
    }
}

impl<'a> OpenRequest<'a> {
    /// A source's tensors, with what is said of them.
    pub(crate) fn new(
        config: &'a Map<String, Value>,
        config_path: &'a std::path::Path,
        source: &'a dyn TensorSource,
    ) -> Self {
        let tensors = source.tensors().iter().enumerate();
        let names = tensors.map(|(position, info)| (&*info.name, TensorIndex(position))).collect();
        Self { config, config_path, source, names }
    }

    /// The modules that have a tensor of this suffix, with it, in the source's order.
    pub fn modules_with(&self, suffix: &str) -> Vec<(&'a str, TensorIndex)> {
        let tensors = self.source.tensors().iter().enumerate();
        let module = |(position, info): (usize, &'a qz_tensor::TensorInfo)| {
            let module = info.name.strip_suffix(suffix)?.strip_suffix('.')?;
            Some((module, TensorIndex(position)))
        };
        tensors.filter_map(module).collect()
    }

    /// The first suffix' tensor of the first module that has all of them.
    pub fn first_with(&self, suffixes: &[&str]) -> Option<TensorIndex> {
        let mut modules = self.modules_with(suffixes.first()?).into_iter();
        let has_all =
            |module: &str| suffixes.iter().all(|suffix| self.tensor(module, suffix).is_some());
        modules.find_map(|(module, tensor)| has_all(module).then_some(tensor))
    }

    /// The tensor `MODULE.SUFFIX`, if it is there.
    pub fn tensor(&self, module: &str, suffix: &str) -> Option<TensorIndex> {
        self.names.get(&*format!("{module}.{suffix}")).copied()
    }

    /// The tensor `MODULE.SUFFIX`.
    ///
    /// # Errors
    /// If it is not there.
    pub fn part(&self, module: &str, suffix: &str) -> Result<TensorIndex, Error> {
        let missing = || self.fault(module, Fault::MissingPart(suffix.to_owned()));
        self.tensor(module, suffix).ok_or_else(missing)
    }

    /// Those of the tensors `MODULE.SUFFIX` that are there.
    pub fn tensors(&self, module: &str, suffixes: &[&str]) -> Vec<TensorIndex> {
        suffixes.iter().filter_map(|suffix| self.tensor(module, suffix)).collect()
    }

    /// The two dimensions of a matrix.
    ///
    /// # Errors
    /// If the tensor is not one.
    pub fn matrix_dimensions(&self, tensor: TensorIndex) -> Result<&'a [u64; 2], Error> {
        self.dimensions(tensor).try_into().map_err(|_| {
            let found = self.info(tensor).shape.to_string();
            self.tensor_fault(tensor, Fault::Part { found, expected: "a matrix".to_owned() })
        })
    }

    /// The type of a tensor of scales.
    ///
    /// # Errors
    /// If no scales are stored in it.
    pub fn scale_type(&self, tensor: TensorIndex) -> Result<ScaleType, Error> {
        ScaleType::of(self.data_type(tensor)).ok_or_else(|| {
            let found = self.data_type(tensor).to_string();
            let expected = "F16, BF16 or F32".to_owned();
            self.tensor_fault(tensor, Fault::Part { found, expected })
        })
    }

    /// What the source says of a tensor.
    #[allow(clippy::indexing_slicing, reason = "tensors are told apart by what the source lists")]
    pub fn info(&self, tensor: TensorIndex) -> &'a TensorInfo {
        &self.source.tensors()[tensor.0]
    }

    /// A fault of a tensor.
    pub fn tensor_fault(&self, tensor: TensorIndex, fault: Fault) -> Error {
        let location = self.info(tensor).location(0);
        Error::Malformed { location, fault: Box::new(fault) }
    }

    /// The element type of a tensor.
    pub fn data_type(&self, tensor: TensorIndex) -> DataType {
        self.info(tensor).data_type
    }

    /// The dimensions of a tensor.
    pub fn dimensions(&self, tensor: TensorIndex) -> &'a [u64] {
        self.info(tensor).shape.dimensions()
    }

    /// All of a small tensor's bytes.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn bytes(&self, tensor: TensorIndex) -> Result<Vec<u8>, Error> {
        // Its size was compared with the file's.
        let mut bytes = vec![0; self.info(tensor).bytes as usize];
        self.source.read(tensor, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// A packed matrix in `module`, checked: every part that the layout has must be
    /// there, in its type and shape.
    ///
    /// # Errors
    /// If one is not.
    pub fn packed(
        &self,
        module: &str,
        matrix: Matrix,
        layout: Box<dyn Layout>,
    ) -> Result<PackedTensor, Error> {
        let name = format!("{module}.weight");
        let fault = |fault| self.fault(module, fault);
        let shape = Shape::new([matrix.rows, matrix.columns])
            .map_err(|error| fault(Fault::Unfit(error.to_string())))?;
        let expected = layout.parts(matrix).map_err(|unfit| fault(Fault::Unfit(unfit.0)))?;
        let mut parts = Vec::with_capacity(expected.len());
        for part in expected {
            let tensor = self
                .tensor(module, &part.suffix)
                .ok_or_else(|| fault(Fault::MissingPart(part.suffix.to_string())))?;
            let info = self.info(tensor);
            if info.data_type != part.data_type || info.shape != part.shape {
                return Err(Error::Malformed {
                    location: info.location(0),
                    fault: Box::new(Fault::Part {
                        found: format!("{} {}", info.data_type, info.shape),
                        expected: format!("{} {}", part.data_type, part.shape),
                    }),
                });
            }
            parts.push(tensor);
        }
        Ok(PackedTensor {
            name,
            shape,
            layout,
            parts,
            unused: Vec::new(),
            code_bits: None,
            inputs: Inputs::default(),
            remark: None,
        })
    }

    /// A fault of a module.
    pub fn fault(&self, module: &str, fault: Fault) -> Error {
        let location = qz_tensor::Location::file(self.config_path).tensor(module);
        Error::Malformed { location, fault: Box::new(fault) }
    }

    /// Fails if `key` states a value, and it is none of those that it allows.
    ///
    /// # Errors
    /// That, with both values: `found` is what the tensor has, in words.
    pub fn check_stated(
        &self,
        key: &str,
        stated: &[i64],
        fits: impl Fn(i64) -> bool,
        tensor: TensorIndex,
        found: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if stated.is_empty() || stated.iter().copied().any(fits) {
            return Ok(());
        }
        let stated: Vec<String> = stated.iter().map(i64::to_string).collect();
        let name = &self.info(tensor).name;
        let detail = format!("says {}, but {name} has {}", stated.join(" or "), found());
        Err(self.config_fault(key, detail))
    }

    /// What the configuration states under the first of `keys` that it has, and what the
    /// exceptions for modules under the key `exceptions` do.
    pub fn stated(&self, keys: &[&str], exceptions: &str) -> Vec<i64> {
        let of = |object: &Map<String, Value>| {
            keys.iter().find_map(|key| object.get(*key)).and_then(Value::as_i64)
        };
        let rules = self.config.get(exceptions).and_then(Value::as_object);
        let rules = rules.into_iter().flatten().filter_map(|(_, rule)| of(rule.as_object()?));
        let mut stated: Vec<i64> = of(self.config).into_iter().chain(rules).collect();
        stated.dedup();
        stated
    }

    /// A fault of the configuration's `key`.
    pub fn config_fault(&self, key: &str, detail: impl Into<String>) -> Error {
        let location = qz_tensor::Location::file(self.config_path)
            .tensor(format!("quantization_config.{key}"));
        Error::Malformed { location, fault: Box::new(Fault::Configuration(detail.into())) }
    }
}
