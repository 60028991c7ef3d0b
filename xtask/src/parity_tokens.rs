//! Token ids against llama.cpp: its vocabularies with their test texts and the
//! ids it expects, and what `llama-tokenize` makes of whole files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use qz_gguf::GgufFile;
use qz_tensor::TensorSource;
use qz_tokenize::{EncodeOptions, TokenId, Tokenizer};

/// What separates the texts of a test set.
const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

/// Compares every vocabulary in llama.cpp's `models` folder, and those beside
/// them.
pub(crate) fn run(
    source: &Path,
    binaries: Option<&Path>,
    texts: &[PathBuf],
    further: &[PathBuf],
) -> Result<()> {
    let mut vocabularies: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(source.join("models"))? {
        let path = entry?.path();
        vocabularies.extend(path.extension().is_some_and(|end| end == "gguf").then_some(path));
    }
    vocabularies.sort();
    vocabularies.extend_from_slice(further);
    let mut differing = 0;
    let mut sets = 0;
    for path in &vocabularies {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let file = GgufFile::open(path)?;
        let start = Instant::now();
        let tokenizer = match Tokenizer::from_metadata(file.metadata()) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                println!("{name:<28} refused: {error}");
                ensure!(!with_suffix(path, ".inp").exists(), "{name} is refused");
                continue;
            }
        };
        let load = start.elapsed();
        println!("{name:<28} {} tokens, read in {load:.0?}", tokenizer.token_count());
        if with_suffix(path, ".inp").exists() {
            sets += 1;
            differing += compare_set(&tokenizer, path)?;
        }
        for text in texts {
            let program = binaries.context("--text needs --binaries")?.join("llama-tokenize");
            differing += compare_file(&tokenizer, &program, path, text)?;
        }
    }
    println!("{sets} test sets");
    ensure!(differing == 0, "{differing} texts have other tokens than the reference's");
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// How many of a vocabulary's test texts have other ids.
fn compare_set(tokenizer: &Tokenizer, path: &Path) -> Result<usize> {
    let texts = fs::read_to_string(with_suffix(path, ".inp"))?;
    let expected = fs::read_to_string(with_suffix(path, ".out"))?;
    let texts: Vec<&str> = texts.split(SEPARATOR).collect();
    let expected: Vec<&str> = expected.lines().collect();
    // A separator may stand at the end.
    let texts = &texts[..texts.len().min(expected.len())];
    ensure!(texts.len() == expected.len(), "{}: texts and ids differ in number", path.display());
    let mut differing = 0;
    for (text, line) in texts.iter().zip(&expected) {
        let wanted: Vec<u32> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let found = ids(&tokenizer.encode(text, EncodeOptions::default())?);
        if found != wanted {
            differing += 1;
            println!("    {text:?}: {found:?}, expected {wanted:?}");
        }
    }
    println!("    {} test texts, {differing} differing", texts.len());
    Ok(differing)
}

fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|id| id.0).collect()
}

/// 1 if a whole file has other ids, with and without special tokens.
fn compare_file(
    tokenizer: &Tokenizer,
    program: &Path,
    vocabulary: &Path,
    text: &Path,
) -> Result<usize> {
    let name = text.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let content = fs::read_to_string(text)?;
    let mut differing = 0;
    for (options, flags) in [
        (EncodeOptions { add_special: true, parse_special: true }, [].as_slice()),
        (EncodeOptions::default(), &["--no-parse-special", "--no-bos"]),
    ] {
        let mut command = Command::new(program);
        command.args(["--ids", "--log-disable", "--no-escape", "-m"]).arg(vocabulary);
        let output = command.arg("-f").arg(text).args(flags).output().context("llama-tokenize")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            println!("    {name}: the reference fails: {}", said.lines().last().unwrap_or(""));
            continue;
        }
        let list = String::from_utf8(output.stdout)?;
        let list = list.trim().trim_start_matches('[').trim_end_matches(']');
        let numbers = list.split(", ").filter(|number| !number.is_empty());
        let wanted: Vec<u32> = numbers.map(str::parse).collect::<Result<_, _>>()?;
        // The program leaves out what goes around a text where no first token is
        // added.
        let add_special = options.add_special && tokenizer.adds_bos();
        let start = Instant::now();
        let found = ids(&tokenizer.encode(&content, EncodeOptions { add_special, ..options })?);
        let time = start.elapsed();
        let count = found.len();
        match first_difference(&found, &wanted) {
            None => println!("    {name}: {count} ids, equal, in {time:.0?}"),
            Some(place) => {
                differing = 1;
                let around = |ids: &[u32]| {
                    let ids =
                        &ids[place.saturating_sub(3).min(ids.len())..ids.len().min(place + 5)];
                    let pieces = ids.iter().map(|id| (*id, tokenizer.decode(&[TokenId(*id)])));
                    format!("{:?}", pieces.collect::<Vec<_>>())
                };
                println!("    {name}: differs from id {place} on");
                println!("        {}", around(&found));
                println!("        {}", around(&wanted));
            }
        }
    }
    Ok(differing)
}

fn first_difference(found: &[u32], wanted: &[u32]) -> Option<usize> {
    let equal = found.iter().zip(wanted).take_while(|(found, wanted)| found == wanted).count();
    (equal < found.len() || equal < wanted.len()).then_some(equal)
}
