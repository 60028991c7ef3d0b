//! Multiple-choice tasks: which of several continuations a model finds most likely.
//!
//! Tasks come as JSON lines, in the fields that MMLU, ARC, HellaSwag and Winogrande are
//! published with, or in llama.cpp's binary file.

mod binary;
mod jsonl;

use std::ops::Range;
use std::path::Path;

use qz_tensor::SourceFile;
use serde::Serialize;

use crate::bootstrap::Interval;
use crate::error::{Error, Fault};

/// A question and its answers, one of them right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The answers, each a text of its own.
    pub choices: Vec<Choice>,
    /// The right one's position.
    pub correct: usize,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Question and answer.
    pub text: String,
    /// How much of the text is given, in bytes, where that differs between the choices
    /// (Winogrande, where the rest is the same). Otherwise what all choices begin with
    /// is given.
    pub given: Option<usize>,
}

/// The largest file that is read; the published sets have some ten megabytes.
const SIZE_LIMIT: u64 = 1 << 30;

/// The most answers of one task, the reference program's limit.
pub const MAX_CHOICES: usize = 100;

/// Reads all tasks of a file.
///
/// # Errors
/// If the file cannot be read, or holds no tasks or malformed ones.
pub fn read(path: &Path) -> Result<Vec<Task>, Error> {
    let file = SourceFile::open(path)?;
    if file.len() > SIZE_LIMIT {
        return Err(Error::at(&file, SIZE_LIMIT, Fault::TasksTooLarge(file.len())));
    }
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(0, &mut bytes)?;
    // JSON begins with a brace, the binary file with its number of tasks.
    let text = qz_shards::json::without_mark(&bytes);
    let is_json = text.trim_ascii_start().starts_with(b"{");
    let tasks = if is_json { jsonl::read(&bytes) } else { binary::read(&bytes) };
    let tasks = tasks.map_err(|(offset, fault)| Error::at(&file, offset as u64, fault))?;
    if tasks.is_empty() {
        return Err(Error::at(&file, 0, Fault::NoTasks));
    }
    Ok(tasks)
}

impl Task {
    /// The answers that follow one question, after a space.
    fn new(question: &str, answers: &[String], correct: usize) -> Result<Self, Fault> {
        let choices = answers.iter().map(|answer| {
            let text = format!("{question} {answer}");
            let choice = Choice { text, given: None };
            if answer.is_empty() { Err(Fault::EmptyChoice) } else { Ok(choice) }
        });
        Self::checked(choices.collect::<Result<_, _>>()?, correct)
    }

    fn checked(choices: Vec<Choice>, correct: usize) -> Result<Self, Fault> {
        if choices.len() < 2 {
            return Err(Fault::FewChoices(choices.len()));
        }
        if choices.len() > MAX_CHOICES {
            return Err(Fault::ManyChoices(choices.len()));
        }
        if correct >= choices.len() {
            return Err(Fault::NoSuchChoice { correct, choices: choices.len() });
        }
        Ok(Self { choices, correct })
    }

    /// The same task after a text, examples for instance.
    pub fn after(&self, prefix: &str) -> Self {
        let choices = self.choices.iter().map(|choice| Choice {
            text: format!("{prefix}{}", choice.text),
            given: choice.given.map(|given| given + prefix.len()),
        });
        Self { choices: choices.collect(), correct: self.correct }
    }
}

/// How many tokens all choices begin with; each has at least one more, even if it is
/// itself what another begins with.
pub fn common(tokens: &[Vec<u32>]) -> usize {
    let Some(first) = tokens.first() else { return 0 };
    let shortest = tokens.iter().map(Vec::len).min().unwrap_or(0);
    let same = |place: &usize| tokens.iter().all(|tokens| tokens[*place] == first[*place]);
    (0..shortest.saturating_sub(1)).take_while(same).count()
}

/// Which tokens of each choice are scored: those after what is given, or else after
/// what all choices begin with (perplexity.cpp, `multiple_choice_prepare_one_task`).
/// `tokens` are the choices' tokens, `given` how many of them are given. The last token
/// always is scored, the first one never: it follows nothing.
pub fn scored(tokens: &[Vec<u32>], given: &[Option<usize>]) -> Vec<Range<usize>> {
    let common = common(tokens);
    let ranges = tokens.iter().zip(given).map(|(tokens, given)| {
        let last = tokens.len().saturating_sub(1).max(1);
        let start = given.unwrap_or(common).clamp(1, last);
        start..tokens.len().max(start)
    });
    ranges.collect()
}

/// The log-likelihood of one choice.
#[derive(Clone, Copy, Debug)]
pub struct Likelihood {
    /// The sum over its scored tokens.
    pub sum: f64,
    /// How many those are.
    pub tokens: usize,
}

/// How many tasks a model got right.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Score {
    /// How many there were.
    pub tasks: usize,
    /// The share of tasks whose right choice is the most likely.
    pub accuracy: Share,
    /// The same for likelihoods per token, which do not favour short answers.
    pub normalized_accuracy: Share,
    /// The share that guessing would get right.
    pub chance: f64,
}

/// A share of tasks.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Share {
    /// The share.
    pub value: f64,
    /// Its standard error.
    pub stderr: f64,
    /// Its confidence interval (Wilson's, which llama-perplexity gives for HellaSwag).
    pub interval: Interval,
}

impl Score {
    /// Of the likelihoods of all tasks' choices.
    pub fn of(tasks: &[Task], likelihoods: &[Vec<Likelihood>]) -> Self {
        let share = |value: fn(&Likelihood) -> f64| {
            let right = tasks
                .iter()
                .zip(likelihoods)
                .filter(|(task, choices)| most_likely(choices, value) == Some(task.correct));
            Share::of(right.count(), tasks.len())
        };
        let choices: usize = tasks.iter().map(|task| task.choices.len()).sum();
        Self {
            tasks: tasks.len(),
            accuracy: share(|likelihood| likelihood.sum),
            normalized_accuracy: share(|likelihood| {
                likelihood.sum / likelihood.tokens.max(1) as f64
            }),
            chance: tasks.len() as f64 / choices as f64,
        }
    }
}

impl Share {
    fn of(right: usize, all: usize) -> Self {
        let value = right as f64 / all as f64;
        let stderr = if all > 1 { (value * (1.0 - value) / (all - 1) as f64).sqrt() } else { 0.0 };
        Self { value, stderr, interval: wilson(right as f64, all as f64) }
    }
}

/// The shares for which `right` of `all` lies within the central 95 of 100 (Wilson 1927).
fn wilson(right: f64, all: f64) -> Interval {
    const DEVIATIONS: f64 = 1.959_963_984_540_054;
    let square = DEVIATIONS * DEVIATIONS;
    let middle = (right + square / 2.0) / (all + square);
    let spread = (right * (all - right) / all + square / 4.0).sqrt();
    let half = DEVIATIONS * spread / (all + square);
    Interval { lower: (middle - half).max(0.0), upper: (middle + half).min(1.0) }
}

/// The first of equally likely ones.
fn most_likely(choices: &[Likelihood], value: fn(&Likelihood) -> f64) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (position, choice) in choices.iter().enumerate() {
        if best.is_none_or(|(_, best)| value(choice) > best) {
            best = Some((position, value(choice)));
        }
    }
    best.map(|(position, _)| position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(choices: usize, correct: usize) -> Task {
        let answers: Vec<String> = (0..choices).map(|number| number.to_string()).collect();
        Task::new("q", &answers, correct).expect("a task")
    }

    #[test]
    fn what_all_choices_begin_with_is_given() {
        let check = |tokens: &[&[u32]], given: &[Option<usize>], expected: &[Range<usize>]| {
            let tokens: Vec<Vec<u32>> = tokens.iter().map(|tokens| tokens.to_vec()).collect();
            assert_eq!(scored(&tokens, given), expected);
        };
        check(&[&[1, 2, 3], &[1, 2, 4, 5]], &[None, None], &[2..3, 2..4]);
        check(&[&[1, 2], &[1, 2, 4]], &[None, None], &[1..2, 1..3]);
        check(&[&[1, 2], &[1, 2]], &[None, None], &[1..2, 1..2]);
        check(&[&[1], &[2, 3]], &[None, None], &[1..1, 1..2]);
        check(&[&[1, 2, 3], &[1, 5, 3]], &[Some(2), Some(3)], &[2..3, 2..3]);
        check(&[&[1, 2], &[3, 4]], &[None, None], &[1..2, 1..2]);
    }

    #[test]
    fn accuracies() {
        let likelihood = |sum: f64, tokens: usize| Likelihood { sum, tokens };
        let tasks = [task(2, 0), task(2, 1), task(4, 2)];
        let likelihoods = [
            vec![likelihood(-1.0, 1), likelihood(-1.5, 3)],
            vec![likelihood(-1.0, 1), likelihood(-1.5, 3)],
            vec![likelihood(-1.0, 1); 4],
        ];
        let score = Score::of(&tasks, &likelihoods);
        assert_eq!(score.accuracy.value, 1.0 / 3.0);
        assert_eq!(score.normalized_accuracy.value, 1.0 / 3.0);
        assert_eq!(score.chance, 3.0 / 8.0);
    }

    #[test]
    fn shares_have_intervals() {
        let check = |right: usize, all: usize, lower: f64, upper: f64| {
            let found = Share::of(right, all).interval;
            let near = |found: f64, expected: f64| (found - expected).abs() < 5e-5;
            assert!(near(found.lower, lower) && near(found.upper, upper), "{found:?}");
        };
        // By hand; the last one is the textbook's for 81 of 263.
        check(0, 10, 0.0, 0.2775);
        check(5, 10, 0.2366, 0.7634);
        check(81, 263, 0.2553, 0.3662);
    }

    #[test]
    fn examples_come_before_the_question() {
        let task = Task {
            choices: vec![
                Choice { text: "a b c".into(), given: Some(3) },
                Choice { text: "a x c".into(), given: Some(3) },
            ],
            correct: 0,
        };
        let after = task.after("say: ");
        assert_eq!(after.choices[1], Choice { text: "say: a x c".into(), given: Some(8) });
    }
}
