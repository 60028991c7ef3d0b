//! `eval`: how well a model foretells a text.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use qz_eval::log_probability::LogSoftmax;
use qz_eval::statistics::Perplexity;
use qz_eval::text::Text;
use qz_kernels::backend::{CpuBackend, Rounding};
use qz_models::forward::{Chunks, Forward, ForwardOptions, LogitsTile};
use qz_tensor::{DataType, FileError, Location, SourceFile};
use qz_tokenize::{EncodeOptions, Tokenizer};
use rayon::prelude::*;

use crate::error::Error;
use crate::event::{Event, Observer};
use crate::model::{Model, OpenOptions, to_usize};
use crate::model_weights::ModelWeights;
use crate::stream::Cancel;

/// The text to score.
#[derive(Clone, Debug)]
pub enum EvalData {
    /// Text in UTF-8.
    Text(PathBuf),
    /// Token ids, divided by anything that is no digit.
    Tokens(PathBuf),
}

impl EvalData {
    fn path(&self) -> &Path {
        match self {
            Self::Text(path) | Self::Tokens(path) => path,
        }
    }
}

/// What is to be evaluated, and how.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// How the model is read.
    pub open: OpenOptions,
    /// The text.
    pub data: EvalData,
    /// Tokens of a chunk.
    pub context: usize,
    /// The most chunks.
    pub chunks: Option<usize>,
    /// Tokens between overlapping chunks.
    pub stride: Option<usize>,
    /// What becomes of activations before products.
    pub rounding: Rounding,
    /// The type keys and values are kept in.
    pub cache_type: DataType,
    /// Memory for everything whose size can be chosen, in bytes.
    pub max_memory: u64,
    /// Where hidden states go that do not fit.
    pub spill_folder: PathBuf,
    /// Threads.
    pub threads: usize,
    /// The largest perplexity that passes.
    pub max_perplexity: Option<f64>,
}

/// How well a model foretells a text.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Evaluation {
    /// The model.
    pub path: PathBuf,
    /// The text.
    pub data: PathBuf,
    /// Tokens of a chunk.
    pub context: usize,
    /// False if a threshold is not held.
    pub passed: bool,
    /// The figures.
    #[serde(flatten)]
    pub perplexity: Perplexity,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Evaluates the model at `path`.
///
/// # Errors
/// If the model or the text cannot be read, the text is too short, or a result is no
/// number.
pub fn eval(
    path: &Path,
    options: &EvalOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<Evaluation, Error> {
    let model = Model::open(path, &options.open)?;
    let tokenizer = Tokenizer::from_metadata(&model.metadata).map_err(qz_models::Error::from)?;
    let tokens = read_tokens(&options.data, &tokenizer)?;
    let text = match options.stride {
        None => Text::new(&tokens, options.context, options.chunks)?,
        Some(stride) => Text::overlapping(&tokens, options.context, stride, options.chunks)?,
    };
    let backend =
        CpuBackend::new(options.threads).map_err(|error| Error::Threads(error.to_string()))?;
    let weights = ModelWeights::new(&model);
    let compute = ForwardOptions {
        rounding: options.rounding,
        cache_type: options.cache_type,
        max_memory: options.max_memory,
        spill_folder: options.spill_folder.clone(),
    };
    let forward = Forward::new(&backend, &weights, &model.metadata, model.sliding_window, compute)?;
    // With a stride the reference sets it too late to have an effect.
    let adds = tokenizer.adds_bos() && options.stride.is_none();
    let first = tokenizer.bos().filter(|_| adds).map(|token| token.0);
    let job = Job { model: &model, backend: &backend, forward: &forward, text: &text };
    let perplexity = job.perplexity(first, cancel, observer)?;
    model.check_unchanged()?;
    let value = perplexity.perplexity.value;
    Ok(Evaluation {
        path: path.to_owned(),
        data: options.data.path().to_owned(),
        context: text.context(),
        passed: options.max_perplexity.is_none_or(|largest| value <= largest),
        perplexity,
        warnings: model.warnings,
    })
}

struct Job<'a> {
    model: &'a Model,
    backend: &'a CpuBackend,
    forward: &'a Forward<'a, CpuBackend, ModelWeights<'a>>,
    text: &'a Text,
}

impl Job<'_> {
    /// Runs the model and scores its logits; `first` is what it sees in the place of
    /// each chunk's first token.
    fn perplexity(
        &self,
        first: Option<u32>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Perplexity, Error> {
        let text = self.text;
        let chunks = seen(text, first);
        // The end of the pass counts as a layer.
        let steps = self.forward.steps(&chunks) + text.chunks() as u64;
        let weights = self.model.weights();
        let mut progress = Steps { weights, steps, done: 0, cancel, observer };
        progress.start(self.model.tensors.len());
        let mut logits = self.forward.run(&chunks, &mut |steps| progress.advance(steps))?;
        let mut scores = Vec::with_capacity(text.positions());
        let mut through = 0;
        logits.visit(text.scored(), |tile| {
            scores.extend(self.backend.install(|| self.scores(tile)));
            let chunks = tile.rows.end / text.scored().len();
            progress.advance((chunks - through) as u64)?;
            through = chunks;
            Ok(())
        })?;
        Ok(Perplexity::of(&scores, text.chunks()))
    }

    /// The negative log-likelihood of each row's next token.
    fn scores(&self, tile: &LogitsTile) -> Vec<f64> {
        let width = tile.values.len() / tile.rows.len().max(1);
        let rows = tile.values.par_chunks_exact(width.max(1)).enumerate();
        rows.map(|(row, logits)| {
            let next = self.text.next_token(tile.rows.start + row) as usize;
            // A model that does not know the token gives it no probability.
            let logit = logits.get(next).copied().unwrap_or(f32::NEG_INFINITY);
            -LogSoftmax::of(logits).log_probability(logit)
        })
        .collect()
    }
}

/// A text's chunks as a model sees them.
fn seen(text: &Text, first: Option<u32>) -> Chunks {
    let mut tokens = Vec::with_capacity(text.chunks() * text.context());
    for chunk in 0..text.chunks() {
        let start = tokens.len();
        tokens.extend_from_slice(text.chunk(chunk));
        if let Some(first) = first {
            tokens[start] = first;
        }
    }
    Chunks::new(tokens, text.context())
}

/// Tells how far a pass is: as if each step went through an equal part of the weights.
struct Steps<'a> {
    weights: u64,
    steps: u64,
    done: u64,
    cancel: &'a Cancel,
    observer: &'a mut dyn Observer,
}

impl Steps<'_> {
    fn start(&mut self, tensors: usize) {
        self.observer.observe(Event::Started { job: "eval", tensors, weights: self.weights });
    }

    fn advance(&mut self, steps: u64) -> Result<(), Error> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let through = |steps: u64| {
            let share =
                u128::from(self.weights) * u128::from(steps) / u128::from(self.steps.max(1));
            u64::try_from(share).unwrap_or(u64::MAX)
        };
        let weights = through(self.done + steps) - through(self.done);
        self.done += steps;
        self.observer.observe(Event::Advanced { weights });
        Ok(())
    }
}

/// No text to evaluate comes near this; a larger file is not read.
const TEXT_LIMIT: u64 = 4 << 30;

fn read_tokens(data: &EvalData, tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
    let path = data.path();
    let bytes = read_file(path)?;
    match data {
        EvalData::Text(_) => {
            let text = std::str::from_utf8(&bytes).map_err(|error| Error::TextEncoding {
                location: Location::file(path).offset(error.valid_up_to() as u64),
            })?;
            let options = EncodeOptions { add_special: true, parse_special: false };
            let ids = tokenizer.encode(text, options);
            Ok(ids.into_iter().map(|id| id.0).collect())
        }
        EvalData::Tokens(_) => {
            let digits = bytes.split(|byte| !byte.is_ascii_digit());
            let token = |digits: &[u8]| {
                let token = String::from_utf8_lossy(digits).into_owned();
                let id = token.parse();
                id.map_err(|_| Error::TokenId { path: path.to_owned(), token })
            };
            digits.filter(|digits| !digits.is_empty()).map(token).collect()
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let file = SourceFile::open(path)?;
    let length = file.len();
    if length > TEXT_LIMIT {
        let path = path.to_owned();
        return Err(FileError::TooLarge { path, length, limit: TEXT_LIMIT }.into());
    }
    let mut bytes = vec![0; to_usize(length)];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}
