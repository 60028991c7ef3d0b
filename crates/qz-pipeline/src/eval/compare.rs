//! Several models beside one reference, in one pass over the text.

use std::path::{Path, PathBuf};

use qz_eval::comparison::Position;
use qz_eval::statistics::{Comparison, PairedTest};
use qz_kernels::Workers;
use qz_kernels::backend::Backend;

use super::subjects::{Pass, Subject};
use super::text::TextOptions;
use super::{Scoring, open_all, same_text};
use crate::compute::{Computation, ComputeOptions};
use crate::error::Error;
use crate::event::Observer;
use crate::model::OpenOptions;
use crate::rounded_inputs::RoundedInputs;
use crate::stream::{Cancel, stoppable, unless_cancelled};

/// How models are compared.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// How models are read.
    pub open: OpenOptions,
    /// The text.
    pub text: TextOptions,
    /// How forward passes compute.
    pub compute: ComputeOptions,
}

/// Models beside their reference.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CompareReport {
    /// The text.
    pub data: PathBuf,
    /// Tokens of a chunk.
    pub context: usize,
    /// The reference; it is its own, too.
    pub reference: Compared,
    /// The others, as they were named.
    pub models: Vec<Compared>,
    /// Which of each two models is nearer to the reference.
    pub pairs: Vec<Pair>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Matrices whose inputs were rounded, as engines do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounded_inputs: Vec<RoundedInputs>,
}

/// One model.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Compared {
    /// Where it is.
    pub path: PathBuf,
    /// The bytes of its files.
    pub bytes: u64,
    /// Bits per weight over all tensors.
    pub bits_per_weight: f64,
    /// Tokens of the text that it took in a second.
    pub tokens_per_second: f64,
    /// No other model is both smaller and nearer to the reference.
    pub on_pareto_front: bool,
    /// The figures.
    #[serde(flatten)]
    pub comparison: Comparison,
}

/// Two models.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Pair {
    /// One.
    pub first: PathBuf,
    /// The other.
    pub second: PathBuf,
    /// Whether they differ.
    #[serde(flatten)]
    pub test: PairedTest,
}

/// Compares `models` with `reference`.
///
/// # Errors
/// If a model or the text cannot be read, the text is too short, the models know
/// different tokens, or a result is no number.
pub fn compare(
    reference: &Path,
    models: &[PathBuf],
    options: &CompareOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<CompareReport, Error> {
    options.compute.run(cancel, Comparing { reference, models, options, cancel, observer })
}

/// The work of [`compare`].
struct Comparing<'a> {
    reference: &'a Path,
    models: &'a [PathBuf],
    options: &'a CompareOptions,
    cancel: &'a Cancel,
    observer: &'a mut dyn Observer,
}

impl Computation for Comparing<'_> {
    type Output = CompareReport;

    fn run<B: Backend>(self, backend: &B, workers: &Workers) -> Result<CompareReport, Error> {
        let Self { reference, models, options, cancel, observer } = self;
        let plain = options.open.without_adapters();
        let others = models.iter().map(|path| (path.as_path(), &plain));
        let all: Vec<_> = [(reference, &options.open)].into_iter().chain(others).collect();
        let subjects = open_all(&all, cancel)?;
        let text = same_text(&subjects, &options.text, cancel)?;
        for subject in &subjects {
            subject.model.check_context(text.context(), observer);
        }
        let pass = Pass {
            job: "compare",
            text: &text,
            overlapping: options.text.stride.is_some(),
            compute: &options.compute,
            backend,
        };
        let scoring = Scoring { path: reference, text: &text, workers, file: None, saving: None };
        let mut positions: Vec<Vec<Position>> = vec![Vec::new(); subjects.len()];
        let outcome = pass.run(&subjects, cancel, observer, |tiles| {
            for (positions, tile) in positions.iter_mut().zip(tiles) {
                positions.extend(scoring.beside(tile, &tiles[0]));
            }
            Ok(())
        });
        let times = unless_cancelled(outcome, cancel)?;
        let tokens = (text.chunks() * text.context()) as f64;
        let mut compared: Vec<Compared> = Vec::new();
        for ((subject, positions), time) in subjects.iter().zip(&positions).zip(&times) {
            subject.model.check_unchanged()?;
            compared.push(Compared {
                path: subject.model.path.clone(),
                bytes: file_bytes(subject),
                bits_per_weight: subject.model.bits_per_weight(),
                tokens_per_second: tokens / time.as_secs_f64(),
                on_pareto_front: false,
                comparison: stoppable(cancel, || Ok(Comparison::of(positions, text.chunks())))?,
            });
        }
        mark_pareto_front(&mut compared);
        let pairs = pairs(&compared[1..], &positions[1..], text.chunks(), cancel)?;
        let reference = compared.remove(0);
        Ok(CompareReport {
            data: options.text.data.path().to_owned(),
            context: text.context(),
            reference,
            models: compared,
            pairs,
            rounded_inputs: options.compute.rounded_inputs(subjects.iter().map(|own| &own.model)),
            warnings: subjects.into_iter().flat_map(|subject| subject.model.warnings).collect(),
        })
    }
}

fn file_bytes(subject: &Subject) -> u64 {
    subject.model.source.files().iter().map(|file| file.len()).sum()
}

/// A model is on the front unless another is at least as small and as near, and not
/// the same in both.
fn mark_pareto_front(models: &mut [Compared]) {
    let figures: Vec<(u64, f64)> =
        models.iter().map(|model| (model.bytes, model.comparison.kld.mean.value)).collect();
    for (model, (bytes, divergence)) in models.iter_mut().zip(&figures) {
        let beaten = figures.iter().any(|(other_bytes, other)| {
            other_bytes <= bytes
                && other <= divergence
                && (other_bytes < bytes || other < divergence)
        });
        model.on_pareto_front = !beaten;
    }
}

fn pairs(
    models: &[Compared],
    positions: &[Vec<Position>],
    chunks: usize,
    cancel: &Cancel,
) -> Result<Vec<Pair>, Error> {
    let mut pairs = Vec::new();
    for (second, model) in models.iter().enumerate() {
        for first in 0..second {
            let test = || PairedTest::of(&positions[first], &positions[second], chunks);
            let test = stoppable(cancel, || Ok(test()))?;
            let [first, second] = [&models[first].path, &model.path];
            pairs.push(Pair { first: first.clone(), second: second.clone(), test });
        }
    }
    Ok(pairs)
}
