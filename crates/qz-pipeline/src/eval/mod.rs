//! `eval`: how well a model predicts a text, and how far it is from a reference.
//! How many tasks it gets right, what it writes itself. `compare`: several models beside one reference.

mod compare;
mod embeddings;
mod reference;
mod sample;
pub(crate) mod subjects;
mod tasks;
mod text;

use std::path::{Path, PathBuf};

use qz_eval::comparison::{Position, Reference};
use qz_eval::log_probability::LogSoftmax;
use qz_eval::similarity::Similarity;
use qz_eval::statistics::{Comparison, Perplexity};
use qz_eval::text::Text;
use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_models::forward::LogitsTile;
use qz_tensor::{Artifact, OutputOptions, StagedArtifact};
use rayon::prelude::*;

pub use compare::{CompareOptions, CompareReport, Compared, Pair, compare};
pub use reference::{ReferenceOptions, SaveOptions};
pub use sample::{Ending, Sample, SampleOptions, sample};
pub use tasks::{FewShot, TaskEvaluation, TaskOptions, eval_tasks};
pub use text::{EvalData, TextOptions};

use crate::compute::{Computation, ComputeOptions};
use crate::error::Error;
use crate::event::Observer;
use crate::inputs::Inputs;
use crate::model::OpenOptions;
use crate::rounded_inputs::RoundedInputs;
use crate::stream::{Cancel, stoppable, unless_cancelled};
use reference::{ReferenceFile, Saving};
use subjects::Pass;
pub(crate) use subjects::{Steps, Subject};
pub(crate) use text::{read_file, read_token_ids};

/// What is to be evaluated, and how.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// How models are read.
    pub open: OpenOptions,
    /// The text; a reference's file brings its own.
    pub text: Option<TextOptions>,
    /// What the model is compared with.
    pub reference: Option<ReferenceOptions>,
    /// Where the model's probabilities are to be kept.
    pub save: Option<SaveOptions>,
    /// Replace that file if it exists.
    pub replace: bool,
    /// How forward passes compute.
    pub compute: ComputeOptions,
    /// What the figures must not exceed.
    pub thresholds: Thresholds,
}

impl EvalOptions {
    /// Fails early if the file that is to be kept is one of those that are read, or is there.
    fn check_output(&self, model: &Path) -> Result<(), Error> {
        let Some(SaveOptions::Logits(output) | SaveOptions::Leading(output)) = &self.save else {
            return Ok(());
        };
        let mut inputs = Inputs::default().with_model(model);
        inputs = inputs.with_files(self.text.as_ref().map(|text| text.data.path()));
        inputs = match &self.reference {
            Some(ReferenceOptions::Model(path)) => inputs.with_model(path),
            Some(ReferenceOptions::File(path)) => inputs.with_file(path),
            None => inputs,
        };
        inputs.check(output)?;
        let options = OutputOptions::default().replacing(self.replace);
        Ok(StagedArtifact::check(&Artifact::file(output, 0), options)?)
    }
}

/// What passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Thresholds {
    /// The largest perplexity.
    pub max_perplexity: Option<f64>,
    /// The largest mean KL divergence.
    pub max_divergence: Option<f64>,
    /// The smallest share of equal top tokens.
    pub min_same_top: Option<f64>,
    /// The smallest mean cosine of an encoder's vectors of texts and its reference's.
    pub min_cosine: Option<f64>,
}

/// How well a model predicts a text.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Evaluation {
    /// The model.
    pub path: PathBuf,
    /// The text, or the file that names its tokens.
    pub data: PathBuf,
    /// The reference, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<PathBuf>,
    /// Tokens of a chunk.
    pub context: usize,
    /// False if a threshold is not held.
    pub passed: bool,
    /// The thresholds that are not held.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// Matrices whose inputs were rounded, as engines do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounded_inputs: Vec<RoundedInputs>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(untagged)]
pub enum Figures {
    /// Of a model alone.
    Alone(Perplexity),
    /// Of a model and its reference.
    Compared(Box<Comparison>),
    /// Of an encoder and its reference.
    Similar(Box<Similarity>),
}

/// Evaluates the model at `path`.
///
/// # Errors
/// If a model or the text cannot be read, the text is too short, model and reference
/// know different tokens, or a result is no number.
pub fn eval(
    path: &Path,
    options: &EvalOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<Evaluation, Error> {
    options.compute.run(cancel, Evaluating { path, options, cancel, observer })
}

/// The work of [`eval`].
struct Evaluating<'a> {
    path: &'a Path,
    options: &'a EvalOptions,
    cancel: &'a Cancel,
    observer: &'a mut dyn Observer,
}

impl Computation for Evaluating<'_> {
    type Output = Evaluation;

    fn run<B: Backend>(self, backend: &B, workers: &Workers) -> Result<Evaluation, Error> {
        let Self { path, options, cancel, observer } = self;
        options.check_output(path)?;
        let plain = options.open.without_adapters();
        let (mut models, mut file, mut reference) = (vec![(path, &options.open)], None, None);
        match &options.reference {
            None => {}
            Some(ReferenceOptions::Model(path)) => {
                models.insert(0, (path, &plain));
                reference = Some(path.clone());
            }
            Some(ReferenceOptions::File(path)) => {
                file = Some(ReferenceFile::open(path)?);
                reference = Some(path.clone());
            }
        }
        let subjects = open_all(&models, cancel)?;
        if let (Some(file), Some(subject)) = (&file, subjects.first()) {
            file.check_vocabulary(&subject.model)?;
        }
        let text = match (&file, &options.text) {
            (Some(file), _) => file.read_text()?,
            (None, Some(text)) => same_text(&subjects, text, cancel)?,
            (None, None) => return Err(Error::NoText),
        };
        for subject in &subjects {
            subject.model.check_context(text.context(), observer);
        }
        let overlapping =
            file.is_none() && options.text.as_ref().is_some_and(|t| t.stride.is_some());
        let compute = &options.compute;
        let pass = Pass { job: "eval", text: &text, overlapping, compute, backend };
        let similarity = pass.similarity(&subjects, options, cancel, observer);
        let figures = match unless_cancelled(similarity, cancel)? {
            Some(found) => Figures::Similar(Box::new(found)),
            None => {
                let file = file.as_ref();
                let scoring = Scoring { path, text: &text, workers, file, saving: None };
                scoring.figures(&pass, &subjects, options, cancel, observer)?
            }
        };
        for subject in &subjects {
            subject.model.check_unchanged()?;
        }
        let failures = options.thresholds.failures(&figures);
        let data = match (&options.reference, &options.text) {
            (Some(ReferenceOptions::File(path)), _) => path.clone(),
            (_, text) => text.as_ref().map(|text| text.data.path().to_owned()).unwrap_or_default(),
        };
        Ok(Evaluation {
            path: path.to_owned(),
            data,
            reference,
            context: text.context(),
            passed: failures.is_empty(),
            failures,
            figures,
            rounded_inputs: compute.rounded_inputs(subjects.iter().map(|own| &own.model)),
            warnings: subjects.into_iter().flat_map(|subject| subject.model.warnings).collect(),
        })
    }
}

fn open_all(models: &[(&Path, &OpenOptions)], cancel: &Cancel) -> Result<Vec<Subject>, Error> {
    models.iter().map(|(path, options)| Subject::open(path, options, cancel)).collect()
}

/// The text in the tokens of all subjects, which have to be the same.
fn same_text(subjects: &[Subject], options: &TextOptions, cancel: &Cancel) -> Result<Text, Error> {
    let text = options.read(&subjects[0].tokenizer, cancel)?;
    for subject in &subjects[1..] {
        if options.read(&subject.tokenizer, cancel)? != text {
            let [path, reference] = [&subject.model.path, &subjects[0].model.path];
            return Err(Error::Tokens { path: path.clone(), reference: reference.clone() });
        }
    }
    Ok(text)
}

/// Turns logits into figures.
struct Scoring<'a> {
    path: &'a Path,
    text: &'a Text,
    workers: &'a Workers,
    file: Option<&'a ReferenceFile>,
    saving: Option<Saving>,
}

impl Scoring<'_> {
    /// Puts the text through the models, of which the reference comes first, if there is one.
    fn figures<B: Backend>(
        mut self,
        pass: &Pass<'_, B>,
        subjects: &[Subject],
        options: &EvalOptions,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Figures, Error> {
        let (mut alone, mut compared) = (Vec::new(), Vec::new());
        let outcome = pass.run(subjects, cancel, observer, |tiles| {
            let (tile, before) = tiles.split_last().expect("there is a model");
            self.save(options, tile)?;
            match before.first() {
                Some(reference) => compared.extend(self.beside(tile, reference)),
                None if self.file.is_some() => compared.extend(self.beside_file(tile)?),
                None => alone.extend(self.scores(tile)),
            }
            Ok(())
        });
        unless_cancelled(outcome, cancel)?;
        for subject in subjects {
            subject.model.check_unchanged()?;
        }
        if let Some(saving) = self.saving {
            saving.finish()?;
        }
        let chunks = self.text.chunks();
        stoppable(cancel, || {
            Ok(match options.reference {
                Some(_) => Figures::Compared(Box::new(Comparison::of(&compared, chunks))),
                None => Figures::Alone(Perplexity::of(&alone, chunks)),
            })
        })
    }

    fn save(&mut self, options: &EvalOptions, tile: &LogitsTile) -> Result<(), Error> {
        let Some(save) = &options.save else { return Ok(()) };
        if self.saving.is_none() {
            let vocabulary = width(tile);
            self.saving = Some(Saving::create(save, self.text, vocabulary, options.replace)?);
        }
        match &mut self.saving {
            Some(saving) => saving.write(self.text, tile.rows.clone(), &tile.values),
            None => Ok(()),
        }
    }

    /// The negative log-likelihood of each row's next token.
    fn scores(&self, tile: &LogitsTile) -> Vec<f64> {
        self.rows(tile, |row, logits| {
            let next = self.text.next_token(row) as usize;
            // A model that does not know the token gives it no probability.
            let logit = logits.get(next).copied().unwrap_or(f32::NEG_INFINITY);
            -LogSoftmax::of(logits).log_probability(logit)
        })
    }

    fn beside(&self, tile: &LogitsTile, reference: &LogitsTile) -> Vec<Position> {
        let width = width(reference);
        self.rows(tile, |row, logits| {
            let start = (row - reference.rows.start) * width;
            let reference = Reference::Logits(&reference.values[start..][..width]);
            Position::compare(logits, reference, self.text.next_token(row) as usize)
        })
    }

    fn beside_file(&self, tile: &LogitsTile) -> Result<Vec<Position>, Error> {
        let Some(file) = self.file else { return Ok(Vec::new()) };
        let (found, expected) = (width(tile), file.vocabulary());
        if found != expected {
            return Err(Error::Vocabulary { path: self.path.to_owned(), found, expected });
        }
        let positions = self.rows(tile, |row, logits| {
            let next = self.text.next_token(row) as usize;
            Ok(match file {
                ReferenceFile::Logits(file) => {
                    let record = file.read(row)?;
                    Position::compare(logits, Reference::Levels(record.as_levels()), next)
                }
                ReferenceFile::Leading(file) => {
                    Position::compare(logits, Reference::Leading(&file.read(row)?), next)
                }
            })
        });
        positions.into_iter().collect()
    }

    /// What `figure` makes of each row and its logits, on all threads.
    fn rows<T: Send>(
        &self,
        tile: &LogitsTile,
        figure: impl Fn(usize, &[f32]) -> T + Sync,
    ) -> Vec<T> {
        let rows = tile.values.par_chunks_exact(width(tile).max(1)).enumerate();
        let figures = rows.map(|(row, logits)| figure(tile.rows.start + row, logits));
        self.workers.install(|| figures.collect())
    }
}

/// Tokens of the vocabulary.
fn width(tile: &LogitsTile) -> usize {
    tile.values.len() / tile.rows.len().max(1)
}

impl Thresholds {
    fn failures(&self, figures: &Figures) -> Vec<String> {
        let mut failures = Vec::new();
        // A NaN exceeds every limit.
        let exceeds = |value: f64, limit: f64| value > limit || value.is_nan();
        let perplexity = match figures {
            Figures::Alone(found) => Some(found.perplexity.value),
            Figures::Compared(found) => Some(found.perplexity.value),
            Figures::Similar(_) => None,
        };
        if let (Some(perplexity), Some(limit)) = (perplexity, self.max_perplexity)
            && exceeds(perplexity, limit)
        {
            failures.push(format!("perplexity {perplexity:.4} > {limit} (--max-ppl)"));
        }
        if let Figures::Compared(found) = figures {
            // What may be larger than allowed is not allowed.
            let divergence = found.kld_upper.as_ref().unwrap_or(&found.kld).mean.value;
            if let Some(limit) = self.max_divergence.filter(|limit| exceeds(divergence, *limit)) {
                failures.push(format!("mean KL divergence {divergence:.6} > {limit} (--max-kld)"));
            }
            let same_top = found.same_top.value;
            if let Some(limit) = self.min_same_top.filter(|limit| exceeds(-same_top, -limit)) {
                let (found, limit) = (100.0 * same_top, 100.0 * limit);
                failures.push(format!("top-1 agreement {found:.3} % < {limit} % (--min-top1)"));
            }
        }
        if let Figures::Similar(found) = figures {
            let cosine = found.cosine.mean.value;
            if let Some(limit) = self.min_cosine.filter(|limit| exceeds(-cosine, -limit)) {
                failures.push(format!("mean cosine {cosine:.6} < {limit} (--min-cosine)"));
            }
        }
        failures
    }
}
