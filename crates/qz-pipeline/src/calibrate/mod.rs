//! `calibrate`: what a model's matrices multiply when it reads a text, as statistics in a
//! file; and such files added to each other.

mod beside;
mod data;
mod experts;
mod job;
mod layout;
mod lines;
mod parquet;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use qz_calib::summary::{LayerSummary, TensorSummary, summarize, summarize_layers};
use qz_calib::{ImportanceSums, StatisticsFile};
use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_tensor::{FileStates, OutputOptions, SourceFile};
use sha2::{Digest, Sha256};

pub(crate) use data::read as read_data;
pub use data::{CalibrationData, Conversations, DataOptions, DataPart};
pub(crate) use experts::inputs_of_all;
pub use experts::{ExpertCoverage, ExpertOptions};
pub(crate) use layout::Group;
pub use parquet::each_row as each_parquet_row;

use crate::compute::{Computation, ComputeOptions};
use crate::convert::check_states;
use crate::error::Error;
use crate::eval::{Steps, Subject};
use crate::event::{Event, Observer};
use crate::inputs::Inputs;
use crate::model::{Model, OpenOptions};
use crate::model_weights::ModelWeights;
use crate::sinks::warn_of_damage;
use crate::statistics::Streams;
use crate::stream::{Cancel, stoppable, unless_cancelled};
use beside::Quantized;
use job::Job;
use layout::File;

/// What is to be collected, and on what.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// How the model is read.
    pub open: OpenOptions,
    /// The text.
    pub data: DataOptions,
    /// How the forward pass computes.
    pub compute: ComputeOptions,
    /// What is collected besides sums of squares.
    pub collect: Collect,
    /// A quantized model that reads the text beside the full one: statistics are of its
    /// inputs, and of what it lacks.
    pub beside: Option<PathBuf>,
    /// The inputs of the output matrix, too, if it has weights of its own.
    pub output_matrix: bool,
    /// Which inputs count as an expert's.
    pub experts: ExpertOptions,
    /// Files whose sums are added.
    pub add: Vec<PathBuf>,
    /// Go on from the output, which is there already: its chunks are passed over, and
    /// its sums added.
    pub resume: bool,
    /// The kind of file to write.
    pub format: StatisticsFormat,
    /// How the output is written.
    pub output: OutputOptions,
}

impl CalibrateOptions {
    fn check(&self, output: &Path) -> Result<(), Error> {
        if self.format == StatisticsFormat::Legacy && self.collect != Collect::default() {
            return Err(Error::LegacyFormat(output.to_owned()));
        }
        if self.collect.grams && (self.resume || !self.add.is_empty()) {
            return Err(Error::GramsInParts(output.to_owned()));
        }
        if self.beside.is_some() && !self.collect.grams {
            return Err(Error::BesideWithoutGrams);
        }
        Ok(())
    }
}

/// What is collected besides sums of squares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collect {
    /// Sums of magnitudes.
    pub magnitudes: bool,
    /// Gram matrices of each group of matrices that share inputs.
    pub grams: bool,
    /// How often each token was in the text.
    pub tokens: bool,
}

/// The two kinds of importance matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatisticsFormat {
    /// GGUF; the only one with room for more than sums of squares.
    #[default]
    Gguf,
    /// The one before that.
    Legacy,
}

/// What was collected.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Calibration {
    /// The model.
    pub path: PathBuf,
    /// The file that was written.
    pub output: PathBuf,
    /// The text's parts, and what each gave.
    pub data: Vec<DataPart>,
    /// Tokens of a chunk.
    pub context: usize,
    /// Chunks that were seen in this run.
    pub chunks: usize,
    /// Chunks in the file, with those of files that were added.
    pub chunks_in_all: u32,
    /// Matrices in the file.
    pub tensors: usize,
    /// How many tokens each expert was given, layer by layer; nothing for a model without
    /// experts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<ExpertCoverage>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Collects statistics of the model at `path` into the file `output`.
///
/// # Errors
/// If the model or the text cannot be read, the text is too short, the chat template
/// refuses it, a result is no number, or the file cannot be written.
pub fn calibrate(
    path: &Path,
    output: &Path,
    options: &CalibrateOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<Calibration, Error> {
    options.compute.run(cancel, Calibrating { path, output, options, cancel, observer })
}

/// The work of [`calibrate`].
struct Calibrating<'a> {
    path: &'a Path,
    output: &'a Path,
    options: &'a CalibrateOptions,
    cancel: &'a Cancel,
    observer: &'a mut dyn Observer,
}

impl Computation for Calibrating<'_> {
    type Output = Calibration;

    fn run<B: Backend>(self, backend: &B, workers: &Workers) -> Result<Calibration, Error> {
        let Self { path, output, options, cancel, observer } = self;
        // A run that goes on reads its output, too.
        let models = Inputs::default().with_model(path);
        let models = options.beside.iter().fold(models, |inputs, path| inputs.with_model(path));
        let inputs = models.with_files(options.data.paths());
        inputs.with_files(options.add.iter().map(PathBuf::as_path)).check(output)?;
        let subject = Subject::open(path, &options.open, cancel)?;
        let model = &subject.model;
        let weights = ModelWeights::new(model);
        let models = 1 + usize::from(options.beside.is_some());
        let share = options.compute.share(models);
        let forward = model.forward(backend, &weights, share)?;
        let beside = options.beside.as_deref().map(|path| Model::open(path, &options.open));
        let beside = beside.transpose()?;
        let quantized = beside.as_ref().map(|beside| (beside, ModelWeights::new(beside)));
        let quantized = quantized.as_ref().map(|(beside, own)| {
            let share = options.compute.share(models);
            Quantized::open(backend, beside, [&weights, own], share, (model, &forward))
        });
        let quantized = quantized.transpose()?;

        options.check(output)?;
        let chunk_size = u32::try_from(options.data.context).unwrap_or(u32::MAX);
        let mut earlier = ImportanceSums::default();
        let mut added = FileStates::default();
        let previous = options.resume.then(|| output.to_owned());
        for file in previous.iter().chain(&options.add) {
            added.note(&SourceFile::open(file)?);
            refuse_grams(file)?;
            earlier.add_file(file, chunk_size)?;
        }
        let skipped = if options.resume { earlier.chunks(chunk_size) as usize } else { 0 };
        let read = || data::read(&options.data, model, &subject.tokenizer, skipped);
        let text = stoppable(cancel, read)?;
        model.check_context(options.data.context, observer);
        let mut warnings = model.warnings.clone();
        warnings.extend(text.warnings);
        warnings.extend(model.uncomputed_layers(forward.graph().layer_count()));

        let groups = Group::of_model(&forward, options.output_matrix)?;
        let identity = identity(model, beside.as_ref(), text.chunks.tokens());
        let vocabulary = forward.vocabulary()?;
        let mut job = Job {
            options,
            workers,
            cancel,
            file: File::new(
                output,
                &groups,
                &earlier,
                options,
                &text.chunks,
                &identity,
                (vocabulary, beside.as_ref().map(Model::bits_per_weight)),
            )?,
            coverage: Vec::new(),
            warnings,
        };
        let (chunks, context) = (text.chunks.count(), text.chunks.length());
        observer.observe(Event::Reading { chunks, context });
        let steps = forward.stream_steps(&text.chunks);
        if job.file.finished() > 0 {
            observer.observe(Event::Resumed { path: output, tensors: job.file.finished() });
        }
        warn_of_damage(output, &job.file.damaged(), observer);
        let mut progress = Steps::begin("calibrate", [model], steps, cancel, observer);

        let (computed, full) = match &quantized {
            None => (&forward, None),
            Some(quantized) => (&quantized.forward, Some(&forward)),
        };
        let routing = options.experts.routing();
        let run = Streams::begin(full, computed, &text.chunks, routing)
            .and_then(|streams| job.run(streams, quantized.as_ref(), &groups, &mut progress));
        let run = unless_cancelled(run, cancel);
        if matches!(run, Err(Error::Interrupted)) {
            job.file.keep()?;
            return Err(Error::Interrupted);
        }
        run?;
        if options.collect.tokens {
            job.file.put_token_counts(vocabulary, text.chunks.tokens())?;
        }
        let (chunks_in_all, tensors) = (job.file.chunks(), job.file.entries());
        model.check_unchanged()?;
        beside.iter().try_for_each(Model::check_unchanged)?;
        [&added, &text.files].into_iter().try_for_each(check_states)?;
        let bytes = job.file.finish()?;
        observer.observe(Event::Written { path: output, bytes });
        Ok(Calibration {
            path: path.to_owned(),
            output: output.to_owned(),
            data: text.parts,
            context: options.data.context,
            chunks: text.chunks.count(),
            chunks_in_all,
            tensors,
            experts: job.coverage,
            warnings: job.warnings,
        })
    }
}

/// What tells models and text from others.
fn identity(model: &Model, beside: Option<&Model>, tokens: &[u32]) -> String {
    let mut text = model.identity();
    text.extend(beside.map(Model::identity));
    let mut digest = Sha256::new();
    tokens.iter().for_each(|token| digest.update(token.to_le_bytes()));
    let _ = write!(text, "{:x}", digest.finalize());
    text
}

/// Sums of products have no place in what files are added to: fails before they are lost.
fn refuse_grams(file: &Path) -> Result<(), Error> {
    // Whoever reads its sums reports a file that is none.
    match StatisticsFile::open(file) {
        Ok(statistics) if statistics.has_grams() => Err(Error::GramsInParts(file.to_owned())),
        _ => Ok(()),
    }
}

/// Adds files to each other.
///
/// # Errors
/// If one cannot be read, they belong to different models, or the output cannot be
/// written.
pub fn merge_statistics(
    files: &[PathBuf],
    output: &Path,
    chunk_size: u32,
    format: StatisticsFormat,
    replace: bool,
) -> Result<MergedStatistics, Error> {
    Inputs::default().with_files(files.iter().map(PathBuf::as_path)).check(output)?;
    let mut sums = ImportanceSums::default();
    let mut added = FileStates::default();
    for file in files {
        added.note(&SourceFile::open(file)?);
        refuse_grams(file)?;
        sums.add_file(file, chunk_size)?;
    }
    check_states(&added)?;
    let options = OutputOptions::default().replacing(replace);
    match format {
        StatisticsFormat::Gguf => sums.write_gguf(output, chunk_size, options)?,
        StatisticsFormat::Legacy => sums.write_legacy(output, chunk_size, options).map(drop)?,
    }
    Ok(MergedStatistics {
        output: output.to_owned(),
        files: files.to_vec(),
        chunks: sums.chunks(chunk_size),
        tensors: sums.tensors.len(),
        datasets: sums.datasets,
    })
}

/// Files that were added to each other.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MergedStatistics {
    /// The file that was written.
    pub output: PathBuf,
    /// The files.
    pub files: Vec<PathBuf>,
    /// Chunks in all of them.
    pub chunks: u32,
    /// Matrices.
    pub tensors: usize,
    /// The texts that they are of.
    pub datasets: Vec<String>,
}

/// What a file says about a model's activations.
#[derive(Clone, Debug)]
pub struct StatisticsSummary {
    /// Every matrix.
    pub tensors: Vec<TensorSummary>,
    /// Every layer.
    pub layers: Vec<LayerSummary>,
}

/// Sums up a file, as llama-imatrix does.
///
/// # Errors
/// If it cannot be read.
pub fn show_statistics(path: &Path) -> Result<StatisticsSummary, Error> {
    let mut sums = ImportanceSums::default();
    sums.add_file(path, 512)?;
    let tensors = summarize(&sums);
    let layers = summarize_layers(&tensors);
    Ok(StatisticsSummary { tensors, layers })
}
