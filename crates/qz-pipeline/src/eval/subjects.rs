//! Models that see the same text at the same time.

use std::time::{Duration, Instant};

use qz_eval::text::Text;
use qz_kernels::backend::Backend;
use qz_models::forward::{Chunks, Forward, HiddenStates, LogitsTile};
use qz_tokenize::Tokenizer;

use crate::compute::ComputeOptions;
use crate::error::Error;
use crate::event::{Event, Observer, Shares};
use crate::model::{Model, OpenOptions};
use crate::model_weights::ModelWeights;
use crate::stream::{Cancel, check_cancelled, stoppable};

/// A model and what makes tokens of text for it.
pub(crate) struct Subject {
    pub(crate) model: Model,
    pub(crate) tokenizer: Tokenizer,
}

impl Subject {
    pub(crate) fn open(
        path: &std::path::Path,
        options: &OpenOptions,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        stoppable(cancel, || {
            let model = Model::open(path, options)?;
            let tokenizer = Self::tokenizer_of(&model)?;
            Ok(Self { model, tokenizer })
        })
    }

    /// What makes tokens of text for a model.
    pub(crate) fn tokenizer_of(model: &Model) -> Result<Tokenizer, Error> {
        let tokenizer = match &model.folder {
            Some(folder) => Tokenizer::from_checkpoint(&**folder, &model.metadata),
            None => Tokenizer::from_metadata(&model.metadata),
        };
        Ok(tokenizer.map_err(qz_models::Error::from)?)
    }

    /// What the model is called: the last part of its path.
    pub(super) fn name(&self) -> String {
        let path = &self.model.path;
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// The text as the model sees it: in the place of each chunk's first token the one
    /// that begins texts, if the model has one. With a stride the reference program
    /// sets it too late to have an effect.
    fn seen(&self, text: &Text, overlapping: bool) -> Chunks {
        Self::seen_by(&self.tokenizer, text, overlapping)
    }

    /// The text as a model with this tokenizer sees it.
    pub(crate) fn seen_by(tokenizer: &Tokenizer, text: &Text, overlapping: bool) -> Chunks {
        let adds = tokenizer.adds_bos() && !overlapping;
        let first = tokenizer.bos().filter(|_| adds).map(|token| token.0);
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
}

impl Subject {
    /// The text as an encoder sees it: each chunk a text of its own, with the tokens at its ends
    /// that the tokenizer puts there.
    pub(super) fn seen_whole(&self, text: &Text) -> Chunks {
        let chunks = self.seen(text, false);
        let adds = self.tokenizer.adds_eos();
        let Some(last) = self.tokenizer.eos().filter(|_| adds) else { return chunks };
        let mut tokens = chunks.tokens().to_vec();
        for chunk in tokens.chunks_exact_mut(text.context()) {
            chunk[text.context() - 1] = last.0;
        }
        Chunks::new(tokens, text.context())
    }
}

/// What a pass is, besides its models.
pub(super) struct Pass<'a, B: Backend> {
    pub(super) job: &'static str,
    pub(super) text: &'a Text,
    pub(super) overlapping: bool,
    pub(super) compute: &'a ComputeOptions,
    pub(super) backend: &'a B,
}

impl<B: Backend> Pass<'_, B> {
    /// Puts the text through all models, and calls `visit` with the logits that each
    /// has at the same scored positions, some at a time. Returns how long each model
    /// took. The first model's vocabulary is the others', too.
    pub(super) fn run(
        &self,
        subjects: &[Subject],
        cancel: &Cancel,
        observer: &mut dyn Observer,
        mut visit: impl FnMut(&[LogitsTile]) -> Result<(), Error>,
    ) -> Result<Vec<Duration>, Error> {
        let text = self.text;
        let weights = subjects.iter().map(|subject| self.compute.weights(&subject.model));
        let weights: Vec<ModelWeights> = weights.collect::<Result<_, _>>()?;
        let forwards = self.forwards(subjects, &weights)?;
        let chunks: Vec<Chunks> =
            subjects.iter().map(|subject| subject.seen(text, self.overlapping)).collect();
        // The end of the pass counts as a layer of each model.
        let ends = (text.chunks() * subjects.len()) as u64;
        let steps: u64 = forwards.iter().zip(&chunks).map(|(f, chunks)| f.steps(chunks)).sum();
        let mut progress = self.begin(subjects, steps + ends, cancel, observer);

        let mut times = Vec::new();
        let mut logits = Vec::new();
        for (number, (forward, chunks)) in forwards.iter().zip(&chunks).enumerate() {
            progress.begin_model(subjects, number);
            let start = Instant::now();
            logits.push(progress.run(forward, chunks)?.logits()?);
            times.push(start.elapsed());
        }
        self.check_vocabularies(subjects, logits.iter().map(|logits| logits.vocabulary()))?;
        let mut tiles: Vec<LogitsTile> = subjects.iter().map(|_| LogitsTile::default()).collect();
        let step = logits.iter().map(|logits| logits.tile_rows()).min().unwrap_or(1);
        let mut through = 0;
        for first in (0..text.positions()).step_by(step) {
            let rows = first..text.positions().min(first + step);
            for ((logits, tile), time) in logits.iter_mut().zip(&mut tiles).zip(&mut times) {
                let start = Instant::now();
                logits.fill(&text.scored(), rows.clone(), tile)?;
                *time += start.elapsed();
            }
            visit(&tiles)?;
            let chunks = rows.end / text.scored().len();
            progress.advance(((chunks - through) * subjects.len()) as u64)?;
            through = chunks;
        }
        Ok(times)
    }

    /// Each subject's forward pass, with its share of the memory.
    pub(super) fn forwards<'w, 'm>(
        &'w self,
        subjects: &'m [Subject],
        weights: &'w [ModelWeights<'m>],
    ) -> Result<Vec<Forward<'w, B, ModelWeights<'m>>>, Error> {
        let options = self.compute.share(subjects.len());
        let forward = |(subject, weights): (&'m Subject, &'w ModelWeights<'m>)| {
            subject.model.forward(self.backend, weights, options.clone())
        };
        subjects.iter().zip(weights).map(forward).collect()
    }

    /// Says that the text is read, by all subjects in so many steps.
    pub(super) fn begin<'a>(
        &self,
        subjects: &[Subject],
        steps: u64,
        cancel: &'a Cancel,
        observer: &'a mut dyn Observer,
    ) -> Steps<'a> {
        let (chunks, context) = (self.text.chunks(), self.text.context());
        observer.observe(Event::Reading { chunks, context });
        let models = subjects.iter().map(|subject| &subject.model);
        Steps::begin(self.job, models, steps, cancel, observer)
    }

    fn check_vocabularies(
        &self,
        subjects: &[Subject],
        mut vocabularies: impl Iterator<Item = usize>,
    ) -> Result<(), Error> {
        let Some(expected) = vocabularies.next() else { return Ok(()) };
        for (subject, found) in subjects[1..].iter().zip(vocabularies) {
            if found != expected {
                let path = subject.model.path.clone();
                return Err(Error::Vocabulary { path, found, expected });
            }
        }
        Ok(())
    }
}

/// Tells how far a pass is, and ends it when it is to stop.
pub(crate) struct Steps<'a> {
    shares: Shares,
    cancel: &'a Cancel,
    observer: &'a mut dyn Observer,
}

impl<'a> Steps<'a> {
    /// Says that a job on these models begins, of so many steps.
    pub(crate) fn begin<'m>(
        job: &'static str,
        models: impl IntoIterator<Item = &'m Model>,
        steps: u64,
        cancel: &'a Cancel,
        observer: &'a mut dyn Observer,
    ) -> Self {
        let (mut tensors, mut weights) = (0, 0);
        for model in models {
            tensors += model.tensors.len();
            weights += model.weights();
        }
        observer.observe(Event::Started { job, tensors, weights });
        Self { shares: Shares::new(weights, steps as f64), cancel, observer }
    }

    /// Says which of the models is worked on.
    pub(super) fn begin_model(&mut self, subjects: &[Subject], number: usize) {
        let (name, count) = (subjects[number].name(), subjects.len());
        self.observer.observe(Event::Target { name: &name, number: number + 1, count });
    }

    /// Says which part of several is worked on.
    pub(crate) fn at(&mut self, part: &'static str, number: u64, count: u64, steady: bool) {
        self.observer.observe(Event::At { part, number, count, steady });
    }

    /// Puts a text through all layers.
    pub(crate) fn run<'f, 'm, B: Backend>(
        &mut self,
        forward: &'f Forward<'m, B, ModelWeights<'m>>,
        chunks: &Chunks,
    ) -> Result<HiddenStates<'f, B, ModelWeights<'m>>, Error> {
        let (layers, of_layer) =
            (u64::from(forward.graph().layers_to_output()), chunks.count() as u64);
        let mut done = 0;
        forward.run(chunks, &mut |steps| {
            self.advance(steps)?;
            done += steps;
            self.at("layer", (done / of_layer.max(1) + 1).min(layers), layers, true);
            Ok(())
        })
    }

    pub(crate) fn advance(&mut self, steps: u64) -> Result<(), Error> {
        check_cancelled(self.cancel)?;
        let weights = self.shares.advance(steps as f64);
        self.observer.observe(Event::Advanced { weights });
        Ok(())
    }
}
