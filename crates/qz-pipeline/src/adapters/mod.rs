//! LoRA adapters as PEFT saves them: a folder with `adapter_config.json` and
//! `adapter_model.safetensors` (or `.bin`).
//!
//! What belongs here: what an adapter's configuration and tensors say, which tensors of the
//! base they belong to, what they make of the base when they are merged, and the GGUF file of
//! an adapter alone. What does not: the arithmetic (`edits`).
//!
//! The reference is PEFT's `merge_and_unload` (0.21). What it would compute otherwise, and
//! what is not understood, is refused by name.

mod config;
mod experts;
mod gguf;
mod merge;
mod tensors;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qz_pickle::TorchModel;
use qz_safetensors::SafetensorsModel;
use qz_tensor::{Location, SideFiles, TensorIndex, TensorInfo, TensorSource};

use crate::container::folder_of;
use crate::edits::Operand;
use crate::error::Error;
use crate::folder::Folder;
use crate::model::to_usize;
use config::AdapterConfig;
pub use gguf::{AdapterReport, convert_adapter};

/// The file that makes a folder an adapter.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// The files of an adapter's weights, in the order in which PEFT looks for them.
pub(crate) const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Numbers of a tensor that are looked at together.
const PART: u64 = 1 << 20;

/// An adapter that is to be merged into its base.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedAdapter {
    /// Its folder, or the file of its weights.
    pub path: PathBuf,
    /// What its change of the base is multiplied by.
    pub weight: f64,
}

/// An opened adapter.
pub(crate) struct Adapter {
    folder: Folder,
    config: AdapterConfig,
    source: Arc<dyn TensorSource>,
}

impl Adapter {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let folder = folder_of(path)?.unwrap_or_else(|| path.to_owned());
        let folder = Folder::new(&folder)?;
        let config = AdapterConfig::read(&folder)?;
        let has = |name: &&str| folder.path(name).exists();
        let source: Arc<dyn TensorSource> = match WEIGHTS.into_iter().find(|name| has(name)) {
            Some(name) if name.ends_with(".bin") => {
                Arc::new(TorchModel::open_path(folder.path(name))?)
            }
            Some(name) => Arc::new(SafetensorsModel::open_path(folder.path(name))?),
            None => {
                let detail = format!("no weights of an adapter here ({})", WEIGHTS.join(" or "));
                return Err(Error::NoWeights { path: folder.path(""), detail });
            }
        };
        Ok(Self { folder, config, source })
    }

    /// Fails if a number of a tensor is infinite or none, which would be found in what is
    /// written, and said of the base.
    fn check_finite(&self, operand: &Operand) -> Result<(), Error> {
        let TensorInfo { shape, data_type, .. } = &self.source.tensors()[operand.tensor.0];
        let columns = shape.columns().max(1);
        let step = (PART / columns).max(1);
        let mut numbers = Vec::new();
        for first in (0..shape.rows()).step_by(to_usize(step)) {
            let rows = step.min(shape.rows() - first);
            numbers.resize(to_usize(rows * columns), 0.0);
            operand.read_rows(first, &mut numbers)?;
            if let Some(place) = numbers.iter().position(|number| !number.is_finite()) {
                let index = first * columns + place as u64;
                let offset = data_type.byte_size(index).unwrap_or_default();
                let location = self.source.location(operand.tensor, offset);
                return Err(Error::NonFiniteWeight { location, index, value: numbers[place] });
            }
        }
        Ok(())
    }

    /// The error that one of its tensors cannot be merged.
    fn fault(&self, tensor: TensorIndex, problem: impl Into<String>) -> Error {
        let location = Location { offset: None, ..self.source.location(tensor, 0) };
        Error::Adapter { location, problem: problem.into() }
    }
}
