//! `convert`: one read of a model, any number of outputs.

use std::path::{Path, PathBuf};

use qz_plan::Assignment;
use qz_tensor::{DataType, FileStates, OutputOptions, SinkTensor, StagedArtifact};

use crate::error::Error;
use crate::estimate;
use crate::event::{Event, Observer, Shares};
use crate::format::TargetPlan;
use crate::inputs::Inputs;
use crate::measuring::Measures;
use crate::model::{Model, ModelTensor};
use crate::planning::{PlanOptions, importance_of, plan_all};
use crate::sinks::Sinks;
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
    /// How outputs are written.
    pub output: OutputOptions,
    /// What decides about types and metadata.
    pub plan: PlanOptions,
}

impl ConvertOptions {
    /// Everything that is read.
    pub(crate) fn inputs(&self, model: &Model) -> Inputs {
        let importance = self.plan.importance.as_ref().map(|matrix| matrix.path());
        Inputs::default().with_open_model(model).with_files(importance)
    }
}

/// What came of one output.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ConvertReport {
    /// The path that was asked for.
    pub path: PathBuf,
    /// The files that were written: that path, those of a split set beside it, or
    /// those of a folder.
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
    let inputs = options.inputs(model);
    outputs.iter().try_for_each(|output| inputs.check(&output.path))?;
    for warning in model.warnings() {
        observer.observe(Event::Warning(warning));
    }
    let targets: Vec<Target> = outputs.iter().map(|output| output.target.clone()).collect();
    let planning = plan_all(model, &targets, &options.plan)?;
    for warning in &planning.warnings {
        observer.observe(Event::Warning(warning));
    }
    planning.check_importance()?;
    check_static(&targets, &planning.targets)?;
    let plans = &planning.targets;
    let paths: Vec<&Path> = outputs.iter().map(|output| output.path.as_path()).collect();
    let sinks = Sinks::create(model, outputs, plans, options, "", &paths, observer)?;
    let (mut sinks, measures) = measured(model, plans, sinks, options.threads, cancel, observer)?;
    let work = sinks.remaining_work(model, plans, &measures, &options.plan);
    let weights = work.iter().map(|work| work.tensor.shape.elements()).sum();
    observer.observe(Event::Started { job: "convert", tensors: work.len(), weights });
    let positions: Vec<usize> =
        (0..model.tensors.len()).filter(|position| sinks.is_wanted(*position)).collect();
    let job = Rows { model, plans, threads: options.threads };
    let outcome = job.encode(&mut sinks, &work, &positions, cancel, observer);
    match outcome.and_then(|()| check_unchanged(model, &options.plan)) {
        Ok(()) => Ok(finish(sinks, model, outputs, plans, observer)?.0),
        Err(Error::Interrupted) => {
            sinks.keep()?;
            Err(Error::Interrupted)
        }
        Err(error) => Err(error),
    }
}

/// Fails for targets that store what only a text tells.
pub(crate) fn check_static(targets: &[Target], plans: &[TargetPlan]) -> Result<(), Error> {
    let mut all = targets.iter().zip(plans);
    match all.find(|(_, plan)| !plan.numbers.is_empty()) {
        Some((target, _)) => Err(Error::StaticWithoutText(target.to_string())),
        None => Ok(()),
    }
}

/// Takes the measures that outputs need before rows can be packed; the sinks are kept if
/// that is interrupted.
pub(crate) fn measured(
    model: &Model,
    plans: &[TargetPlan],
    sinks: Sinks,
    threads: usize,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<(Sinks, Measures), Error> {
    match Measures::take(model, plans, &sinks, threads, cancel, observer) {
        Err(Error::Interrupted) => {
            sinks.keep()?;
            Err(Error::Interrupted)
        }
        measures => Ok((sinks, measures?)),
    }
}

/// Tensors whose rows are encoded alone, as they come.
pub(crate) struct Rows<'a> {
    pub(crate) model: &'a Model,
    pub(crate) plans: &'a [TargetPlan],
    pub(crate) threads: usize,
}

impl Rows<'_> {
    /// Encodes tensors, the model's at `positions`, into the sinks.
    pub(crate) fn encode(
        &self,
        sinks: &mut Sinks,
        work: &[Work<'_>],
        positions: &[usize],
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let plans = self.plans;
        let costs: Vec<f64> = work.iter().map(estimate::relative_cost).collect();
        let all = work.iter().map(|work| work.tensor.shape.elements());
        let whole = all.clone().zip(&costs).map(|(weights, cost)| weights as f64 * cost).sum();
        let mut shares = Shares::new(all.sum(), whole);
        stream::run(self.model, work, self.threads, cancel, |step| match step {
            Step::Piece(piece) => sinks.put(plans, positions[piece.work], &piece),
            Step::TileDone { work: position, weights, is_last } => {
                let weights = shares.advance(weights as f64 * costs[position]);
                observer.observe(Event::Advanced { weights });
                if is_last {
                    sinks.complete(plans, positions[position]);
                    let of = |plan: &TargetPlan| {
                        let is_there = plan.places[positions[position]].is_some();
                        is_there.then(|| plan.assignments[positions[position]].data_type)
                    };
                    let to: Vec<DataType> = plans.iter().filter_map(of).collect();
                    let tensor = work[position].tensor;
                    let from = tensor.source_type;
                    observer.observe(Event::TensorDone { name: &tensor.name, from, to: &to });
                }
                Ok(())
            }
        })
    }
}

pub(crate) fn importance<'a>(
    options: &'a PlanOptions,
    tensor: &ModelTensor,
) -> Option<Importance<'a>> {
    let (matrix, entry) = (options.importance.as_ref()?, importance_of(options, tensor)?);
    Some(Importance { matrix, entry })
}

pub(crate) fn check_unchanged(model: &Model, options: &PlanOptions) -> Result<(), Error> {
    model.check_unchanged()?;
    match &options.importance {
        Some(matrix) if matrix.file().has_changed()? => {
            Err(Error::InputChanged(matrix.path().to_owned()))
        }
        _ => Ok(()),
    }
}

/// Fails if one of these files is not what was read.
pub(crate) fn check_states(files: &FileStates) -> Result<(), Error> {
    match files.changed()? {
        Some(path) => Err(Error::InputChanged(path.to_owned())),
        None => Ok(()),
    }
}

/// Places the outputs. Beside those that are not yet there lies a note of those that are, for
/// the run that follows if this one is killed in between; all notes are given back.
pub(crate) fn finish(
    sinks: Sinks,
    model: &Model,
    outputs: &[Output],
    plans: &[TargetPlan],
    observer: &mut dyn Observer,
) -> Result<(Vec<ConvertReport>, Vec<String>), Error> {
    let mut reports = Vec::with_capacity(outputs.len());
    let mut notes = Vec::new();
    for (position, (mut growing, plan)) in sinks.into_iter().zip(plans).enumerate() {
        let output = &outputs[position];
        if let Some(warning) = growing.loss(&output.target.to_string(), model) {
            observer.observe(Event::Warning(&warning));
        }
        let bytes = growing.bytes;
        if !growing.is_there {
            growing.finish()?;
            observer.observe(Event::Written { path: &output.path, bytes });
        }
        let note = growing.note();
        if let Some(note) = &note {
            let others = &outputs[position + 1..];
            others.iter().try_for_each(|other| StagedArtifact::leave_note(&other.path, note))?;
        }
        notes.extend(note);
        reports.push(report(model, output, plan, growing.files, bytes));
    }
    Ok((reports, notes))
}

fn report(
    model: &Model,
    output: &Output,
    plan: &TargetPlan,
    files: Vec<PathBuf>,
    bytes: u64,
) -> ConvertReport {
    let converted = |(tensor, source): (&SinkTensor, &usize)| ConvertedTensor {
        name: tensor.name.clone(),
        shape: tensor.shape.dimensions().to_vec(),
        from: model.tensors[*source].source_type.name(),
        data_type: tensor.data_type.name(),
        bytes: tensor.shape.byte_size(tensor.data_type).unwrap_or_default(),
    };
    let tensors: Vec<ConvertedTensor> =
        plan.tensors.iter().zip(&plan.sources).map(converted).collect();
    let tensor_bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    ConvertReport {
        path: output.path.clone(),
        files,
        target: output.target.to_string(),
        bytes,
        bits_per_weight: tensor_bytes as f64 * 8.0 / plan.weights(model).max(1) as f64,
        tensors,
        fallbacks: fallbacks(model, &plan.assignments),
    }
}

pub(crate) fn fallbacks(model: &Model, plan: &[Assignment]) -> Vec<FallbackTensor> {
    let fallback = |(tensor, assignment): (&ModelTensor, &Assignment)| {
        Some(FallbackTensor {
            tensor: tensor.name.to_string(),
            columns: tensor.shape.columns(),
            from: assignment.fallback_from?.name(),
            to: assignment.data_type.name(),
        })
    };
    model.tensors.iter().zip(plan).filter_map(fallback).collect()
}
