//! Which of the known names was meant.

/// How many names a message suggests.
const SUGGESTED: usize = 3;

/// The known names nearest to `given`, the nearest first: those that differ in punctuation
/// alone, or else in few letters. Case does not count.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = letters(given);
    // About a third of the letters may be wrong, and one in any name.
    let limit = ((wanted.len() + 1) / 3).max(1);
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| (distance(&wanted, &letters(name)), name))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    found.sort_by_key(|(distance, _)| *distance);
    let exact = found.first().is_some_and(|(distance, _)| *distance == 0);
    let kept = found.into_iter().filter(|(distance, _)| !exact || *distance == 0);
    kept.take(SUGGESTED).map(|(_, name)| name).collect()
}

/// True if two names differ in case and punctuation alone.
pub fn is_alike(a: &str, b: &str) -> bool {
    letters(a) == letters(b)
}

/// `; did you mean A, B or C?`, or nothing.
pub fn did_you_mean(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => format!("; did you mean {only}?"),
        [before @ .., last] => format!("; did you mean {} or {last}?", before.join(", ")),
    }
}

fn letters(name: &str) -> Vec<char> {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Letters to insert, remove or replace (Levenshtein).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let known = ["q4_k", "q4_0", "q8_0", "iq4_xs", "bf16", "gptq:w4g128"];
        let check = |given: &str, expected: &[&str]| {
            assert_eq!(nearest(given, known), expected, "{given}");
        };
        check("q4k", &["q4_k"]);
        check("Q8-0", &["q8_0"]);
        check("b16", &["bf16"]);
        check("q4_1", &["q4_k", "q4_0"]);
        check("gptq-w4g128", &["gptq:w4g128"]);
        check("gptq:w4g218", &["gptq:w4g128"]);
        check("exl2", &[]);
        check("", &[]);
    }
}
