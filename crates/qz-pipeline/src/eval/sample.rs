//! A text that a model writes, for a person to look at.

use std::path::{Path, PathBuf};

use qz_eval::sampling::{Sampler, SamplingOptions};
use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_models::forward::Session;
use qz_tokenize::{EncodeOptions, TextStream, TokenId};

use super::subjects::{Steps, Subject};
use crate::compute::{Computation, ComputeOptions};
use crate::error::Error;
use crate::event::{Event, Observer};
use crate::model::OpenOptions;
use crate::stream::{Cancel, check_cancelled, unless_cancelled};

/// What is to be written.
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// How the model is read.
    pub open: OpenOptions,
    /// What the text begins with; special tokens in it are found.
    pub prompt: String,
    /// The most tokens to write.
    pub tokens: usize,
    /// How each is chosen.
    pub sampling: SamplingOptions,
    /// How the forward pass computes. The model has to fit into memory, whatever
    /// `max_memory` says.
    pub compute: ComputeOptions,
}

/// A text that a model wrote.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Sample {
    /// The model.
    pub path: PathBuf,
    /// What the text begins with.
    pub prompt: String,
    /// What the model wrote behind it.
    pub text: String,
    /// The prompt's tokens.
    pub prompt_tokens: Vec<u32>,
    /// The tokens that were written; one that ends the text is the last.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub ended: Ending,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Why a model wrote no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It said that the text ends here.
    End,
    /// As many tokens as were asked for.
    Length,
    /// As many tokens as it can see.
    Context,
}

/// Lets the model at `path` write. The observer hears of the text as it comes
/// ([`Event::Text`]).
///
/// # Errors
/// If the model cannot be read or computed, or the prompt has no tokens, or more than
/// the model can see.
pub fn sample(
    path: &Path,
    options: &SampleOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<Sample, Error> {
    options.compute.run(cancel, Sampling { path, options, cancel, observer })
}

/// The work of [`sample`].
struct Sampling<'a> {
    path: &'a Path,
    options: &'a SampleOptions,
    cancel: &'a Cancel,
    observer: &'a mut dyn Observer,
}

impl Computation for Sampling<'_> {
    type Output = Sample;

    const ONE_BY_ONE: bool = true;

    fn run<B: Backend>(self, backend: &B, workers: &Workers) -> Result<Sample, Error> {
        let Self { path, options, cancel, observer } = self;
        let subject = Subject::open(path, &options.open, cancel)?;
        let special = EncodeOptions { add_special: true, parse_special: true };
        let prompt = subject.tokenizer.encode(&options.prompt, special);
        let prompt = prompt.map_err(qz_models::Error::from)?;
        let mut prompt: Vec<u32> = prompt.into_iter().map(|token| token.0).collect();
        // What ends a text does not belong before its continuation.
        if subject.tokenizer.adds_eos() {
            prompt.truncate(prompt.len().saturating_sub(1));
        }
        let context = subject.model.context_length().unwrap_or(usize::MAX);
        if prompt.is_empty() || prompt.len() > context {
            let path = path.to_owned();
            return Err(Error::Prompt { path, tokens: prompt.len(), context });
        }
        let capacity = prompt.len().saturating_add(options.tokens).min(context);

        let weights = options.compute.weights(&subject.model)?;
        let forward = subject.model.forward(backend, &weights, options.compute.share(1))?;
        let layers = u64::from(forward.graph().layers_to_output());
        let mut progress = Steps::begin("sample", [&subject.model], layers + 1, cancel, observer);
        let mut session = Session::new(&forward, capacity, &mut || progress.advance(1))?;
        progress.advance(1)?;

        let mut sampler = Sampler::new(options.sampling);
        let (mut stream, mut text, mut logits) = (TextStream::default(), String::new(), Vec::new());
        let mut tokens: Vec<u32> = Vec::new();
        let mut tell = |observer: &mut dyn Observer, part: String| {
            observer.observe(Event::Text(&part));
            text.push_str(&part);
        };
        let ended = loop {
            if tokens.len() == options.tokens {
                break Ending::Length;
            }
            let unseen = match tokens.last() {
                None => &prompt[..],
                Some(last) => std::slice::from_ref(last),
            };
            if session.length() + unseen.len() > session.capacity() {
                break Ending::Context;
            }
            check_cancelled(cancel)?;
            // On the threads from beginning to end, as in `bench`.
            let appended = workers.install(|| session.append(unseen, &mut logits));
            unless_cancelled(appended, cancel)?;
            let token = sampler.choose(&logits);
            tokens.push(token);
            if subject.tokenizer.is_end(TokenId(token)) {
                break Ending::End;
            }
            tell(observer, stream.push(&subject.tokenizer.piece(TokenId(token))));
        };
        tell(observer, stream.finish());
        subject.model.check_unchanged()?;
        Ok(Sample {
            path: path.to_owned(),
            prompt: options.prompt.clone(),
            text,
            prompt_tokens: prompt,
            tokens,
            ended,
            warnings: subject.model.warnings,
        })
    }
}
