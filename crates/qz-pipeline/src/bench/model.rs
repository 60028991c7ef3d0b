//! A model's speed in llama-bench's terms (`tools/llama-bench/llama-bench.cpp`): tokens
//! of a prompt, and tokens one by one, in a second.

use std::path::{Path, PathBuf};
use std::time::Instant;

use qz_eval::random::Random;
use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_models::forward::Session;
use qz_tokenize::Tokenizer;

use crate::compute::{Computation, ComputeOptions};
use crate::error::Error;
use crate::eval::subjects::Steps;
use crate::event::Observer;
use crate::model::{Model, OpenOptions};
use crate::model_weights::ModelWeights;
use crate::stream::{Cancel, stoppable, unless_cancelled};

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct ModelBenchOptions {
    /// How the model is read.
    pub open: OpenOptions,
    /// Tokens of a prompt; 0 for no such test.
    pub prompt: usize,
    /// Tokens one by one; 0 for no such test.
    pub generated: usize,
    /// How often each test is repeated.
    pub repetitions: usize,
    /// How the forward pass computes. The model has to fit into memory, whatever
    /// `max_memory` says.
    pub compute: ComputeOptions,
}

/// How fast a model is.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModelBench {
    /// The model.
    pub path: PathBuf,
    /// What it is, by its metadata.
    pub architecture: String,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Its weights.
    pub weights: u64,
    /// Threads that worked.
    pub threads: usize,
    /// The tests.
    pub tests: Vec<ModelSpeed>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// One test.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModelSpeed {
    /// llama-bench's name of it: `pp512`, `tg128`.
    pub test: String,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens one by one.
    pub generated: usize,
    /// The mean of tokens per second.
    pub tokens_per_second: f64,
    /// Its standard deviation between repetitions.
    pub stddev: f64,
    /// Each repetition's tokens per second.
    pub samples: Vec<f64>,
}

/// Tokens that go through the model together (`n_ubatch` there).
const TOGETHER: usize = 512;

/// Measures the model at `path`.
///
/// # Errors
/// If the model cannot be read or computed, or the job is stopped.
pub fn bench_model(
    path: &Path,
    options: &ModelBenchOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<ModelBench, Error> {
    options.compute.run(cancel, Measuring { path, options, cancel, observer })
}

/// The work of [`bench_model`].
struct Measuring<'a> {
    path: &'a Path,
    options: &'a ModelBenchOptions,
    cancel: &'a Cancel,
    observer: &'a mut dyn Observer,
}

impl Computation for Measuring<'_> {
    type Output = ModelBench;

    const ONE_BY_ONE: bool = true;

    fn run<B: Backend>(self, backend: &B, workers: &Workers) -> Result<ModelBench, Error> {
        let Self { path, options, cancel, observer } = self;
        let model = stoppable(cancel, || Model::open(path, &options.open))?;
        model.check_context(options.prompt.max(options.generated), observer);
        let weights = ModelWeights::new(&model);
        let forward = model.forward(backend, &weights, options.compute.share(1))?;
        let layers = u64::from(forward.graph().layers_to_output());
        let tests = [(options.prompt, 0), (0, options.generated)];
        let tests: Vec<(usize, usize)> = tests.into_iter().filter(|test| *test != (0, 0)).collect();
        // Each repetition, and the warm-up, as if it were a layer.
        let runs = (tests.len() * (options.repetitions + 1)) as u64;
        let mut progress = Steps::begin("bench", [&model], layers + runs, cancel, observer);
        let capacity = options.prompt.max(options.generated).max(1);
        let session = Session::new(&forward, capacity, &mut || progress.advance(1))?;
        let mut bench = Bench {
            workers,
            vocabulary: session.vocabulary(),
            session,
            first: first_token(&model),
            random: Random::new(0),
            logits: Vec::new(),
        };
        let mut speeds = Vec::new();
        for (prompt, generated) in tests {
            unless_cancelled(bench.warm_up(prompt), cancel)?;
            progress.advance(1)?;
            let mut samples = Vec::new();
            for number in 0..options.repetitions {
                progress.at("repetition", number as u64 + 1, options.repetitions as u64, false);
                samples.push(unless_cancelled(bench.run(prompt, generated), cancel)?);
                progress.advance(1)?;
            }
            speeds.push(ModelSpeed::of(prompt, generated, samples));
        }
        drop(bench);
        model.check_unchanged()?;
        let size = |tensor: &crate::model::ModelTensor| tensor.shape.byte_size(tensor.source_type);
        Ok(ModelBench {
            path: path.to_owned(),
            architecture: model
                .metadata
                .string("general.architecture")
                .unwrap_or_default()
                .to_owned(),
            bytes: model.tensors.iter().filter_map(|tensor| size(tensor).ok()).sum(),
            weights: model.weights(),
            threads: options.compute.threads,
            tests: speeds,
            warnings: model.warnings.clone(),
        })
    }
}

/// The token that begins texts, where the vocabulary is known and has one.
fn first_token(model: &Model) -> Option<u32> {
    let tokenizer = Tokenizer::from_metadata(&model.metadata).ok()?;
    tokenizer.bos().filter(|_| tokenizer.adds_bos()).map(|token| token.0)
}

struct Bench<'a, 'm, B: Backend> {
    workers: &'a Workers,
    session: Session<'a, B, ModelWeights<'m>>,
    vocabulary: usize,
    first: Option<u32>,
    random: Random,
    logits: Vec<f32>,
}

impl<B: Backend> Bench<'_, '_, B> {
    /// A random token; the first of a text is the one that begins texts.
    fn token(&mut self, position: usize) -> u32 {
        let first = self.first.filter(|_| position == 0);
        // Vocabularies have fewer than 2^32 tokens.
        first.unwrap_or_else(|| self.random.below(self.vocabulary) as u32)
    }

    fn warm_up(&mut self, prompt: usize) -> Result<(), Error> {
        if prompt > 0 {
            self.run(prompt, 0)?
        } else {
            self.run(0, 1)?
        };
        Ok(())
    }

    /// On the threads from beginning to end: handing each product to them alone
    /// would take longer than a small one.
    fn append(&mut self, tokens: &[u32]) -> Result<(), Error> {
        let (session, logits) = (&mut self.session, &mut self.logits);
        self.workers.install(|| session.append(tokens, logits))
    }

    /// Tokens per second of a new sequence.
    fn run(&mut self, prompt: usize, generated: usize) -> Result<f64, Error> {
        self.session.truncate(0);
        let start = Instant::now();
        let tokens: Vec<u32> = (0..prompt).map(|position| self.token(position)).collect();
        for tokens in tokens.chunks(TOGETHER) {
            self.append(tokens)?;
        }
        for position in prompt..prompt + generated {
            let token = self.token(position);
            self.append(&[token])?;
        }
        Ok((prompt + generated) as f64 / start.elapsed().as_secs_f64().max(1e-9))
    }
}

impl ModelSpeed {
    fn of(prompt: usize, generated: usize, samples: Vec<f64>) -> Self {
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
        let stddev = if samples.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
        let test = if generated == 0 { format!("pp{prompt}") } else { format!("tg{generated}") };
        Self { test, prompt, generated, tokens_per_second: mean, stddev, samples }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_of_repetitions() {
        let check = |samples: &[f64], mean: f64, stddev: f64| {
            let speed = ModelSpeed::of(8, 0, samples.to_vec());
            assert_eq!((speed.tokens_per_second, speed.stddev), (mean, stddev));
        };
        check(&[3.0], 3.0, 0.0);
        check(&[1.0, 3.0], 2.0, 2.0f64.sqrt());
        assert_eq!(ModelSpeed::of(0, 4, vec![1.0]).test, "tg4");
    }
}
