//! Encoders: how near the vectors they make of texts are to those of a reference.

use std::path::Path;

use qz_eval::similarity::{Pooling, Similarity, cosine};
use qz_kernels::backend::Backend;
use qz_models::forward::{Chunks, Forward, HiddenStates};

use super::subjects::{Pass, Subject};
use super::{EvalOptions, ReferenceOptions};
use crate::error::Error;
use crate::event::Observer;
use crate::model_weights::ModelWeights;
use crate::stream::Cancel;

impl Subject {
    /// How it makes one vector of a text; the mean, if it does not say.
    fn pooling(&self) -> Result<Pooling, Error> {
        let metadata = self.model.metadata();
        let architecture = metadata.string("general.architecture").unwrap_or_default();
        let key = format!("{architecture}.pooling_type");
        match metadata.unsigned(&key) {
            // `LLAMA_POOLING_TYPE_*` in llama.h.
            None | Some(0 | 1) => Ok(Pooling::Mean),
            Some(2) => Ok(Pooling::First),
            Some(3) => Ok(Pooling::Last),
            Some(kind) => Err(Error::Pooling { path: self.model.path.clone(), key, kind }),
        }
    }
}

/// Fails if something is asked of an encoder that only a model has that predicts tokens.
fn check(path: &Path, options: &EvalOptions) -> Result<(), Error> {
    let thresholds = &options.thresholds;
    let asked = [
        (
            !matches!(options.reference, Some(ReferenceOptions::Model(_))),
            "figures without a reference model",
        ),
        (options.save.is_some(), "probabilities to save"),
        (thresholds.max_perplexity.is_some(), "limits of the perplexity"),
        (thresholds.max_divergence.is_some(), "limits of the KL divergence"),
        (thresholds.min_same_top.is_some(), "limits of the top-1 agreement"),
    ];
    match asked.iter().find(|(is_asked, _)| *is_asked) {
        None => Ok(()),
        Some((_, asked)) => Err(Error::Encoder { path: path.to_owned(), asked }),
    }
}

impl<B: Backend> Pass<'_, B> {
    /// Compares an encoder with its reference, the first of the subjects. None if the subjects
    /// predict tokens.
    pub(super) fn similarity(
        &self,
        subjects: &[Subject],
        options: &EvalOptions,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Option<Similarity>, Error> {
        let weights = subjects.iter().map(|subject| self.compute.weights(&subject.model));
        let weights: Vec<ModelWeights> = weights.collect::<Result<_, _>>()?;
        let forwards = self.forwards(subjects, &weights)?;
        let of_encoder = subjects.iter().zip(&forwards);
        let mut of_encoder = of_encoder.filter(|(_, forward)| !forward.graph().predicts_tokens());
        let Some((encoder, _)) = of_encoder.next() else {
            // A limit of what is not computed would always be held.
            return match options.thresholds.min_cosine {
                None => Ok(None),
                Some(_) => Err(Error::Decoder(subjects[subjects.len() - 1].model.path.clone())),
            };
        };
        check(&encoder.model.path, options)?;
        if let Some(index) = forwards.iter().position(|forward| forward.graph().predicts_tokens()) {
            let path = encoder.model.path.clone();
            return Err(Error::NoEncoder { path, other: subjects[index].model.path.clone() });
        }
        let pooling = subjects[0].pooling()?;
        let (reference, model) = self.hidden_states(subjects, &forwards, cancel, observer)?;
        self.compared(&subjects[1].model.path, pooling, reference, model).map(Some)
    }

    /// The last hidden states of the reference and of the model.
    #[expect(clippy::type_complexity, reason = "a pair of one type")]
    fn hidden_states<'f, 'm>(
        &self,
        subjects: &[Subject],
        forwards: &'f [Forward<'m, B, ModelWeights<'m>>],
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<(HiddenStates<'f, B, ModelWeights<'m>>, HiddenStates<'f, B, ModelWeights<'m>>), Error>
    {
        let chunks: Vec<Chunks> =
            subjects.iter().map(|subject| subject.seen_whole(self.text)).collect();
        let steps = forwards.iter().zip(&chunks).map(|(f, chunks)| f.steps(chunks)).sum();
        let mut progress = self.begin(subjects, steps, cancel, observer);
        let mut run = |number: usize| {
            progress.begin_model(subjects, number);
            progress.run(&forwards[number], &chunks[number])
        };
        Ok((run(0)?, run(1)?))
    }

    fn compared<'m>(
        &self,
        path: &Path,
        pooling: Pooling,
        mut reference: HiddenStates<'_, B, ModelWeights<'m>>,
        mut model: HiddenStates<'_, B, ModelWeights<'m>>,
    ) -> Result<Similarity, Error> {
        let width = reference.width();
        if model.width() != width {
            let (path, found) = (path.to_owned(), model.width());
            return Err(Error::EmbeddingWidth { path, found, expected: width });
        }
        let mut vectors = [Vec::new(), Vec::new()];
        let mut token_cosines = Vec::new();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let context = self.text.context();
        for chunk in 0..self.text.chunks() {
            let tokens = chunk * context..(chunk + 1) * context;
            reference.read(tokens.clone(), &mut before)?;
            model.read(tokens, &mut after)?;
            for (vectors, rows) in vectors.iter_mut().zip([&before, &after]) {
                vectors.push(pooling.of_rows(rows, width));
            }
            let rows = after.chunks_exact(width).zip(before.chunks_exact(width));
            token_cosines.extend(rows.map(|(after, before)| cosine(after, before)));
        }
        let [reference, model] = &vectors;
        Ok(Similarity::of(pooling, model, reference, &token_cosines))
    }
}
