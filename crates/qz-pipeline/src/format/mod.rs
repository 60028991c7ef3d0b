//! What a model can be written as, as a list to walk; and how a format says where
//! the model's tensors go.

mod cache_scales;
mod checkpoint;
mod demand;
mod gguf;
mod packed;
mod safetensors;
mod schemes;
mod unpacked;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use qz_models::{Change, LayerIndex, RowOrder, StackedRows};
use qz_packed::layouts::numbers::ScaleType;
use qz_packed::{Activations, InputPart, Matrix, Number, SCHEMES, SchemeFamily};
use qz_plan::Assignment;
use qz_tensor::{DataType, Metadata, OutputOptions, SideFile, SinkTensor, TensorIndex, TensorSink};

use crate::error::Error;
use crate::loaders::{self, Engine, Planned};
use crate::model::Model;
use crate::planning::PlanOptions;

/// A kind of artifact.
pub struct Format {
    /// Its name: what stands before the colon of a target.
    pub name: &'static str,
    /// How its schemes are spelled, for a person who has spelled one wrong.
    pub form: &'static str,
    /// What its schemes are, where they are those of packed layouts.
    family: Option<&'static SchemeFamily>,
    schemes: fn(&Self) -> Vec<&'static str>,
    scheme: fn(&Self, &str) -> Option<Cow<'static, str>>,
    artifact_name: fn(&Self, &str, &str) -> String,
    /// The format's targets that fit a model, where others of the same kind may not.
    fitting: fn(&Self, &Model, &PlanOptions) -> Vec<String>,
    /// What a scheme costs, and asks of matrices.
    demand: fn(&Self, &str) -> Demand,
    plan: fn(&Self, &Model, &str, &PlanOptions) -> Result<TargetPlan, Error>,
    layout: LayOut,
}

type LayOut = fn(&Path, &TargetPlan, &PlanOptions) -> Result<Box<dyn OutputLayout>, Error>;

/// Every format that can be written: GGUF, safetensors, and each family of packed
/// layouts. A target without a format is the first one's.
pub static FORMATS: LazyLock<Vec<&'static Format>> = LazyLock::new(|| {
    let packed = SCHEMES.iter().map(packed::format).map(|format| &*Box::leak(Box::new(format)));
    [&gguf::GGUF, &safetensors::SAFETENSORS].into_iter().chain(packed).collect()
});

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Format {
    /// The schemes that can be written: what may stand behind the colon. Of schemes with
    /// numbers in them the usual ones.
    pub fn schemes(&self) -> Vec<&'static str> {
        (self.schemes)(self)
    }

    /// The scheme of this name, in the spelling that reports use. Some are known
    /// that cannot be written yet.
    pub fn scheme(&self, name: &str) -> Option<Cow<'static, str>> {
        (self.scheme)(self, name)
    }

    /// True if its schemes are those of packed layouts.
    pub(crate) fn is_packed(&self) -> bool {
        self.family.is_some()
    }

    /// What engines round the inputs of a scheme's matrices to.
    pub(crate) fn activations(&self, scheme: &str) -> Activations {
        let scheme = self.family.and_then(|family| (family.parse)(scheme));
        scheme.map_or(Activations::Full, |scheme| scheme.activations())
    }

    /// True if a scheme's matrices have inputs that engines rotate.
    pub(crate) fn rotates(&self, scheme: &str) -> bool {
        let scheme = self.family.and_then(|family| (family.parse)(scheme));
        scheme.is_some_and(|scheme| scheme.layout(DataType::BF16).rotation().is_some())
    }

    /// True if it is called so, by its own name or by the one that configurations have.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let is_name = |known: &str| known.eq_ignore_ascii_case(name);
        is_name(self.name) || self.family.is_some_and(|family| is_name(family.method))
    }

    /// What the artifact of a model called `stem` is called.
    pub(crate) fn artifact_name(&self, stem: &str, scheme: &str) -> String {
        (self.artifact_name)(self, stem, scheme)
    }

    pub(crate) fn fitting(&self, model: &Model, options: &PlanOptions) -> Vec<String> {
        (self.fitting)(self, model, options)
    }

    /// What a scheme costs, and asks of matrices.
    pub(crate) fn demand(&self, scheme: &str) -> Demand {
        (self.demand)(self, scheme)
    }

    /// True if an artifact is a folder, false if it is a file.
    pub fn is_folder(&self) -> bool {
        self.name != gguf::GGUF.name
    }

    /// The engines that load what is planned; without a plan, a scheme's artifact of a model
    /// that stands for all.
    pub(crate) fn engines(&self, scheme: &str, plan: Option<&TargetPlan>) -> Vec<Engine> {
        let (tensors, files) = match plan {
            Some(plan) => (Cow::Borrowed(&plan.tensors), Cow::Borrowed(&plan.files)),
            None => {
                let (tensors, files) = self.family.map_or_else(Default::default, |family| {
                    (family.parse)(scheme)
                        .map(|scheme| demand::checkpoint(&*scheme))
                        .unwrap_or_default()
                });
                (Cow::Owned(tensors), Cow::Owned(files))
            }
        };
        let is_gguf = !self.is_folder();
        loaders::loading(&Planned { is_gguf, tensors: &tensors, files: &files })
    }

    pub(crate) fn plan(
        &self,
        model: &Model,
        scheme: &str,
        options: &PlanOptions,
    ) -> Result<TargetPlan, Error> {
        (self.plan)(self, model, scheme, options)
    }

    pub(crate) fn layout(
        &self,
        path: &Path,
        plan: &TargetPlan,
        options: &PlanOptions,
    ) -> Result<Box<dyn OutputLayout>, Error> {
        (self.layout)(path, plan, options)
    }
}

pub use demand::Demand;

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
    /// The output's tensors that follow from what the model computes, not from its weights.
    pub(crate) numbers: Vec<StoredNumber>,
    /// The metadata, if the format has such a thing.
    pub(crate) metadata: Metadata,
    /// The files beside the weights.
    pub(crate) files: Vec<SideFile>,
    /// What a person should know.
    pub(crate) warnings: Vec<String>,
}

impl TargetPlan {
    /// The folder, as loaders' rules look at it.
    pub(crate) fn checkpoint(&self) -> Planned<'_> {
        Planned { is_gguf: false, tensors: &self.tensors, files: &self.files }
    }

    /// The output's tensors that are finished with the model's tensor at `position`.
    pub(crate) fn tensors_of(&self, position: usize) -> HashSet<TensorIndex> {
        let rows = self.places[position].iter().flat_map(Placement::tensors);
        let numbers = self.numbers.iter().filter(|number| number.position == position);
        rows.chain(numbers.map(|number| number.tensor)).collect()
    }

    /// Where the packed rows of the model's tensor at `position` go, if it is packed.
    pub(crate) fn packed(&self, position: usize) -> Option<&PackedPlace> {
        match &self.places[position].as_ref()?.destination {
            Destination::Packed(place) => Some(place),
            Destination::Runs(_) => None,
        }
    }

    /// The order in which the rows of the model's tensor at `position` are written.
    pub(crate) fn row_order(&self, position: usize) -> RowOrder {
        self.places[position].as_ref().map_or(RowOrder::AsStored, |place| place.change.order)
    }

    /// Weights of all the model's tensors that it holds.
    pub(crate) fn weights(&self, model: &Model) -> u64 {
        let held = model.tensors.iter().zip(&self.places).filter(|(_, place)| place.is_some());
        held.map(|(tensor, _)| tensor.shape.elements()).sum()
    }
}

/// A tensor of an output whose numbers a text tells.
#[derive(Clone, Debug)]
pub(crate) struct StoredNumber {
    pub(crate) tensor: TensorIndex,
    /// The model's tensor that it is finished with.
    pub(crate) position: usize,
    pub(crate) of: Measured,
}

/// What such numbers follow from.
#[derive(Clone, Debug)]
pub(crate) enum Measured {
    /// The largest input of a packed matrix, by its number among those stacked in the tensor.
    Inputs { matrix: usize, part: InputPart },
    /// The largest cached keys or values.
    Cache(Cached),
}

/// Keys or values of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cached {
    pub(crate) layer: LayerIndex,
    pub(crate) is_of_values: bool,
    /// Heads, where each has a scale of its own.
    pub(crate) heads: Option<u64>,
    /// The scales' element type.
    pub(crate) data_type: DataType,
}

impl Cached {
    /// The scales' bytes, by the largest magnitudes: with them these are the largest of E4M3.
    pub(crate) fn bytes(&self, largest: &[f32]) -> Vec<u8> {
        let stored = Activations::Tensor(Number::E4M3);
        let scales: Vec<f32> = largest.iter().map(|largest| stored.stored(*largest)).collect();
        let mut bytes = Vec::new();
        ScaleType::of(self.data_type).unwrap_or(ScaleType::F32).write(&scales, &mut bytes);
        bytes
    }
}

/// Where the rows of a tensor go: changed, then encoded and cut into runs, each of
/// which is a run of rows of an output's tensor; or packed.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    /// What becomes of the stored rows.
    pub(crate) change: Change,
    pub(crate) destination: Destination,
}

#[derive(Clone, Debug)]
pub(crate) enum Destination {
    Runs(StackedRows),
    Packed(Arc<PackedPlace>),
}

/// Where a part of a matrix is: in which of an output's tensors, and from which byte on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartPlace {
    pub(crate) tensor: TensorIndex,
    pub(crate) first_byte: u64,
}

/// Where packed rows go.
#[derive(Debug)]
pub(crate) struct PackedPlace {
    pub(crate) layout: Box<dyn qz_packed::Layout>,
    /// One of the matrices stacked in the tensor.
    pub(crate) matrix: Matrix,
    /// Of each matrix, where its parts are.
    pub(crate) parts: Vec<Vec<PartPlace>>,
    /// Matrices with the same number are multiplied together by engines, and measured
    /// together.
    pub(crate) fused: usize,
    /// What engines round the inputs of these matrices to.
    pub(crate) activations: Activations,
}

impl PackedPlace {
    /// Rows that are packed together.
    pub(crate) fn row_unit(&self) -> u64 {
        self.layout.row_unit(self.matrix).max(1)
    }

    /// About how many bytes `rows` rows take in all parts.
    pub(crate) fn bytes_of(&self, rows: u64) -> u64 {
        let parts = self.layout.parts(self.matrix).unwrap_or_default();
        let bytes = |part: &qz_packed::Part| part.shape.byte_size(part.data_type).unwrap_or(0);
        let all: u64 = parts.iter().map(bytes).sum();
        (all as f64 / self.matrix.rows.max(1) as f64 * rows as f64).ceil() as u64
    }

    /// The type of its scales, for messages.
    pub(crate) fn scale_type(&self) -> DataType {
        let parts = self.layout.parts(self.matrix).unwrap_or_default();
        let types = parts.iter().map(|part| part.data_type);
        let is_float = |data_type: &DataType| {
            ![DataType::I32, DataType::I64, DataType::I8, DataType::U8].contains(data_type)
        };
        types.rev().find(is_float).unwrap_or(DataType::F32)
    }
}

impl Placement {
    /// All rows are those of one tensor.
    pub(crate) fn whole(tensor: TensorIndex, change: Change) -> Self {
        Self::runs(StackedRows::whole(tensor), change)
    }

    /// The rows make runs in several places.
    pub(crate) fn runs(runs: StackedRows, change: Change) -> Self {
        Self { change, destination: Destination::Runs(runs) }
    }

    /// True if the rows are those of plain matrices that can be stored in another form:
    /// none are left out, and nothing but their order changes.
    pub(crate) fn is_plain(&self) -> bool {
        let is_whole = match &self.destination {
            Destination::Runs(runs) => runs.columns().is_none(),
            Destination::Packed(_) => true,
        };
        is_whole && Change::ordered(self.change.order) == self.change
    }

    /// The tensors that the rows go to; one may be there more than once.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = TensorIndex> {
        let (runs, parts) = match &self.destination {
            Destination::Runs(runs) => (Some(runs), None),
            Destination::Packed(place) => (None, Some(&place.parts)),
        };
        let runs = runs.into_iter().flat_map(|runs| runs.slices()).map(|slice| slice.tensor);
        runs.chain(parts.into_iter().flatten().flatten().map(|part| part.tensor))
    }
}

/// The files of an output, laid out; nothing is on disk yet.
pub(crate) trait OutputLayout {
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
    fn damaged(&self) -> &[TensorIndex];
    fn record_complete(&mut self, tensor: TensorIndex, lost: u64);
    fn lost(&self, tensor: TensorIndex) -> u64;
    fn checkpoint(&mut self);
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

    fn damaged(&self) -> &[TensorIndex] {
        TensorSink::damaged(self)
    }

    fn record_complete(&mut self, tensor: TensorIndex, lost: u64) {
        TensorSink::record_complete(self, tensor, lost);
    }

    fn lost(&self, tensor: TensorIndex) -> u64 {
        TensorSink::lost(self, tensor)
    }

    fn checkpoint(&mut self) {
        TensorSink::checkpoint(self);
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
