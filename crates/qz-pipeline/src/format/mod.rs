//! What a model can be written as, as a list to walk; and how a format says where
//! the model's tensors go.

mod gguf;
mod safetensors;

use std::fmt;
use std::path::{Path, PathBuf};

use qz_models::{RowOrder, RowSlice, StackedRows};
use qz_plan::Assignment;
use qz_tensor::{Metadata, OutputOptions, SideFile, SinkTensor, TensorIndex, TensorSink};

use crate::error::Error;
use crate::model::Model;
use crate::planning::PlanOptions;

/// A kind of artifact.
pub struct Format {
    /// Its name: what stands before the colon of a target.
    pub name: &'static str,
    schemes: fn() -> Vec<&'static str>,
    scheme: fn(&str) -> Option<&'static str>,
    artifact_name: fn(&str, &str) -> String,
    plan: fn(&Model, &str, &PlanOptions) -> Result<TargetPlan, Error>,
    layout: LayOut,
}

type LayOut = fn(&Path, &TargetPlan, &PlanOptions) -> Result<Box<dyn Layout>, Error>;

/// Every format that can be written. A target without a format is the first one's.
pub static FORMATS: &[&Format] = &[&gguf::GGUF, &safetensors::SAFETENSORS];

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Format {
    /// The schemes that can be written: what may stand behind the colon.
    pub fn schemes(&self) -> Vec<&'static str> {
        (self.schemes)()
    }

    /// The scheme of this name, in the spelling that reports use. Some are known
    /// that cannot be written yet.
    pub fn scheme(&self, name: &str) -> Option<&'static str> {
        (self.scheme)(name)
    }

    /// What the artifact of a model called `stem` is called.
    pub(crate) fn artifact_name(&self, stem: &str, scheme: &str) -> String {
        (self.artifact_name)(stem, scheme)
    }

    pub(crate) fn plan(
        &self,
        model: &Model,
        scheme: &str,
        options: &PlanOptions,
    ) -> Result<TargetPlan, Error> {
        (self.plan)(model, scheme, options)
    }

    pub(crate) fn layout(
        &self,
        path: &Path,
        plan: &TargetPlan,
        options: &PlanOptions,
    ) -> Result<Box<dyn Layout>, Error> {
        (self.layout)(path, plan, options)
    }
}

/// One output, decided.
pub(crate) struct TargetPlan {
    /// Of each tensor of the model; without a meaning for one that has no place.
    pub(crate) assignments: Vec<Assignment>,
    /// The output's tensors in their order.
    pub(crate) tensors: Vec<SinkTensor>,
    /// Of each of those, a tensor of the model that it comes from.
    pub(crate) sources: Vec<usize>,
    /// Of each tensor of the model, where its rows go.
    pub(crate) places: Vec<Option<Placement>>,
    /// The metadata, if the format has such a thing.
    pub(crate) metadata: Metadata,
    /// The files beside the weights.
    pub(crate) files: Vec<SideFile>,
    /// What a person should know.
    pub(crate) warnings: Vec<String>,
}

impl TargetPlan {
    /// Weights of all its tensors.
    pub(crate) fn weights(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.shape.elements()).sum()
    }
}

/// Where the rows of a tensor go: put in order, then cut into runs, each of which
/// is a run of rows of an output's tensor.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub(crate) row_order: RowOrder,
    runs: StackedRows,
}

impl Placement {
    /// All rows are those of one tensor.
    pub(crate) fn whole(tensor: TensorIndex, row_order: RowOrder) -> Self {
        Self { row_order, runs: StackedRows::one(RowSlice { tensor, first_row: 0 }) }
    }

    /// The rows, as they are, make runs in several places.
    pub(crate) fn runs(runs: StackedRows) -> Self {
        Self { row_order: RowOrder::AsStored, runs }
    }

    /// Where row `row` of the ordered rows goes, and how many from it on go there.
    pub(crate) fn locate(&self, row: u64) -> (RowSlice, u64) {
        self.runs.locate(row)
    }

    /// The tensors that the rows go to; one may be there more than once.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = TensorIndex> {
        self.runs.slices().iter().map(|slice| slice.tensor)
    }
}

/// The files of an output, laid out; nothing is on disk yet.
pub(crate) trait Layout {
    /// Their final paths.
    fn paths(&self) -> Vec<PathBuf>;

    /// Bytes of all of them.
    fn size(&self) -> u64;

    /// Begins to write.
    fn begin(
        self: Box<Self>,
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Box<dyn Sink>, Error>;
}

/// A [`TensorSink`] of any format.
pub(crate) trait Sink {
    fn put(&mut self, tensor: TensorIndex, offset: u64, bytes: &[u8]) -> Result<(), Error>;
    fn completed(&self) -> &[TensorIndex];
    fn record_complete(&mut self, tensor: TensorIndex);
    fn read_back(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<bool, Error>;
    fn keep(self: Box<Self>) -> Result<(), Error>;
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

impl<S: TensorSink> Sink for S
where
    Error: From<S::Error>,
{
    fn put(&mut self, tensor: TensorIndex, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        Ok(TensorSink::put(self, tensor, offset, bytes)?)
    }

    fn completed(&self) -> &[TensorIndex] {
        TensorSink::completed(self)
    }

    fn record_complete(&mut self, tensor: TensorIndex) {
        TensorSink::record_complete(self, tensor);
    }

    fn read_back(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<bool, Error> {
        Ok(TensorSink::read_back(self, tensor, offset, out)?)
    }

    fn keep(self: Box<Self>) -> Result<(), Error> {
        Ok(TensorSink::keep(*self)?)
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        Ok(TensorSink::finish(*self)?)
    }
}
