//! Multiple-choice tasks: each choice's likelihood, from one pass over all of them.

use std::path::{Path, PathBuf};

use qz_eval::log_probability::LogSoftmax;
use qz_eval::tasks::{self, Likelihood, Score, Task};
use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_models::forward::{Branches, Chunks};
use qz_tensor::Location;
use qz_tokenize::{EncodeOptions, Tokenizer};
use rayon::prelude::*;

use super::subjects::{Steps, Subject};
use super::text::read_text;
use crate::compute::{Computation, ComputeOptions};
use crate::error::Error;
use crate::event::Observer;
use crate::model::OpenOptions;
use crate::rounded_inputs::RoundedInputs;
use crate::stream::{Cancel, stoppable, unless_cancelled};

/// What is to be scored.
#[derive(Clone, Debug)]
pub struct TaskOptions {
    /// How the model is read.
    pub open: OpenOptions,
    /// The tasks: JSON lines or llama.cpp's binary file.
    pub file: PathBuf,
    /// Only so many of them, the first ones.
    pub limit: Option<usize>,
    /// What each task comes after.
    pub few_shot: Option<FewShot>,
    /// How the forward pass computes.
    pub compute: ComputeOptions,
}

/// What a task comes after.
#[derive(Clone, Debug)]
pub enum FewShot {
    /// The text of this file.
    Text(PathBuf),
    /// So many of the tasks themselves, the first ones, with their right answers. They
    /// are not scored.
    Tasks(usize),
}

/// How many tasks a model gets right.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TaskEvaluation {
    /// The model.
    pub path: PathBuf,
    /// The tasks.
    pub data: PathBuf,
    /// The figures.
    #[serde(flatten)]
    pub score: Score,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Matrices whose inputs were rounded, as engines do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounded_inputs: Vec<RoundedInputs>,
}

/// Scores the model at `path` on tasks.
///
/// # Errors
/// If the model or the tasks cannot be read, there are no tasks, or a result is no
/// number.
pub fn eval_tasks(
    path: &Path,
    options: &TaskOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<TaskEvaluation, Error> {
    options.compute.run(cancel, Scoring { path, options, cancel, observer })
}

/// The work of [`eval_tasks`].
struct Scoring<'a> {
    path: &'a Path,
    options: &'a TaskOptions,
    cancel: &'a Cancel,
    observer: &'a mut dyn Observer,
}

impl Computation for Scoring<'_> {
    type Output = TaskEvaluation;

    fn run<B: Backend>(self, backend: &B, workers: &Workers) -> Result<TaskEvaluation, Error> {
        let Self { path, options, cancel, observer } = self;
        let subject = Subject::open(path, &options.open, cancel)?;
        let (tasks, prefix) = options.tasks()?;
        let preparing = Preparing {
            tokenizer: &subject.tokenizer,
            context: subject.model.context_length().unwrap_or(usize::MAX),
            file: &options.file,
        };
        preparing.check(0, &prefix)?;
        let prepared = tasks.iter().enumerate();
        let prepared = prepared.map(|(number, task)| preparing.task(number, &task.after(&prefix)));
        let prepared: Vec<Prepared> = stoppable(cancel, || prepared.collect())?;
        let branches: Vec<Branches> = prepared.iter().map(Prepared::branches).collect();
        let chunks = Chunks::branching(&branches);

        let weights = options.compute.weights(&subject.model)?;
        let forward = subject.model.forward(backend, &weights, options.compute.share(1))?;
        // The end of the pass counts as a layer.
        let steps = forward.steps(&chunks) + chunks.count() as u64;
        let mut progress = Steps::begin("eval", [&subject.model], steps, cancel, observer);
        let mut end = unless_cancelled(progress.run(&forward, &chunks), cancel)?.logits()?;

        let (vocabulary, tile_rows) = (end.vocabulary(), end.tile_rows());
        let mut likelihoods: Vec<Vec<Likelihood>> =
            prepared.iter().map(Prepared::unknown).collect();
        let mut foretold: Vec<Foretold> = prepared
            .iter()
            .enumerate()
            .flat_map(|(number, task)| task.foretold(number, chunks.rows(number).start))
            .collect();
        // Choices share rows: the last of what all begin with.
        foretold.sort_by_key(|token| token.row);
        let mut rows: Vec<usize> = foretold.iter().map(|token| token.row).collect();
        rows.dedup();
        let (mut logits, mut rest, mut through) = (Vec::new(), &foretold[..], 0);
        for rows in rows.chunks(tile_rows) {
            let last = rows[rows.len() - 1];
            let (tokens, later) = rest.split_at(rest.partition_point(|token| token.row <= last));
            unless_cancelled(end.of_tokens(rows, &mut logits), cancel)?;
            let found = log_probabilities(workers, tokens, rows, &logits, vocabulary);
            for (token, found) in tokens.iter().zip(found) {
                likelihoods[token.task][token.choice].sum += found;
            }
            rest = later;
            let done = later.first().map_or(chunks.count(), |next| next.task);
            progress.advance((done - through) as u64)?;
            through = done;
        }
        subject.model.check_unchanged()?;
        Ok(TaskEvaluation {
            path: path.to_owned(),
            data: options.file.clone(),
            score: stoppable(cancel, || Ok(Score::of(&tasks, &likelihoods)))?,
            rounded_inputs: options.compute.rounded_inputs([&subject.model]),
            warnings: subject.model.warnings,
        })
    }
}

impl TaskOptions {
    /// The tasks to score, and what each comes after.
    fn tasks(&self) -> Result<(Vec<Task>, String), Error> {
        let mut tasks = tasks::read(&self.file)?;
        let prefix = match &self.few_shot {
            None => String::new(),
            Some(FewShot::Text(path)) => read_text(path)?,
            Some(FewShot::Tasks(count)) => {
                if *count >= tasks.len() {
                    let location = Location::file(&self.file);
                    return Err(Error::FewTasks { location, tasks: tasks.len(), examples: *count });
                }
                let examples = tasks.drain(..*count);
                examples.map(|task| format!("{}\n\n", task.choices[task.correct].text)).collect()
            }
        };
        tasks.truncate(self.limit.unwrap_or(usize::MAX).max(1));
        Ok((tasks, prefix))
    }
}

/// A task's choices as tokens.
struct Prepared {
    tokens: Vec<Vec<u32>>,
    scored: Vec<std::ops::Range<usize>>,
    /// Tokens that all choices begin with.
    common: usize,
}

/// A token whose probability counts.
struct Foretold {
    /// The row of the token before it, over all chunks.
    row: usize,
    token: u32,
    task: usize,
    choice: usize,
}

/// From tasks to tokens.
struct Preparing<'a> {
    tokenizer: &'a Tokenizer,
    /// Positions that the model has.
    context: usize,
    file: &'a Path,
}

impl Preparing<'_> {
    /// The tokens of a text, which has no more of them than the model has positions; of a
    /// longer one no more is looked at.
    fn check(&self, task: usize, text: &str) -> Result<Vec<u32>, Error> {
        let special = EncodeOptions { add_special: true, parse_special: false };
        let most = self.context.saturating_add(1);
        let tokens = self.tokenizer.encode_first(text, special, most);
        let tokens = tokens.map_err(qz_models::Error::from)?;
        if tokens.len() > self.context {
            let (location, context) = (Location::file(self.file), self.context);
            return Err(Error::TaskTooLong { location, task, context });
        }
        Ok(tokens.into_iter().map(|token| token.0).collect())
    }

    fn task(&self, number: usize, task: &Task) -> Result<Prepared, Error> {
        let encode = |text: &str| self.check(number, text);
        let choices = task.choices.iter();
        let tokens: Vec<Vec<u32>> =
            choices.clone().map(|choice| encode(&choice.text)).collect::<Result<_, _>>()?;
        let given = choices.map(|choice| {
            let given = choice.given.map(|bytes| encode(&choice.text[..bytes]));
            given.transpose().map(|tokens| tokens.map(|tokens| tokens.len()))
        });
        let given: Vec<Option<usize>> = given.collect::<Result<_, _>>()?;
        let scored = tasks::scored(&tokens, &given);
        Ok(Prepared { common: tasks::common(&tokens), tokens, scored })
    }
}

impl Prepared {
    /// What the model has to see: nothing follows from the last token of a choice.
    fn branches(&self) -> Branches {
        let beginning = self.tokens[0][..self.common].to_vec();
        let branch = |tokens: &Vec<u32>| {
            let end = tokens.len().saturating_sub(1).max(self.common);
            tokens[self.common..end].to_vec()
        };
        Branches { beginning, branches: self.tokens.iter().map(branch).collect() }
    }

    /// Nothing yet of as many tokens as are scored.
    fn unknown(&self) -> Vec<Likelihood> {
        self.scored.iter().map(|range| Likelihood { sum: 0.0, tokens: range.len() }).collect()
    }

    /// The tokens that are scored, given the task's number and its first row.
    fn foretold(&self, task: usize, start: usize) -> Vec<Foretold> {
        let mut foretold = Vec::new();
        let mut branch = start + self.common;
        for (choice, (tokens, scored)) in self.tokens.iter().zip(&self.scored).enumerate() {
            for place in scored.clone() {
                let before = place - 1;
                let row = match before.checked_sub(self.common) {
                    None => start + before,
                    Some(own) => branch + own,
                };
                foretold.push(Foretold { row, token: tokens[place], task, choice });
            }
            branch += tokens.len().saturating_sub(1).saturating_sub(self.common);
        }
        foretold
    }
}

/// The logarithm of each token's probability, from the logits of `rows`.
fn log_probabilities(
    workers: &Workers,
    foretold: &[Foretold],
    rows: &[usize],
    logits: &[f32],
    vocabulary: usize,
) -> Vec<f64> {
    let rows_logits = logits.par_chunks_exact(vocabulary.max(1));
    workers.install(|| {
        let softmaxes: Vec<LogSoftmax> = rows_logits.map(LogSoftmax::of).collect();
        let of = |token: &Foretold| {
            let at = rows.binary_search(&token.row).unwrap_or_default();
            let logits = &logits[at * vocabulary..][..vocabulary];
            // A model that does not know the token gives it no probability.
            let logit = logits.get(token.token as usize).copied().unwrap_or(f32::NEG_INFINITY);
            softmaxes[at].log_probability(logit)
        };
        foretold.iter().map(of).collect()
    })
}
