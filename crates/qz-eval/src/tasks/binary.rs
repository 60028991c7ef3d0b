//! Tasks in llama.cpp's binary file (perplexity.cpp, `multiple_choice_task`).
//!
//! All numbers have 32 bits. The number of tasks, then where each begins, then the
//! tasks: a question, the answers of which one is right, and those of which several
//! are, which nobody scores. A text is its length and its bytes; answers are their
//! number, their texts, and for each a 1 if it is right, else a 0.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use super::{MAX_CHOICES, Task};
use crate::error::Fault;

/// All tasks; a fault comes with its place.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Task>, (usize, Fault)> {
    let mut reader = Reader { bytes, offset: 0 };
    let count = reader.number()?;
    // The positions are not needed: tasks follow each other.
    reader.take((count as usize).saturating_mul(4))?;
    // Grows as tasks are read, whatever the count says.
    let mut tasks = Vec::new();
    for _ in 0..count {
        let offset = reader.offset;
        let question = reader.text()?;
        let (answers, labels) = reader.answers()?;
        reader.answers()?;
        let correct = labels.iter().position(|label| *label == 1);
        let correct = correct.ok_or((offset, Fault::Field("labels")))?;
        if question.is_empty() {
            return Err((offset, Fault::Field("question")));
        }
        tasks.push(Task::new(&question, &answers, correct).map_err(|fault| (offset, fault))?);
    }
    Ok(tasks)
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], (usize, Fault)> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let truncated = Fault::TasksTruncated { wanted: length, left: rest.len() };
        let taken = rest.get(..length).ok_or((self.offset, truncated))?;
        self.offset = self.offset.saturating_add(length);
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, (usize, Fault)> {
        let bytes = self.take(4)?.first_chunk().copied().unwrap_or_default();
        Ok(u32::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<String, (usize, Fault)> {
        let length = self.number()? as usize;
        let offset = self.offset;
        let text = std::str::from_utf8(self.take(length)?);
        text.map(str::to_owned).map_err(|_| (offset, Fault::Field("text in UTF-8")))
    }

    fn answers(&mut self) -> Result<(Vec<String>, Vec<u32>), (usize, Fault)> {
        let offset = self.offset;
        let count = self.number()? as usize;
        if count > MAX_CHOICES {
            return Err((offset, Fault::ManyChoices(count)));
        }
        let texts = (0..count).map(|_| self.text()).collect::<Result<_, _>>()?;
        let labels = (0..count).map(|_| self.number()).collect::<Result<_, _>>()?;
        Ok((texts, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn answers(answers: &[(&str, u32)]) -> Vec<u8> {
        let mut bytes = (answers.len() as u32).to_le_bytes().to_vec();
        answers.iter().for_each(|(answer, _)| bytes.extend(text(answer)));
        answers.iter().for_each(|(_, label)| bytes.extend(label.to_le_bytes()));
        bytes
    }

    fn file(tasks: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = (tasks.len() as u32).to_le_bytes().to_vec();
        bytes.resize(4 + 4 * tasks.len(), 0);
        tasks.iter().for_each(|task| bytes.extend(task));
        bytes
    }

    fn task(question: &str, choices: &[(&str, u32)]) -> Vec<u8> {
        [text(question), answers(choices), answers(&[])].concat()
    }

    #[test]
    fn tasks_follow_each_other() {
        let bytes = file(&[task("q", &[("a", 0), ("b", 1)]), task("r", &[("c", 1), ("d", 0)])]);
        let tasks = read(&bytes).expect("tasks");
        assert_eq!(tasks.len(), 2);
        assert_eq!((tasks[0].choices[1].text.as_str(), tasks[0].correct), ("q b", 1));
        assert_eq!((tasks[1].choices[1].text.as_str(), tasks[1].correct), ("r d", 0));
    }

    #[test]
    fn files_that_are_cut_anywhere() {
        let bytes = file(&[task("q", &[("a", 0), ("b", 1)])]);
        for length in 0..bytes.len() {
            let (offset, fault) = read(&bytes[..length]).expect_err("refused");
            assert!(matches!(fault, Fault::TasksTruncated { .. }) && offset <= length);
        }
    }

    #[test]
    fn counts_that_cannot_be() {
        assert!(matches!(read(&[0xff; 64]), Err((4, Fault::TasksTruncated { .. }))));
        let many = file(&[[text("q"), 101u32.to_le_bytes().to_vec()].concat()]);
        assert_eq!(read(&many), Err((13, Fault::ManyChoices(101))));
        let none = file(&[task("q", &[("a", 0), ("b", 0)])]);
        assert_eq!(read(&none), Err((8, Fault::Field("labels"))));
    }
}
