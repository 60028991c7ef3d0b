//! `quantize`: a model to files whose values a method chose, knowing what each matrix
//! multiplies.
//!
//! The plan is that of `convert`. Matrices of decoder layers go layer by layer: their
//! inputs are captured, behind the matrices that are quantized already; they are
//! quantized, replaced in the stream of hidden states, and the next ones follow. Each
//! target has its own stream. Everything else is encoded row by row, as `convert` does. Methods
//! that know of weights alone take one matrix after the other.
//!
//! A run that was killed is continued: matrices that an output has are read back and
//! replaced in the stream, so that the hidden states, and all later bytes, are the same.

mod alone;
mod capture;
mod captured;
mod effort;
mod folding;
mod known;
mod layers;
mod memory;
mod packed;
mod plan;
mod ranges;
mod report;
mod rest;
mod storage;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_methods::{Method, Needs, Options};
use qz_tensor::StagedArtifact;

pub use capture::CalibrationSummary;
pub use folding::{FoldingSummary, TRANSFORMS, Transform};
pub use ranges::UnseenInputs;
pub use report::{MethodTensor, QuantizeReport};

use crate::calibrate::{DataOptions, ExpertOptions};
use crate::compute::{Computation, ComputeOptions};
use crate::convert::{
    ConvertOptions, Output, Rows, check_states, check_static, check_unchanged, finish, measured,
};
use crate::error::Error;
use crate::event::{Event, Observer};
use crate::inputs::Inputs;
use crate::model::Model;
use crate::model_weights::ModelWeights;
use crate::planning::{PlanOptions, plan_all};
use crate::sinks::Sinks;
use crate::stream::{Cancel, unless_cancelled};
use crate::target::Target;
use capture::Calibration;
use known::Known;
use layers::Layers;
use plan::Chosen;
use ranges::{Measurements, Ranges};
use report::Reports;
use rest::Rest;

/// Statistics of a quantized model correct targets of so many times its bits per weight: finer
/// ones lose less and would be made worse, coarser ones lose something else (QUALITY.md).
const NEAR: RangeInclusive<f64> = 0.9..=1.1;

/// How to quantize.
#[derive(Clone)]
pub struct QuantizeOptions {
    /// How outputs are planned and written.
    pub convert: ConvertOptions,
    /// What is done to the model before.
    pub transform: Option<Transform>,
    /// Where the model is written as the transform has left it, in f32.
    pub save_folded: Option<PathBuf>,
    /// What chooses values.
    pub method: &'static dyn Method,
    /// What it is told.
    pub options: Options,
    /// What the model reads meanwhile; may be left out where the method needs nothing.
    pub text: Option<DataOptions>,
    /// Statistics that an earlier run collected, instead of a text.
    pub statistics: Option<PathBuf>,
    /// What becomes of the correction for earlier layers where statistics do not tell how.
    pub propagation: Propagation,
    /// Which of the text's tokens count as an expert's.
    pub experts: ExpertOptions,
    /// How the forward pass computes.
    pub compute: ComputeOptions,
}

/// Whether the correction for earlier layers was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// It is left out where statistics do not tell what was lost.
    #[default]
    WherePossible,
    /// That is an error.
    Asked,
}

impl QuantizeOptions {
    /// These, as far as statistics of another run tell what a target loses, of so many bits
    /// per weight.
    fn fitting(
        &self,
        known: &Known,
        bits: f64,
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let is_asked = self.propagation == Propagation::Asked;
        let found = match (self.propagates(), known.quantized_bits()) {
            (false, _) => return Ok(self.clone()),
            (true, None) if is_asked => return Err(Error::PropagationWithoutText),
            (true, found) => found,
        };
        if found.is_some_and(|found| is_asked || NEAR.contains(&(bits / found))) {
            return Ok(self.clone());
        }
        if let Some(found) = found {
            observer.observe(Event::Warning(&format!(
                "the statistics are of a model with {found:.2} bits per weight, the target has \
                 {bits:.2}: it is not corrected for earlier layers, which lose other things in it"
            )));
        }
        let mut own = self.clone();
        own.options.gptq.propagation = 0.0;
        Ok(own)
    }

    /// The method's name, behind that of the transform before it.
    fn method_name(&self) -> String {
        let method = self.method.name();
        match self.transform {
            Some(transform) => format!("{}+{method}", transform.name()),
            None => method.to_owned(),
        }
    }

    /// Whether matrices make up for what was lost before them.
    fn propagates(&self) -> bool {
        self.method.needs() == Needs::Gram && self.options.gptq.propagation != 0.0
    }
}

/// Quantizes `model` into every output.
///
/// # Errors
/// As [`crate::convert()`]; and if the text cannot be read or is too short, the method does
/// not fit an output's format, or an activation is no number.
pub fn quantize(
    model: &Model,
    outputs: &[Output],
    options: &QuantizeOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<Vec<QuantizeReport>, Error> {
    options.compute.run(cancel, Quantizing { model, outputs, options, cancel, observer })
}

/// The work of [`quantize`].
struct Quantizing<'a> {
    model: &'a Model,
    outputs: &'a [Output],
    options: &'a QuantizeOptions,
    cancel: &'a Cancel,
    observer: &'a mut dyn Observer,
}

impl Computation for Quantizing<'_> {
    type Output = Vec<QuantizeReport>;

    fn run<B: Backend>(self, backend: &B, workers: &Workers) -> Result<Self::Output, Error> {
        let Self { model, outputs, options, cancel, observer } = self;
        let texts = options.text.iter().flat_map(DataOptions::paths);
        let inputs =
            options.convert.inputs(model).with_files(texts.chain(options.statistics.as_deref()));
        let folded = options.save_folded.as_deref();
        let paths = outputs.iter().map(|output| output.path.as_path()).chain(folded);
        paths.into_iter().try_for_each(|path| inputs.check(path))?;
        for warning in model.warnings() {
            observer.observe(Event::Warning(warning));
        }
        check_all(model, outputs, options)?;
        let mut job = Job { outputs, notes: Vec::new() };
        let targets = outputs.iter().zip(1..).map(|(output, number)| {
            let (name, count) = (output.target.to_string(), outputs.len());
            observer.observe(Event::Target { name: &name, number, count });
            one((backend, workers), model, output, options, &mut job, cancel, observer)
        });
        targets.collect()
    }
}

/// What could end the job behind its first output: targets that do not fit, outputs that are
/// there.
fn check_all(model: &Model, outputs: &[Output], options: &QuantizeOptions) -> Result<(), Error> {
    // Statistics are of the model as it was, whose columns are not yet scaled.
    let has_text = options.text.is_some() && options.statistics.is_none();
    if let Some(transform) = options.transform.filter(|_| !has_text) {
        return Err(Error::TransformWithoutText(transform.name()));
    }
    if let Some(transform) = options.transform {
        outputs.iter().try_for_each(|output| transform.check(&output.target))?;
    }
    if let Some(output) = outputs.iter().find(|output| !output.target.is_packed())
        && options.convert.plan.cache_scales.is_some()
    {
        let (target, why) = (output.target.to_string().into(), "it has no place for them".into());
        return Err(Error::NoCacheScales { target, why });
    }
    if options.save_folded.is_some() && options.transform.is_none() {
        return Err(Error::NothingFolded);
    }
    if outputs.len() > 1 && options.save_folded.is_some() {
        return Err(Error::FoldedModels(outputs.len()));
    }
    if let (Some(folded), [output]) = (&options.save_folded, outputs) {
        // Neither may be in the other, whatever they are called.
        let apart = Inputs::default().with_output(&output.path);
        if apart.check(folded).is_err() {
            let (folded, output) = (folded.clone(), output.path.clone());
            return Err(Error::FoldedIsOutput { folded, output });
        }
    }
    if outputs.len() < 2 && has_text {
        return Ok(());
    }
    let targets: Vec<Target> = outputs.iter().map(|output| output.target.clone()).collect();
    let planning = plan_all(model, &targets, &options.convert.plan)?;
    if has_text { Ok(()) } else { check_static(&targets, &planning.targets) }
}

/// What one output has to know of the others.
struct Job<'a> {
    outputs: &'a [Output],
    /// Of those that are there.
    notes: Vec<String>,
}

/// Writes a folded model, whole.
fn save_folded(
    model: &Model,
    path: &Path,
    options: &QuantizeOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let target: Target = "safetensors:f32".parse()?;
    let output = Output { target, path: path.to_owned() };
    let plan = PlanOptions::default();
    let convert = ConvertOptions { plan, ..options.convert.clone() };
    crate::convert::convert(model, &[output], &convert, cancel, observer).map(drop)
}

fn one<B: Backend>(
    (backend, workers): (&B, &Workers),
    model: &Model,
    output: &Output,
    options: &QuantizeOptions,
    job: &mut Job<'_>,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<QuantizeReport, Error> {
    let folded = match options.transform {
        None => None,
        Some(transform) => {
            let of = (backend, workers);
            Some(folding::folded(transform, of, model, output, options, cancel, observer)?)
        }
    };
    let model = folded.as_ref().map_or(model, |(folded, _)| folded);
    if let Some(path) = options.save_folded.as_deref().filter(|_| folded.is_some()) {
        save_folded(model, path, options, cancel, observer)?;
    }
    let known = options.statistics.as_deref().map(Known::open).transpose()?;
    let planning = plan_all(model, std::slice::from_ref(&output.target), &options.convert.plan)?;
    let fitting;
    let options = match &known {
        None => options,
        Some(known) => {
            let bits = plan::bits_per_weight(model, &planning.targets[0]);
            fitting = options.fitting(known, bits, observer)?;
            &fitting
        }
    };
    for warning in &planning.warnings {
        observer.observe(Event::Warning(warning));
    }
    let streams = if options.propagates() { 2 } else { 1 };
    let weights = ModelWeights::new(model);
    let forward = match options.method.needs() {
        Needs::Nothing => None,
        _ => Some(model.forward(backend, &weights, options.compute.share(streams))?),
    };
    let full = match planning.targets[0].numbers.is_empty() {
        true => None,
        false => Some(model.forward(backend, &weights, options.compute.share(1))?),
    };
    let chosen = match &forward {
        Some(forward) => {
            let plan = &planning.targets[0];
            Chosen::of(forward, model, output, plan, known.as_ref())?
        }
        None if options.method.is_encoding() => Chosen::default(),
        None => Chosen::alone(model, output, &planning.targets[0])?,
    };
    let layers = forward.as_ref().map(|forward| forward.graph().layer_count());
    let uncomputed = layers.and_then(|layers| model.uncomputed_layers(layers));
    for remark in uncomputed.into_iter().chain(chosen.remark(model)) {
        observer.observe(Event::Warning(&remark));
    }
    let uncovered: Vec<_> = planning
        .uncovered
        .iter()
        .filter(|uncovered| forward.is_none() || !chosen.holds(model, &uncovered.tensor))
        .cloned()
        .collect();
    if !uncovered.is_empty() {
        return Err(Error::MissingImportance(uncovered));
    }
    let mut calibration = None;
    let asks = forward.is_some() && !chosen.is_empty();
    let known = known.filter(|_| asks);
    match (&known, &options.text) {
        _ if !asks && full.is_none() => {}
        (Some(_), _) => {}
        (None, Some(text)) => calibration = Some(Calibration::read(model, text, cancel, observer)?),
        (None, None) => return Err(Error::NoCalibration(options.method.name())),
    }
    let recipe = report::recipe(options, calibration.as_ref(), known.as_ref());
    let mut plans = planning.targets;
    if !chosen.is_empty() || options.transform.is_some() {
        // Configurations say what the model read, which is known by now.
        let method = report::provenance(options, calibration.as_ref(), known.as_ref());
        let plan = PlanOptions { method: Some(method), ..options.convert.plan.clone() };
        plans = vec![output.target.plan(model, &plan)?];
    }
    let plans = &plans;
    let ranges = full.as_ref().map(|full| Ranges::of(full, model, &output.target, &plans[0]));
    let ranges = ranges.transpose()?;
    let outputs = std::slice::from_ref(output);
    let paths: Vec<&Path> = job.outputs.iter().map(|output| output.path.as_path()).collect();
    let sinks = Sinks::create(model, outputs, plans, &options.convert, &recipe, &paths, observer)?;
    if sinks.are_there() {
        let (mut artifacts, notes) = finish(sinks, model, outputs, plans, observer)?;
        job.notes.extend(notes);
        return Ok(QuantizeReport {
            artifact: artifacts.remove(0),
            method: options.method_name(),
            folding: None,
            calibration: calibration.map(|calibration| calibration.summary()),
            memory_bound_bytes: 0,
            experts: Vec::new(),
            unseen_inputs: Vec::new(),
            methods: Vec::new(),
        });
    }
    job.notes.iter().try_for_each(|note| StagedArtifact::leave_note(&output.path, note))?;
    let threads = options.convert.threads;
    let (mut sinks, measures) = measured(model, plans, sinks, threads, cancel, observer)?;

    let mut measurements = Measurements::default();
    if let (Some(ranges), Some(full), Some(text)) = (&ranges, &full, &calibration) {
        let read = (model, &text.chunks, options.experts);
        measurements = match ranges.take(full, read, workers, cancel, observer) {
            Err(Error::Interrupted) => {
                sinks.keep()?;
                return Err(Error::Interrupted);
            }
            taken => taken?,
        };
        measurements.put(&plans[0], &mut sinks)?;
    }
    let wanted: Vec<usize> =
        (0..model.tensors.len()).filter(|position| sinks.is_wanted(*position)).collect();
    let weights = wanted.iter().map(|position| model.tensors[*position].shape.elements()).sum();
    observer.observe(Event::Started { job: "quantize", tensors: wanted.len(), weights });
    // What is outside of the layers goes at another pace.
    observer.observe(Event::At { part: "", number: 0, count: 0, steady: !asks });
    let work = sinks.remaining_work(model, plans, &measures, &options.convert.plan);
    let rows = Rows { model, plans, threads: options.convert.threads };
    let rest =
        work.into_iter().zip(wanted.iter().copied()).filter(|(_, position)| !chosen.has(*position));
    let mut rest = Rest::new(rows, rest, !chosen.is_empty(), cancel);
    let measures = &measures;
    let layers =
        Layers { backend, model, plans, measures, chosen: &chosen, options, workers, cancel };
    let [outside, in_layer] = rest.peak_memory();
    let mut memory_bound_bytes = outside;
    if let Some(forward) = forward.as_ref().filter(|_| asks) {
        let chunks = calibration.as_ref().map(|calibration| &calibration.chunks);
        let bound = layers.memory_bound(forward, chunks)? + in_layer;
        memory_bound_bytes = memory_bound_bytes.max(bound);
    } else if !chosen.is_empty() {
        memory_bound_bytes = memory_bound_bytes.max(layers.bound_alone() + in_layer);
    }
    if let (Some(full), Some(text)) = (&full, &calibration) {
        memory_bound_bytes = memory_bound_bytes.max(memory::bound_reading(full, &text.chunks)?);
    }
    observer.observe(Event::Memory { bound: memory_bound_bytes });
    let mut reports = Reports::default();
    let outcome = rest
        .encode(None, &mut sinks, observer)
        .and_then(|()| {
            let Some(forward) = &forward else {
                return layers.run_alone(&mut rest, &mut sinks, &mut reports, observer);
            };
            match (&calibration, &known) {
                (Some(calibration), _) => {
                    let chunks = calibration.chunks.clone();
                    let share = options.compute.share(streams);
                    let embedded = chosen.embedded(model, &plans[0], options);
                    let embedded = embedded.with_inputs(measurements.inputs(model, &plans[0]));
                    let embedded = model.forward(backend, &embedded, share)?;
                    layers.run(
                        (forward, &embedded),
                        chunks,
                        &mut rest,
                        &mut sinks,
                        &mut reports,
                        observer,
                    )
                }
                (None, Some(known)) => {
                    layers.run_known(forward, known, &mut rest, &mut sinks, &mut reports, observer)
                }
                (None, None) => Ok(()),
            }
        })
        .and_then(|()| rest.encode_all(&mut sinks, observer))
        .and_then(|()| check_unchanged(model, &options.convert.plan))
        .and_then(|()| {
            let text = calibration.as_ref().map(|calibration| &calibration.files);
            let statistics = known.as_ref().map(|known| &known.files);
            text.into_iter().chain(statistics).try_for_each(check_states)
        });
    match unless_cancelled(outcome, cancel) {
        Ok(()) => {
            let (mut artifacts, notes) = finish(sinks, model, outputs, plans, observer)?;
            let artifact = artifacts.remove(0);
            job.notes.extend(notes);
            let method = options.method_name();
            let folding = folded.map(|(_, summary)| summary);
            let calibration = calibration.map(|calibration| calibration.summary());
            let Reports { methods, experts } = reports;
            Ok(QuantizeReport {
                artifact,
                method,
                folding,
                calibration,
                memory_bound_bytes,
                experts,
                unseen_inputs: measurements.unseen,
                methods,
            })
        }
        Err(Error::Interrupted) => {
            sinks.keep()?;
            Err(Error::Interrupted)
        }
        Err(error) => Err(error),
    }
}
