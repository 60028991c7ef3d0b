//! GGUF files: the model's tensors under the names they have already, in llama.cpp's
//! file types or as they are.

use std::borrow::Cow;
use std::path::PathBuf;

use qz_calib::ImportanceMatrix;
use qz_codec::encoder_for;
use qz_gguf::{GgufLayout, GgufSink};
use qz_models::projector::Precision;
use qz_plan::{
    Assignment, FILE_TYPES, Fallback, FileType, ModelFacts, Overrides, PlannedTensor, Reason,
    Request, is_known_architecture,
};
use qz_tensor::{DataType, Metadata, OutputOptions, Shape, SinkTensor, TensorIndex, Value};

use super::demand::{self, Demand};
use super::{Format, OutputLayout, Placement, Sink, TargetPlan};
use crate::error::Error;
use crate::metadata_override::MetadataOverride;
use crate::model::{Model, ModelTensor};
use crate::planning::{PlanOptions, check_codecs, check_requantizing};

pub(super) static GGUF: Format = Format {
    name: "gguf",
    form: "a type: q4_k_m, q8_0, bf16 and the like",
    family: None,
    schemes: |_| schemes(),
    scheme: |_, name| scheme(name).map(Cow::Borrowed),
    artifact_name: |_, stem, scheme| format!("{stem}-{}.gguf", scheme.to_uppercase()),
    fitting: |_, _, _| Vec::new(),
    demand: |_, scheme| demand(scheme),
    plan: |_, model, scheme, options| plan(model, scheme, options),
    layout: |path, plan, options| {
        let split = options.split.as_ref();
        Ok(Box::new(GgufLayout::new(path, &plan.metadata, &plan.tensors, split)?))
    },
};

/// The scheme that leaves types, order and metadata as they are.
const COPY: &str = "copy";

/// File types whose element types all have encoders, and copies.
fn schemes() -> Vec<&'static str> {
    let has_encoder = |data_type| encoder_for(data_type).is_some();
    let is_writable = |file_type: &&FileType| file_type.data_types().all(has_encoder);
    let names = FILE_TYPES.iter().filter(is_writable).map(|file_type| file_type.name);
    names.chain([COPY]).collect()
}

fn scheme(name: &str) -> Option<&'static str> {
    if name.eq_ignore_ascii_case(COPY) {
        return Some(COPY);
    }
    FileType::from_name(name).map(|file_type| file_type.name)
}

fn demand(scheme: &str) -> Demand {
    let Some(file_type) = FileType::from_name(scheme) else { return Demand::default() };
    let tensors = demand::example();
    let facts = demand::example_facts();
    let request = Request {
        file_type,
        facts: &facts,
        has_importance: true,
        overrides: &Overrides::default(),
        fallback: Fallback::Allowed,
    };
    let assignments = qz_plan::assign(&request, &tensors).unwrap_or_default();
    let types = assignments.iter().map(|assignment| assignment.data_type);
    Demand {
        bits_per_weight: demand::bits_per_weight(tensors.iter().map(|t| &t.shape).zip(types)),
        columns: u64::from(file_type.base.spec().block_elements),
        rows: 1,
        has_stand_in: true,
        needs_importance: assignments.iter().any(|assignment| assignment.requires_importance),
        needs_text: false,
    }
}

fn plan(model: &Model, scheme: &str, options: &PlanOptions) -> Result<TargetPlan, Error> {
    if model.is_of_unknown_class {
        return Err(Error::NoGgufNames(model.path.clone()));
    }
    if let Some(unnamed) = &model.unnamed_pre_tokenizer {
        let error = qz_tokenize::Error::from(unnamed.clone());
        return Err(qz_models::Error::from(error).into());
    }
    match FileType::from_name(scheme) {
        Some(file_type) => quantized(model, file_type, options),
        None => copied(model, options),
    }
}

/// Names of the file types that the reference's converter writes.
const CONVERTERS: [DataType; 4] = [DataType::F32, DataType::F16, DataType::BF16, DataType::Q8_0];

/// The type of a projector's tensor in a file of this type (`tensor_force_quant` in
/// `conversion/base.py`); rows that do not fill blocks become f16.
fn of_projector(tensor: &ModelTensor, precision: Precision, file_type: DataType) -> Assignment {
    let is_half = file_type == DataType::F16;
    let first = match precision {
        Precision::OfFile => file_type,
        Precision::Half => DataType::F16,
        Precision::HalfOrSingle if is_half => DataType::F16,
        Precision::HalfOrSingle | Precision::Single => DataType::F32,
    };
    let fits = tensor.shape.row_bytes(first).is_ok();
    let data_type = if fits { first } else { DataType::F16 };
    Assignment {
        data_type,
        reason: if precision == Precision::OfFile { Reason::Base } else { Reason::Kept },
        fallback_from: (data_type != first).then_some(first),
        requires_importance: false,
    }
}

impl OutputLayout for GgufLayout {
    fn paths(&self) -> Vec<PathBuf> {
        GgufLayout::paths(self)
    }

    fn size(&self) -> u64 {
        GgufLayout::size(self)
    }

    fn begin(
        self: Box<Self>,
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Box<dyn Sink>, Error> {
        Ok(Box::new(GgufSink::begin(*self, fingerprint, options)?))
    }
}

/// The model in another file type.
fn quantized(
    model: &Model,
    file_type: &'static FileType,
    options: &PlanOptions,
) -> Result<TargetPlan, Error> {
    let precisions = || model.tensors.iter().map(|tensor| Some((tensor, tensor.precision?)));
    if let Some(own) = precisions().collect::<Option<Vec<_>>>() {
        if !CONVERTERS.contains(&file_type.base) {
            return Err(Error::ProjectorType(model.path.clone()));
        }
        let assign = |(tensor, precision)| of_projector(tensor, precision, file_type.base);
        let assignments = own.into_iter().map(assign).collect();
        let metadata = metadata_of(model, file_type, options);
        let all = (0..model.tensors.len()).collect();
        return whole(model, assignments, metadata, all, Form::AsStated, options);
    }
    let positions: Vec<usize> =
        (0..model.tensors.len()).filter(|position| !model.tensors[*position].is_beside).collect();
    let tensors: Vec<PlannedTensor> =
        positions.iter().map(|position| planned(&model.tensors[*position])).collect();
    let metadata = metadata_of(model, file_type, options);
    let facts = facts(model, &metadata, options)?;
    let request = Request {
        file_type,
        facts: &facts,
        has_importance: options.importance.is_some(),
        overrides: &options.overrides,
        fallback: options.fallback,
    };
    let mut assignments: Vec<Assignment> = model.tensors.iter().map(as_it_is).collect();
    for (position, assignment) in positions.iter().zip(qz_plan::assign(&request, &tensors)?) {
        assignments[*position] = assignment;
    }
    // The converter writes Q8_0, too.
    let is_q8_0 = model.is_checkpoint() && file_type.base == DataType::Q8_0;
    let is_stated = is_q8_0 || is_converters(model, file_type);
    let form = if is_stated { Form::AsStated } else { Form::Shortest };
    whole(model, assignments, metadata, positions, form, options)
}

fn facts(model: &Model, metadata: &Metadata, options: &PlanOptions) -> Result<ModelFacts, Error> {
    if options.generic {
        return Ok(ModelFacts::from_names(model.tensors.iter().map(|tensor| &*tensor.name)));
    }
    let architecture = metadata.string("general.architecture");
    if architecture.is_some_and(is_known_architecture) {
        return Ok(ModelFacts::from_metadata(metadata));
    }
    let architecture = architecture.map(str::to_owned);
    Err(Error::UnknownArchitecture { path: model.path.clone(), architecture })
}

/// A tensor that is left as it is.
fn as_it_is(tensor: &ModelTensor) -> Assignment {
    Assignment {
        data_type: tensor.source_type,
        reason: Reason::Left,
        fallback_from: None,
        requires_importance: false,
    }
}

/// The model as it is, in the order of its files. Of a set's keys
/// `llama-gguf-split --merge` leaves all but the count, which it sets to none.
fn copied(model: &Model, options: &PlanOptions) -> Result<TargetPlan, Error> {
    if model.is_checkpoint() {
        return Err(Error::CopyOfCheckpoint(model.path.clone()));
    }
    let mut metadata = model.metadata.clone();
    if metadata.remove(SPLIT_COUNT).is_some() {
        metadata.set(SPLIT_COUNT, 0u16);
    }
    for MetadataOverride { key, value } in &options.metadata {
        metadata.remove(key);
        metadata.set(key, value.clone());
    }
    let mut order: Vec<usize> = (0..model.tensors.len()).collect();
    order.sort_by_key(|position| model.tensors[*position].first_source());
    let assignments = model.tensors.iter().map(as_it_is).collect();
    whole(model, assignments, metadata, order, Form::AsStated, options)
}

/// Whether outermost dimensions of one are written.
#[derive(Clone, Copy)]
enum Form {
    AsStated,
    /// As llama-quantize does, which counts dimensions of a tensor that it has loaded
    /// (`ggml_n_dims`).
    Shortest,
}

impl Form {
    fn of(self, shape: &Shape) -> Shape {
        let dimensions = shape.dimensions();
        let ones = dimensions.iter().take_while(|size| **size == 1).count();
        let skipped = ones.min(dimensions.len().saturating_sub(1));
        match self {
            Self::Shortest if skipped > 0 => {
                Shape::new(&dimensions[skipped..]).unwrap_or_else(|_| shape.clone())
            }
            _ => shape.clone(),
        }
    }
}

/// True for what the reference's converter writes itself: plain files from checkpoints, and
/// all of projectors.
fn is_converters(model: &Model, file_type: &FileType) -> bool {
    model.is_checkpoint() && (!file_type.base.is_block() || model.is_projector())
}

/// Every tensor of the model, each as one tensor of the output.
fn whole(
    model: &Model,
    assignments: Vec<Assignment>,
    metadata: Metadata,
    sources: Vec<usize>,
    form: Form,
    options: &PlanOptions,
) -> Result<TargetPlan, Error> {
    for (tensor, assignment) in model.tensors.iter().zip(&assignments) {
        check_requantizing(model, tensor, assignment.data_type, options)?;
        check_codecs(model, tensor, assignment.data_type)?;
    }
    let sink_tensor = |position: &usize| {
        let tensor = &model.tensors[*position];
        SinkTensor {
            name: tensor.name.to_string(),
            data_type: assignments[*position].data_type,
            shape: form.of(&tensor.shape),
        }
    };
    let tensors = sources.iter().map(sink_tensor).collect();
    let mut places = vec![None; model.tensors.len()];
    for (place, position) in sources.iter().enumerate() {
        let change = model.tensors[*position].change();
        places[*position] = Some(Placement::whole(TensorIndex(place), change));
    }
    let (files, warnings) = (Vec::new(), model.unsaid.clone());
    let numbers = Vec::new();
    Ok(TargetPlan { assignments, tensors, sources, places, numbers, metadata, files, warnings })
}

fn planned(tensor: &ModelTensor) -> PlannedTensor {
    let is_writable = tensor.source_type.spec().ggml.is_some();
    PlannedTensor {
        name: tensor.name.to_string(),
        shape: tensor.shape.clone(),
        unquantized: tensor.unquantized,
        source_type: if is_writable { tensor.source_type } else { tensor.unquantized },
    }
}

/// How many files a model is in; the reference's key.
const SPLIT_COUNT: &str = "split.count";

/// What only tells the files of one set apart: an output gets its own, if any.
const SPLIT_KEYS: [&str; 3] = ["split.no", SPLIT_COUNT, "split.tensors.count"];

/// The output's metadata: the model's, the file type, what a person wants, and
/// where importance came from, in llama-quantize's order.
fn metadata_of(model: &Model, file_type: &FileType, options: &PlanOptions) -> Metadata {
    /// `GGML_QNT_VERSION`: the block layouts have not changed since.
    const QUANTIZATION_VERSION: u32 = 2;
    let mut metadata = model.metadata.clone();
    // llama-quantize removes a key and appends it (gguf.cpp, `gguf_set_val_u32`);
    // the converter, which writes plain files from checkpoints, does not.
    let is_converters = is_converters(model, file_type);
    let mut set = |key: &str, value: Value, in_place: bool| {
        if !in_place {
            metadata.remove(key);
        }
        metadata.set(key, value);
    };
    set("general.quantization_version", QUANTIZATION_VERSION.into(), is_converters);
    set("general.file_type", file_type.id.into(), is_converters);
    for key in SPLIT_KEYS {
        metadata.remove(key);
    }
    let mut set = |key: &str, value: Value| {
        metadata.remove(key);
        metadata.set(key, value);
    };
    for MetadataOverride { key, value } in &options.metadata {
        set(key, value.clone());
    }
    for (key, value) in options.importance.iter().flat_map(|matrix| provenance(matrix)) {
        set(key, value);
    }
    metadata
}

/// What llama-quantize notes about an importance matrix (quantize.cpp).
fn provenance(matrix: &ImportanceMatrix) -> Vec<(&'static str, Value)> {
    let path = matrix.path().to_string_lossy().into_owned();
    let entries = u32::try_from(matrix.len()).unwrap_or(u32::MAX);
    let mut notes = vec![("quantize.imatrix.file", Value::from(path))];
    let dataset = matrix.datasets().first();
    notes.extend(dataset.map(|name| ("quantize.imatrix.dataset", Value::from(&**name))));
    notes.push(("quantize.imatrix.entries_count", entries.into()));
    let chunks = Some(matrix.chunks()).filter(|chunks| *chunks > 0);
    notes.extend(chunks.map(|chunks| ("quantize.imatrix.chunks_count", chunks.into())));
    notes
}
