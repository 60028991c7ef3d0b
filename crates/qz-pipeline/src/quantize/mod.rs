//! `quantize`: a model to files whose values a method chose, knowing what each matrix
//! multiplies.
//!
//! The plan is that of `convert`. Matrices of decoder layers go layer by layer: their
//! inputs are captured, behind the matrices that are quantized already; they are
//! quantized, replaced in the stream of hidden states, and the next ones follow. Each
//! target has its own stream. Everything else is encoded row by row, as `convert` does.
//!
//! A run that was killed is continued: matrices that an output has are read back and
//! replaced in the stream, so that the hidden states, and all later bytes, are the same.

mod capture;
mod known;
mod layers;
mod packed;
mod plan;
mod report;

use std::path::PathBuf;

use qz_methods::{Method, Needs, Options};
use qz_models::forward::Forward;
use rayon::prelude::*;

pub use capture::CalibrationSummary;
pub use report::{MethodTensor, QuantizeReport};

use crate::calibrate::DataOptions;
use crate::convert::{ConvertOptions, Output, Rows, check_unchanged, finish, measured};
use crate::error::Error;
use crate::eval::ComputeOptions;
use crate::event::{Event, Observer};
use crate::model::Model;
use crate::model_weights::ModelWeights;
use crate::planning::plan_all;
use crate::sinks::Sinks;
use crate::stream::{Cancel, Work};
use capture::Calibration;
use known::Known;
use layers::Layers;
use plan::Chosen;

/// How to quantize.
#[derive(Clone)]
pub struct QuantizeOptions {
    /// How outputs are planned and written.
    pub convert: ConvertOptions,
    /// What chooses values.
    pub method: &'static dyn Method,
    /// What it is told.
    pub options: Options,
    /// What the model reads meanwhile; may be left out where the method needs nothing.
    pub text: Option<DataOptions>,
    /// Statistics that an earlier run collected, instead of a text.
    pub statistics: Option<PathBuf>,
    /// How the forward pass computes.
    pub compute: ComputeOptions,
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
    for warning in model.warnings() {
        observer.observe(Event::Warning(warning));
    }
    outputs.iter().map(|output| one(model, output, options, cancel, observer)).collect()
}

fn one(
    model: &Model,
    output: &Output,
    options: &QuantizeOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<QuantizeReport, Error> {
    let planning = plan_all(model, std::slice::from_ref(&output.target), &options.convert.plan)?;
    for warning in &planning.warnings {
        observer.observe(Event::Warning(warning));
    }
    let plans = &planning.targets;
    let backend = options.compute.backend()?;
    let weights = ModelWeights::new(model);
    let forward = match options.method.needs() {
        Needs::Nothing => None,
        _ => {
            let (window, share) = (model.sliding_window, options.compute.share(1));
            Some(Forward::new(&backend, &weights, &model.metadata, window, share)?)
        }
    };
    let chosen = match &forward {
        Some(forward) => Chosen::of(forward, model, output, &plans[0])?,
        None => Chosen::default(),
    };
    let uncovered: Vec<_> = planning
        .uncovered
        .iter()
        .filter(|uncovered| !chosen.holds(model, &uncovered.tensor))
        .cloned()
        .collect();
    if !uncovered.is_empty() {
        return Err(Error::MissingImportance(uncovered));
    }
    let (mut calibration, mut known) = (None, None);
    match (&options.statistics, &options.text) {
        _ if chosen.is_empty() => {}
        (Some(path), _) => known = Some(Known::open(path)?),
        (None, Some(text)) => calibration = Some(Calibration::read(model, text, observer)?),
        (None, None) => return Err(Error::NoText),
    }
    let recipe = report::recipe(options, calibration.as_ref(), known.as_ref());
    let outputs = std::slice::from_ref(output);
    let sinks = Sinks::create(model, outputs, plans, &options.convert, &recipe, observer)?;
    let threads = options.convert.threads;
    let (mut sinks, measures) = measured(model, plans, sinks, threads, cancel, observer)?;

    let wanted: Vec<usize> =
        (0..model.tensors.len()).filter(|position| sinks.is_wanted(*position)).collect();
    let weights = wanted.iter().map(|position| model.tensors[*position].shape.elements()).sum();
    observer.observe(Event::Started { job: "quantize", tensors: wanted.len(), weights });
    let work = sinks.remaining_work(model, plans, &measures, &options.convert.plan);
    let (rest, positions): (Vec<Work<'_>>, Vec<usize>) = work
        .into_iter()
        .zip(&wanted)
        .filter(|(_, position)| !chosen.has(**position))
        .map(|(work, position)| (work, *position))
        .unzip();
    let rows = Rows { model, plans, threads: options.convert.threads };
    let mut tensors = Vec::new();
    let outcome = rows
        .encode(&mut sinks, &rest, &positions, cancel, observer)
        .and_then(|()| {
            let Some(forward) = &forward else { return Ok(()) };
            let (measures, backend, chosen) = (&measures, &backend, &chosen);
            let layers = Layers { model, plans, measures, chosen, options, backend, cancel };
            match (&calibration, &known) {
                (Some(calibration), _) => {
                    let chunks = calibration.chunks.clone();
                    layers.run(forward, chunks, &mut sinks, &mut tensors, observer)
                }
                (None, Some(known)) => {
                    layers.run_known(forward, known, &mut sinks, &mut tensors, observer)
                }
                (None, None) => Ok(()),
            }
        })
        .and_then(|()| check_unchanged(model, &options.convert.plan));
    match outcome {
        Ok(()) => {
            let artifact = finish(sinks, model, outputs, plans, observer)?.remove(0);
            let method = options.method.name();
            let calibration = calibration.map(|calibration| calibration.summary());
            Ok(QuantizeReport { artifact, method, calibration, methods: tensors })
        }
        Err(Error::Interrupted) => {
            sinks.keep()?;
            Err(Error::Interrupted)
        }
        Err(error) => Err(error),
    }
}

/// The sum of each column's squares, added to `sums`.
fn add_squares(sums: &mut [f64], rows: &[f32]) {
    const COLUMNS: usize = 256;
    let width = sums.len();
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(part, sums)| {
        for row in rows.chunks(width) {
            for (sum, value) in sums.iter_mut().zip(&row[part * COLUMNS..]) {
                *sum += f64::from(*value) * f64::from(*value);
            }
        }
    });
}
