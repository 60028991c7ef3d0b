//! What models are called beside each other.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::hub::model_path;

/// The names and paths of a reference and of models, each given as PATH or NAME=PATH. Without a
/// name it is the shortest end of its path that no other has.
pub(crate) fn named(reference: &Path, models: &[PathBuf]) -> (Vec<String>, Vec<PathBuf>) {
    let given = [reference].into_iter().chain(models.iter().map(PathBuf::as_path));
    let (names, paths): (Vec<Option<String>>, Vec<PathBuf>) = given.map(split).unzip();
    let ends = unique_ends(&paths);
    let names = names.into_iter().zip(ends).map(|(name, end)| name.unwrap_or(end));
    (names.collect(), paths)
}

/// A name that different models have, if there is one.
pub(crate) fn shared_name<'a>(names: &'a [String], paths: &[PathBuf]) -> Option<&'a str> {
    let models: Vec<(&String, &PathBuf)> = names.iter().zip(paths).collect();
    let is_shared = |(at, (name, path)): (usize, &(&String, &PathBuf))| {
        models[..at].iter().any(|(other, of)| other == name && of != path)
    };
    let at = models.iter().enumerate().position(is_shared)?;
    Some(&names[at])
}

/// A path that is there is one, whatever it looks like. A model of the hub has its id's name.
fn split(given: &Path) -> (Option<String>, PathBuf) {
    let text = given.to_string_lossy();
    match text.split_once('=') {
        Some((name, path)) if !given.exists() && !name.is_empty() && !path.is_empty() => {
            (Some(name.to_owned()), model_path(path.into()))
        }
        _ => {
            let path = model_path(given.to_owned());
            ((path != given).then(|| text.into_owned()), path)
        }
    }
}

/// As many last parts of each path as tell it from the others.
fn unique_ends(paths: &[PathBuf]) -> Vec<String> {
    let parts = |path: &PathBuf| -> Vec<String> {
        path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
    };
    let parts: Vec<Vec<String>> = paths.iter().map(parts).collect();
    // The root is a part, and has a slash of its own.
    let end = |of: &[String], count: usize| {
        of[of.len().saturating_sub(count)..].join("/").replacen("//", "/", 1)
    };
    let unique = |(at, own): (usize, &Vec<String>)| {
        let is_unique = |count: &usize| {
            let others = parts.iter().enumerate().filter(|(other, _)| *other != at);
            others.into_iter().all(|(_, other)| end(other, *count) != end(own, *count))
        };
        let count = (1..=own.len()).find(is_unique).unwrap_or(own.len());
        end(own, count)
    };
    parts.iter().enumerate().map(unique).collect()
}

/// Names of at most so many letters, with the middle of longer ones left out. If that makes
/// two alike, each begins with its place in the list.
pub(crate) fn shortened(names: &[String], width: usize) -> Vec<String> {
    let shown: Vec<String> = names.iter().map(|name| short(name, width)).collect();
    let distinct: HashSet<&String> = shown.iter().collect();
    if distinct.len() == shown.len() {
        return shown;
    }
    let numbered = names.iter().enumerate().map(|(at, name)| {
        let number = format!("{at}:");
        let rest = short(name, width.saturating_sub(number.len()));
        number + &rest
    });
    numbered.collect()
}

/// A name with its middle left out if it is longer.
fn short(name: &str, width: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= width {
        return name.to_owned();
    }
    let room = width.saturating_sub(1);
    let (head, tail) = (room / 3, room - room / 3);
    let head: String = letters[..head].iter().collect();
    let tail: String = letters[letters.len() - tail..].iter().collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_two_models() {
        let check = |given: &[(&str, &str)], expected: Option<&str>| {
            let names: Vec<String> = given.iter().map(|(name, _)| (*name).to_owned()).collect();
            let paths: Vec<PathBuf> = given.iter().map(|(_, path)| path.into()).collect();
            assert_eq!(shared_name(&names, &paths), expected);
        };
        check(&[("a", "x"), ("b", "y")], None);
        check(&[("a", "x"), ("a", "x")], None);
        check(&[("a", "x"), ("b", "y"), ("a", "y")], Some("a"));
    }

    #[test]
    fn names_are_short_and_unique() {
        let check = |reference: &str, models: &[&str], expected: &[&str]| {
            let models: Vec<PathBuf> = models.iter().map(PathBuf::from).collect();
            assert_eq!(named(Path::new(reference), &models).0, expected);
        };
        check("m/hf", &["out/a.gguf", "out/b.gguf"], &["hf", "a.gguf", "b.gguf"]);
        check("hf", &["rtn/w4", "gptq/w4"], &["hf", "rtn/w4", "gptq/w4"]);
        check("hf", &["a/x/w4", "b/x/w4", "q8"], &["hf", "a/x/w4", "b/x/w4", "q8"]);
        check("hf", &["RTN=out/w4", "out/w4"], &["hf", "RTN", "out/w4"]);
        check("hf", &["w4", "out/w4"], &["hf", "w4", "out/w4"]);
        check("hf/", &["hf"], &["hf", "hf"]);
        check("/m/hf", &["/m/hf"], &["/m/hf", "/m/hf"]);
    }

    #[test]
    fn long_names_lose_their_middle() {
        let check = |names: &[&str], expected: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(shortened(&names, 10), expected);
        };
        check(&["short", "a-rather-long-w4g64"], &["short", "a-r…-w4g64"]);
        check(&["aaa-1-aaaaaaaaa", "aaa-2-aaaaaaaaa"], &["0:aa…aaaaa", "1:aa…aaaaa"]);
    }
}
