//! `convert`: one read of a model, any number of outputs.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use qz_gguf::{GgufLayout, GgufSink};
use qz_plan::Assignment;
use qz_tensor::{DataType, Metadata, OutputOptions, Shape, SinkTensor, TensorIndex, TensorSink};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::event::{Event, Observer};
use crate::model::{Model, ModelTensor};
use crate::planning::{PlanOptions, TargetPlan, importance_of, plan_all};
use crate::stream::{self, Cancel, Importance, Step, Work};
use crate::target::Target;

/// One artifact to write.
#[derive(Clone, Debug)]
pub struct Output {
    /// What it holds.
    pub target: Target,
    /// Its final path.
    pub path: PathBuf,
}

/// How to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Encoding threads.
    pub threads: usize,
    /// Replace outputs that exist.
    pub replace: bool,
    /// What decides about types and metadata.
    pub plan: PlanOptions,
}

/// What came of one output.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ConvertReport {
    /// The path that was asked for.
    pub path: PathBuf,
    /// The files that were written: that path, or those of a split set beside it.
    pub files: Vec<PathBuf>,
    /// The target's name.
    pub target: String,
    /// The size of all files.
    pub bytes: u64,
    /// Bits per weight over all tensors.
    pub bits_per_weight: f64,
    /// The tensors, in file order.
    pub tensors: Vec<ConvertedTensor>,
    /// Tensors whose rows do not fill the blocks of the type the rules name.
    pub fallbacks: Vec<FallbackTensor>,
}

/// A tensor that got another type than the rules name.
#[derive(Clone, Debug, serde::Serialize)]
pub struct FallbackTensor {
    /// Its name.
    pub tensor: String,
    /// Weights in a row.
    pub columns: u64,
    /// The type the rules name.
    pub from: &'static str,
    /// The type it got.
    pub to: &'static str,
}

/// One tensor of an output.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ConvertedTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The type it came in.
    pub from: &'static str,
    /// The type it has.
    #[serde(rename = "type")]
    pub data_type: &'static str,
    /// Its size.
    pub bytes: u64,
}

/// Converts `model` into every output in one read of it.
///
/// # Errors
/// If the model does not fit a target, a weight is not finite, an output exists
/// or is an input, the disk refuses, or `cancel` was set. On any error no output
/// changes; after a cancel the staging folders stay, and the same call continues.
pub fn convert(
    model: &Model,
    outputs: &[Output],
    options: &ConvertOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<Vec<ConvertReport>, Error> {
    for warning in model.warnings() {
        observer.observe(Event::Warning(warning));
    }
    let targets: Vec<Target> = outputs.iter().map(|output| output.target).collect();
    let planning = plan_all(model, &targets, &options.plan)?;
    for warning in &planning.warnings {
        observer.observe(Event::Warning(warning));
    }
    planning.check_importance()?;
    let plans = &planning.targets;
    let mut sinks = Sinks::create(model, outputs, plans, options, observer)?;
    let work = sinks.remaining_work(model, plans, &options.plan);
    let weights = work.iter().map(|work| work.tensor.shape.elements()).sum();
    observer.observe(Event::Started { job: "convert", tensors: work.len(), weights });
    let positions: Vec<usize> =
        (0..model.tensors.len()).filter(|position| sinks.is_wanted(*position)).collect();

    let outcome = stream::run(model, &work, options.threads, cancel, |step| match step {
        Step::Piece(piece) => {
            let output = &mut sinks.outputs[piece.output];
            let place = output.places[positions[piece.work]];
            Ok(output.sink.put(place, piece.offset, &piece.bytes)?)
        }
        Step::TileDone { work: position, weights, is_last } => {
            observer.observe(Event::Advanced { weights });
            if is_last {
                sinks.complete(positions[position], &work[position]);
                let to: Vec<DataType> = plans
                    .iter()
                    .map(|plan| plan.assignments[positions[position]].data_type)
                    .collect();
                let tensor = work[position].tensor;
                let from = tensor.source_type;
                observer.observe(Event::TensorDone { name: &tensor.name, from, to: &to });
            }
            Ok(())
        }
    });
    match outcome.and_then(|()| check_unchanged(model, &options.plan)) {
        Ok(()) => sinks.finish(model, outputs, plans, observer),
        Err(Error::Interrupted) => {
            sinks.keep()?;
            Err(Error::Interrupted)
        }
        Err(error) => Err(error),
    }
}

/// The outputs being written.
struct Sinks {
    outputs: Vec<Growing>,
}

/// An output being written.
struct Growing {
    sink: GgufSink,
    files: Vec<PathBuf>,
    /// Where the sink has each tensor of the model.
    places: Vec<TensorIndex>,
    /// Which of them an interrupted run had finished.
    done: Vec<bool>,
}

impl Sinks {
    fn create(
        model: &Model,
        outputs: &[Output],
        plans: &[TargetPlan],
        options: &ConvertOptions,
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let mut growing = Vec::with_capacity(outputs.len());
        for (output, plan) in outputs.iter().zip(plans) {
            let metadata = &plan.metadata;
            let tensors = plan.sink_tensors(model);
            let split = options.plan.split.as_ref();
            let layout = GgufLayout::new(&output.path, metadata, &tensors, split)?;
            let files = layout.paths();
            files.iter().try_for_each(|path| check_not_an_input(model, path))?;
            let fingerprint = fingerprint(model, metadata, &tensors, &options.plan);
            let replace = OutputOptions { replace: options.replace };
            let sink = GgufSink::begin(layout, &fingerprint, replace)?;
            let finished: HashSet<TensorIndex> = sink.completed().iter().copied().collect();
            if !finished.is_empty() {
                let tensors = finished.len();
                observer.observe(Event::Resumed { path: &output.path, tensors });
            }
            let places = plan.places();
            let done = places.iter().map(|place| finished.contains(place)).collect();
            growing.push(Growing { sink, files, places, done });
        }
        Ok(Self { outputs: growing })
    }

    fn is_wanted(&self, position: usize) -> bool {
        self.outputs.iter().any(|output| !output.done[position])
    }

    fn remaining_work<'a>(
        &self,
        model: &'a Model,
        plans: &[TargetPlan],
        options: &'a PlanOptions,
    ) -> Vec<Work<'a>> {
        let wanted = |position: usize| {
            let of = |(plan, output): (&TargetPlan, &Growing)| {
                (!output.done[position]).then_some(plan.assignments[position].data_type)
            };
            plans.iter().zip(&self.outputs).map(of).collect()
        };
        model
            .tensors
            .iter()
            .enumerate()
            .filter(|(position, _)| self.is_wanted(*position))
            .map(|(position, tensor)| Work {
                tensor,
                wanted: wanted(position),
                importance: importance(options, tensor),
            })
            .collect()
    }

    fn complete(&mut self, position: usize, work: &Work<'_>) {
        for (output, wanted) in self.outputs.iter_mut().zip(&work.wanted) {
            if wanted.is_some() {
                output.sink.record_complete(output.places[position]);
            }
        }
    }

    fn keep(self) -> Result<(), Error> {
        self.outputs.into_iter().try_for_each(|output| Ok(output.sink.keep()?))
    }

    fn finish(
        self,
        model: &Model,
        outputs: &[Output],
        plans: &[TargetPlan],
        observer: &mut dyn Observer,
    ) -> Result<Vec<ConvertReport>, Error> {
        let mut reports = Vec::with_capacity(outputs.len());
        for ((growing, output), plan) in self.outputs.into_iter().zip(outputs).zip(plans) {
            let bytes = growing.sink.size();
            growing.sink.finish()?;
            observer.observe(Event::Written { path: &output.path, bytes });
            reports.push(report(model, output, plan, growing.files, bytes));
        }
        Ok(reports)
    }
}

pub(crate) fn importance<'a>(
    options: &'a PlanOptions,
    tensor: &ModelTensor,
) -> Option<Importance<'a>> {
    let (matrix, entry) = (options.importance.as_ref()?, importance_of(options, tensor)?);
    Some(Importance { matrix, entry })
}

fn check_unchanged(model: &Model, options: &PlanOptions) -> Result<(), Error> {
    model.check_unchanged()?;
    match &options.importance {
        Some(matrix) if matrix.file().has_changed()? => {
            Err(Error::InputChanged(matrix.path().to_owned()))
        }
        _ => Ok(()),
    }
}

fn report(
    model: &Model,
    output: &Output,
    plan: &TargetPlan,
    files: Vec<PathBuf>,
    bytes: u64,
) -> ConvertReport {
    let size = |shape: &Shape, data_type| shape.byte_size(data_type).unwrap_or_default();
    let converted = |position: &usize| {
        let tensor = &model.tensors[*position];
        let data_type = plan.assignments[*position].data_type;
        ConvertedTensor {
            name: tensor.name.clone(),
            shape: tensor.shape.dimensions().to_vec(),
            from: tensor.source_type.name(),
            data_type: data_type.name(),
            bytes: size(&tensor.shape, data_type),
        }
    };
    let tensors: Vec<ConvertedTensor> = plan.order.iter().map(converted).collect();
    let tensor_bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    ConvertReport {
        path: output.path.clone(),
        files,
        target: output.target.to_string(),
        bytes,
        bits_per_weight: tensor_bytes as f64 * 8.0 / (model.weights().max(1)) as f64,
        tensors,
        fallbacks: fallbacks(model, &plan.assignments),
    }
}

pub(crate) fn fallbacks(model: &Model, plan: &[Assignment]) -> Vec<FallbackTensor> {
    let fallback = |(tensor, assignment): (&ModelTensor, &Assignment)| {
        Some(FallbackTensor {
            tensor: tensor.name.clone(),
            columns: tensor.shape.columns(),
            from: assignment.fallback_from?.name(),
            to: assignment.data_type.name(),
        })
    };
    model.tensors.iter().zip(plan).filter_map(fallback).collect()
}

fn check_not_an_input(model: &Model, path: &Path) -> Result<(), Error> {
    let Ok(output) = qz_tensor::SourceFile::open(path) else { return Ok(()) };
    let inode = output.identity().inode;
    let is_input =
        inode.is_some() && model.source.files().iter().any(|file| file.identity().inode == inode);
    if is_input { Err(Error::OutputIsInput(path.to_owned())) } else { Ok(()) }
}

/// One line that tells this job from any other: a staging folder may be
/// continued only by a job with the same line. Overrides are in it through the
/// types and the metadata that came of them.
fn fingerprint(
    model: &Model,
    metadata: &Metadata,
    tensors: &[SinkTensor],
    options: &PlanOptions,
) -> String {
    let mut text = format!("quantize {}\n", env!("CARGO_PKG_VERSION"));
    for file in model.source.files() {
        let _ = writeln!(text, "{} {:?}", file.path().display(), file.identity());
    }
    for (key, value) in metadata.iter() {
        let _ = writeln!(text, "{key} {value:?}");
    }
    for tensor in tensors {
        let _ = writeln!(text, "{} {} {}", tensor.name, tensor.data_type, tensor.shape);
    }
    if let Some(matrix) = &options.importance {
        let _ = writeln!(text, "importance {}", matrix.digest());
    }
    format!("{:x}", Sha256::digest(text.as_bytes()))
}
