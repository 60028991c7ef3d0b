//! `eval`: how well a model foretells a text.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use qz_eval::{Perplexity, PerplexitySum, WindowOptions, Windows};
use qz_kernels::backend::{CpuBackend, Rounding};
use qz_models::forward::{Forward, ForwardOptions};
use qz_tensor::{DataType, FileError, Location, SourceFile};

use crate::error::Error;
use crate::event::{Event, Observer};
use crate::model::{Model, OpenOptions, to_usize};
use crate::model_weights::ModelWeights;
use crate::stream::Cancel;

/// The text to score.
#[derive(Clone, Debug)]
pub enum EvalData {
    /// Token ids, divided by anything that is no digit.
    Tokens(PathBuf),
}

impl EvalData {
    fn path(&self) -> &Path {
        match self {
            Self::Tokens(path) => path,
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
    /// Tokens of a window.
    pub context: usize,
    /// The most windows.
    pub chunks: Option<usize>,
    /// Tokens between overlapping windows.
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
    /// Tokens of a window.
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
    let tokens = read_tokens(&options.data)?;
    let windows = Windows::new(
        &tokens,
        &WindowOptions {
            context: options.context,
            chunks: options.chunks,
            stride: options.stride,
            first_token: first_token(&model),
        },
        &Location::file(options.data.path()),
    )?;
    let backend =
        CpuBackend::new(options.threads).map_err(|error| Error::Threads(error.to_string()))?;
    let weights = ModelWeights::new(&model);
    let forward = Forward::new(
        &backend,
        &weights,
        &model.metadata,
        model.sliding_window,
        ForwardOptions {
            rounding: options.rounding,
            cache_type: options.cache_type,
            max_memory: options.max_memory,
            spill_folder: options.spill_folder.clone(),
        },
    )?;
    let perplexity = perplexity(&model, &backend, &forward, &windows, cancel, observer)?;
    model.check_unchanged()?;
    let value = perplexity.perplexity.value;
    Ok(Evaluation {
        path: path.to_owned(),
        data: options.data.path().to_owned(),
        context: options.context,
        passed: options.max_perplexity.is_none_or(|largest| value <= largest),
        perplexity,
        warnings: model.warnings,
    })
}

fn perplexity(
    model: &Model,
    backend: &CpuBackend,
    forward: &Forward<'_, CpuBackend, ModelWeights<'_>>,
    windows: &Windows,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<Perplexity, Error> {
    // The end of the pass counts as a layer.
    let steps = forward.steps(windows.chunks()) + windows.chunks().count() as u64;
    let mut progress = Steps { weights: model.weights(), steps, done: 0, cancel, observer };
    progress.start(model.tensors.len());
    let mut logits = forward.run(windows.chunks(), &mut |steps| progress.advance(steps))?;
    let mut sum = PerplexitySum::default();
    let mut chunks = 0;
    logits.visit(windows.positions(), |tile| {
        backend.install(|| sum.add(windows, tile));
        let through = tile.rows.end / windows.positions().len();
        progress.advance((through - chunks) as u64)?;
        chunks = through;
        Ok(())
    })?;
    Ok(sum.finish())
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

/// The token that begins every window: that of the vocabulary, if it wants one.
fn first_token(model: &Model) -> Option<u32> {
    use qz_tensor::Value;
    let metadata = &model.metadata;
    let adds = match metadata.get("tokenizer.ggml.add_bos_token") {
        Some(Value::Bool(adds)) => *adds,
        // What llama.cpp assumes (`llama_vocab::impl::load` in llama-vocab.cpp).
        _ => {
            metadata.string("tokenizer.ggml.model") == Some("llama")
                || metadata.string("tokenizer.ggml.pre") == Some("llama-bpe")
        }
    };
    let first = metadata.unsigned("tokenizer.ggml.bos_token_id")?;
    u32::try_from(first).ok().filter(|_| adds)
}

/// No text to evaluate comes near this; a larger file is not read.
const TEXT_LIMIT: u64 = 4 << 30;

fn read_tokens(data: &EvalData) -> Result<Vec<u32>, Error> {
    match data {
        EvalData::Tokens(path) => {
            let text = read_file(path)?;
            let digits = text.split(|byte| !byte.is_ascii_digit()).filter(|part| !part.is_empty());
            let token = |digits: &[u8]| {
                let text = std::str::from_utf8(digits).unwrap_or_default();
                text.parse()
                    .map_err(|_| Error::TokenId { path: path.clone(), token: text.to_owned() })
            };
            digits.map(token).collect()
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
