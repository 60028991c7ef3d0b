//! Tasks as JSON lines.
//!
//! | set | fields |
//! |---|---|
//! | MMLU | `question`, `choices`, `answer`: a position |
//! | ARC | `question`, `choices` with `text` and `label`, `answerKey`: a label |
//! | HellaSwag | `ctx`, perhaps `activity_label`, `endings`, `label`: a position |
//! | Winogrande | `sentence` with a `_`, `option1`, `option2`, `answer`: `1` or `2` |
//!
//! Positions begin at 0 and may be written as text or as letters from `A`. Fields with
//! the same meaning may stand for each other.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use serde_json::{Map, Value};

use super::{Choice, Task};
use crate::error::Fault;

type Object = Map<String, Value>;

const QUESTIONS: [&str; 5] = ["question", "query", "prompt", "context", "ctx"];
const CHOICES: [&str; 4] = ["choices", "endings", "options", "answers"];
const ANSWERS: [&str; 5] = ["answer", "label", "gold", "answerKey", "correct"];

/// The tasks of all lines; a fault comes with the byte where its line begins.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Task>, (usize, Fault)> {
    let mut tasks = Vec::new();
    let mut offset = 0usize;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if !line.trim_ascii().is_empty() {
            tasks.push(read_line(line).map_err(|fault| (offset, fault))?);
        }
        offset = offset.saturating_add(line.len());
    }
    Ok(tasks)
}

fn read_line(line: &[u8]) -> Result<Task, Fault> {
    let object: Object =
        qz_shards::json::from_slice(line).map_err(|error| Fault::Json(error.to_string()))?;
    if object.contains_key("option1") {
        return read_winogrande(&object);
    }
    let question = first_text(&object, &QUESTIONS)?;
    let question = match object.get("activity_label").and_then(Value::as_str) {
        Some(activity) => format!("{activity}: {question}"),
        None => question.to_owned(),
    };
    let (answers, labels) = read_choices(&object)?;
    let correct = ANSWERS.iter().find_map(|name| object.get(*name));
    let correct = correct.ok_or(Fault::Field("answer"))?;
    Task::new(&question, &answers, position_of(correct, &labels)?)
}

/// Choices, and their labels where they have some.
fn read_choices(object: &Object) -> Result<(Vec<String>, Vec<String>), Fault> {
    let choices = CHOICES.iter().find_map(|name| object.get(*name));
    match choices {
        Some(Value::Object(choices)) => {
            Ok((texts(choices.get("text"))?, texts(choices.get("label"))?))
        }
        choices => Ok((texts(choices)?, Vec::new())),
    }
}

fn texts(value: Option<&Value>) -> Result<Vec<String>, Fault> {
    let texts = value.and_then(Value::as_array).ok_or(Fault::Field("choices"))?;
    texts
        .iter()
        .map(|text| text.as_str().map(str::to_owned).ok_or(Fault::Field("choices")))
        .collect()
}

fn first_text<'a>(object: &'a Object, names: &[&'static str]) -> Result<&'a str, Fault> {
    let text = names.iter().find_map(|name| object.get(*name)?.as_str());
    text.filter(|text| !text.is_empty())
        .ok_or(Fault::Field(names.first().copied().unwrap_or_default()))
}

fn position_of(correct: &Value, labels: &[String]) -> Result<usize, Fault> {
    let wrong = Fault::Field("answer");
    if let Some(position) = correct.as_u64() {
        return usize::try_from(position).map_err(|_| wrong);
    }
    let text = correct.as_str().ok_or(wrong.clone())?.trim();
    if let Some(position) = labels.iter().position(|label| label == text) {
        return Ok(position);
    }
    match text.as_bytes() {
        [letter @ b'A'..=b'Z'] => Ok(usize::from(letter.saturating_sub(b'A'))),
        _ => text.parse().map_err(|_| wrong),
    }
}

/// What follows the blank is scored, with each option in the blank.
fn read_winogrande(object: &Object) -> Result<Task, Fault> {
    let sentence = first_text(object, &["sentence"])?;
    let (before, after) = sentence.split_once('_').ok_or(Fault::Field("sentence"))?;
    if after.trim().is_empty() {
        return Err(Fault::Field("sentence"));
    }
    let choice = |name: &'static str| {
        let given = format!("{before}{}", first_text(object, &[name])?);
        Ok(Choice { text: format!("{given}{after}"), given: Some(given.len()) })
    };
    let correct = match object.get("answer").ok_or(Fault::Field("answer"))? {
        Value::String(text) => text.parse().ok(),
        number => number.as_u64().and_then(|number| usize::try_from(number).ok()),
    };
    let correct = correct.and_then(|number| number.checked_sub(1)).ok_or(Fault::Field("answer"))?;
    Task::checked(vec![choice("option1")?, choice("option2")?], correct)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_forms() {
        let check = |line: &str, texts: &[&str], correct: usize| {
            let tasks = read(format!("\u{feff}{line}").as_bytes()).expect("a task");
            assert_eq!(tasks, read(line.as_bytes()).expect("a task"));
            let found: Vec<&str> =
                tasks[0].choices.iter().map(|choice| choice.text.as_str()).collect();
            assert_eq!((found.as_slice(), tasks[0].correct), (texts, correct));
        };
        check(r#"{"question":"2+2?","choices":["3","4"],"answer":1}"#, &["2+2? 3", "2+2? 4"], 1);
        check(r#"{"question":"2+2?","choices":["3","4"],"answer":"B"}"#, &["2+2? 3", "2+2? 4"], 1);
        check(
            r#"{"question":"q","choices":{"text":["x","y"],"label":["1","2"]},"answerKey":"2"}"#,
            &["q x", "q y"],
            1,
        );
        check(
            r#"{"activity_label":"Skiing","ctx":"He","endings":["runs.","skis."],"label":"1"}"#,
            &["Skiing: He runs.", "Skiing: He skis."],
            1,
        );
        check(
            r#"{"sentence":"The _ was big.","option1":"cat","option2":"dog","answer":"2"}"#,
            &["The cat was big.", "The dog was big."],
            1,
        );
    }

    #[test]
    fn the_option_of_winogrande_is_given() {
        let line = r#"{"sentence":"The _ was big.","option1":"cat","option2":"mouse","answer":1}"#;
        let task = &read(line.as_bytes()).expect("a task")[0];
        let given: Vec<Option<usize>> = task.choices.iter().map(|choice| choice.given).collect();
        assert_eq!((given.as_slice(), task.correct), (&[Some(7), Some(9)][..], 0));
    }

    #[test]
    fn faults_have_a_place() {
        let check = |line: &str, expected: Fault| {
            let good = "{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":0}\n\n";
            let (offset, fault) = read(format!("{good}{line}").as_bytes()).expect_err("refused");
            assert_eq!((offset, fault), (good.len(), expected));
        };
        check(r#"{"choices":["a","b"],"answer":0}"#, Fault::Field("question"));
        check(r#"{"question":"","choices":["a","b"],"answer":0}"#, Fault::Field("question"));
        check(r#"{"question":"q","answer":0}"#, Fault::Field("choices"));
        check(r#"{"question":"q","choices":["a",1],"answer":0}"#, Fault::Field("choices"));
        check(r#"{"question":"q","choices":["a"],"answer":0}"#, Fault::FewChoices(1));
        check(r#"{"question":"q","choices":["a",""],"answer":0}"#, Fault::EmptyChoice);
        let many = vec![r#""a""#; 100_000].join(",");
        let line = format!(r#"{{"question":"q","choices":[{many}],"answer":0}}"#);
        check(&line, Fault::ManyChoices(100_000));
        check(r#"{"question":"q","choices":["a","b"]}"#, Fault::Field("answer"));
        check(r#"{"question":"q","choices":["a","b"],"answer":-1}"#, Fault::Field("answer"));
        check(
            r#"{"question":"q","choices":["a","b"],"answer":"C"}"#,
            Fault::NoSuchChoice { correct: 2, choices: 2 },
        );
        check(
            r#"{"sentence":"no blank","option1":"a","option2":"b","answer":1}"#,
            Fault::Field("sentence"),
        );
        check(
            r#"{"sentence":"a _ b","option1":"a","option2":"b","answer":"0"}"#,
            Fault::Field("answer"),
        );
    }

    #[test]
    fn lines_that_are_no_json() {
        assert!(matches!(read(b"{\"question\":").expect_err("refused"), (0, Fault::Json(_))));
    }
}
