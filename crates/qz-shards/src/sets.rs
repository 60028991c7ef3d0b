//! Which files of a folder are its weights, where no index says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use qz_tensor::FileError;

use crate::error::{Error, Fault, NameList};

/// A file's place among the files of a set: `STEM-00002-of-00003.EXTENSION`, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) stem: &'a str,
    number: u64,
    pub(crate) count: u64,
}

impl<'a> Place<'a> {
    /// The place that a file's name tells.
    pub(crate) fn of(name: &'a str, extension: &str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(extension)?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let number_of = |digits: &str| {
            let is_number = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<u64>().ok()).flatten()
        };
        let (number, count) = (number_of(number)?, number_of(count)?);
        (1..=count).contains(&number).then_some(Self { stem, number, count })
    }

    /// The names of all files of the set.
    pub(crate) fn names(self, extension: &str) -> Vec<String> {
        let Self { stem, count, .. } = self;
        (1..=count).map(|number| format!("{stem}-{number:05}-of-{count:05}{extension}")).collect()
    }
}

/// The names of the files in `folder` that end with `extension`, sorted.
pub(crate) fn names_in(folder: &Path, extension: &str) -> Result<Vec<String>, FileError> {
    let fail =
        |source: io::Error| FileError::Io { path: folder.to_owned(), action: "list", source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let Ok(name) = entry.map_err(fail)?.file_name().into_string() else { continue };
        if name.ends_with(extension) && is_weights(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What else has the extensions of weights: adapters, what trainers leave behind, and
/// weights under other names than Hugging Face's.
fn is_weights(name: &str) -> bool {
    const OTHERS: [&str; 10] = [
        ".",
        "adapter_",
        "consolidated",
        "lora",
        "non_lora",
        "optimizer",
        "rng_state",
        "scheduler",
        "training_args",
        "vocab",
    ];
    !OTHERS.iter().any(|prefix| name.starts_with(prefix))
}

/// The one set of weights among `names`: shards of which none is missing, else a file.
pub(crate) fn choose(
    folder: &Path,
    names: &[String],
    extension: &str,
) -> Result<Vec<String>, Error> {
    let mut sets: BTreeMap<(&str, u64), Place<'_>> = BTreeMap::new();
    let mut files = Vec::new();
    for name in names {
        match Place::of(name, extension) {
            Some(place) => _ = sets.insert((place.stem, place.count), place),
            None => files.push(name.clone()),
        }
    }
    let fail = |fault| Err(Error::new(folder, fault));
    match (sets.len(), files.len()) {
        (1, _) => {
            let Some(set) = sets.into_values().next() else { return Ok(Vec::new()) };
            complete(folder, set, extension)
        }
        (0, 1) => Ok(files),
        (0, _) => fail(Fault::SeveralWeights(NameList::new(files))),
        _ => {
            let firsts = sets.values().filter_map(|set| set.names(extension).into_iter().next());
            fail(Fault::SeveralWeights(NameList::new(firsts)))
        }
    }
}

/// The names of all files of a set, which must be there.
pub(crate) fn complete(
    folder: &Path,
    set: Place<'_>,
    extension: &str,
) -> Result<Vec<String>, Error> {
    let names = set.names(extension);
    if names.len() > crate::index::MAX_SHARDS {
        return Err(Error::new(folder, Fault::TooManyShards));
    }
    let missing = names.iter().filter(|name| folder.join(name).symlink_metadata().is_err());
    let missing = NameList::new(missing.cloned());
    if missing.is_empty() {
        Ok(names)
    } else {
        Err(Error::new(folder, Fault::MissingShards(missing)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let check = |name: &str, expected: Option<(&str, u64, u64)>| {
            let found =
                Place::of(name, ".bin").map(|place| (place.stem, place.number, place.count));
            assert_eq!(found, expected, "{name}");
        };
        check("pytorch_model-00002-of-00003.bin", Some(("pytorch_model", 2, 3)));
        check("a-b-00001-of-00001.bin", Some(("a-b", 1, 1)));
        check("a-00004-of-00003.bin", None);
        check("a-00000-of-00003.bin", None);
        check("a-2-of-3.bin", None);
        check("a-00002-of-00003.safetensors", None);
        check("-of-.bin", None);
        check("a.bin", None);
    }

    #[test]
    fn the_set_that_is_meant() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let check = |names: &[&str], expected: Result<&[&str], &str>| {
            names
                .iter()
                .for_each(|name| std::fs::write(folder.path().join(name), b"").expect("written"));
            let all = names_in(folder.path(), ".bin").expect("listed");
            match (choose(folder.path(), &all, ".bin"), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
            names
                .iter()
                .for_each(|name| std::fs::remove_file(folder.path().join(name)).expect("removed"));
        };
        check(&["own.bin"], Ok(&["own.bin"]));
        check(&["own.bin", "adapter_model.bin", "training_args.bin"], Ok(&["own.bin"]));
        check(&["a.bin", "b.bin"], Err("a.bin, b.bin"));
        let both = ["m-00001-of-00002.bin", "m-00002-of-00002.bin"];
        check(&both, Ok(&both));
        check(&[both[0], both[1], "own.bin"], Ok(&both));
        check(&[both[1]], Err("missing shards: m-00001-of-00002.bin"));
        check(&["a-00001-of-00001.bin", "b-00001-of-00001.bin"], Err("several sets"));
    }
}
