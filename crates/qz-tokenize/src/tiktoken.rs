//! Vocabularies of tiktoken: files with a token in base 64 and its rank in each line. What is no
//! such token, and how text is split, stands in the model's own code: here for the files that are
//! known. Merges follow from the ranks (`QwenModel.bpe` in `conversion/qwen.py`).

use std::collections::HashMap;

use qz_tensor::SideFiles;
use serde_json::Value;

use crate::base64;
use crate::byte_level::letter_of;
use crate::error::Error;
use crate::json::{Settings, fault, read_bytes, token_content};
use crate::token_types::{CONTROL, NORMAL, UNUSED, padding};
use crate::tokenizer_file::{MOST_TOKENS, Surroundings};
use crate::vocabulary::{TokenTable, VocabularyOptions, check_size};

/// Bytes of a token: more than any has, and few enough to look at all pairs again and again.
const LONGEST: usize = 1024;

/// A family with such a file.
struct Family {
    /// The file's name.
    file: &'static str,
    /// The name of its pre-tokenizer.
    pre_tokenizer: &'static str,
    /// The tokens behind those of the file, for which the settings may have other contents: the
    /// content of the one that is so far from the first, which has this id.
    further: fn(usize, usize) -> Option<String>,
}

static FAMILIES: &[Family] = &[
    // Kimi K2 and Moonlight: `tokenization_kimi.py`, `tokenization_moonshot.py`.
    Family {
        file: "tiktoken.model",
        pre_tokenizer: "kimi-k2",
        further: |number, id| (number < 258).then(|| format!("<|reserved_token_{id}|>")),
    },
    // Hunyuan with experts: `tokenization_hy.py`.
    Family {
        file: "hy.tiktoken",
        pre_tokenizer: "hunyuan",
        further: |number, _| match HUNYUAN.get(number) {
            Some(token) => Some((*token).to_owned()),
            None => (number < HUNYUAN.len() + 205)
                .then(|| format!("<|extra_{}|>", number - HUNYUAN.len())),
        },
    },
];
const HUNYUAN: &[&str] = &["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"];

/// The tokens of such a file, if there is one that is known.
pub(crate) fn tiktoken_tokens(
    files: &dyn SideFiles,
    settings: &Settings,
    options: VocabularyOptions<'_>,
) -> Result<Option<TokenTable>, Error> {
    for family in FAMILIES {
        if let Some(bytes) = read_bytes(files, family.file)? {
            return family.table(files, &bytes, settings, options).map(Some);
        }
    }
    Ok(None)
}

impl Family {
    fn table(
        &self,
        files: &dyn SideFiles,
        bytes: &[u8],
        settings: &Settings,
        options: VocabularyOptions<'_>,
    ) -> Result<TokenTable, Error> {
        let ranked = ranked(bytes).map_err(|fault_of| {
            let Fault { line, problem } = fault_of;
            fault(files, self.file, format!("line {}", line.saturating_add(1)), problem)
        })?;
        let count = ranked.len();
        let size = check_size(files, options.size.unwrap_or(count as u64))?;
        if (count as u64) > size {
            let problem = format!("has {count} tokens, but the model {size} (vocab_size)");
            return Err(fault(files, self.file, "(root)", problem));
        }
        let stated = settings.tokenizer.get("added_tokens_decoder");
        let further = |id: usize| -> (String, i32) {
            let content = self.further_token(stated, id.saturating_sub(count), id);
            match content {
                Some(content) => (content, CONTROL),
                None => (padding(id as u64), UNUSED),
            }
        };
        let own = ranked.iter().map(|token| (letters(token), NORMAL));
        let (tokens, types) = own.chain((count..size as usize).map(further)).unzip();
        Ok(TokenTable {
            model: "gpt2",
            pre_tokenizer: Some(options.pre_tokenizer.unwrap_or(self.pre_tokenizer).to_owned()),
            tokens,
            scores: None,
            types,
            merges: Some(merges(&ranked)),
            space_prefix: None,
            normalizer: None,
            surroundings: Surroundings::default(),
            unsaid: Vec::new(),
            unnamed: None,
        })
    }

    /// The content of a token behind the file's, if there is one.
    fn further_token(&self, stated: Option<&Value>, number: usize, id: usize) -> Option<String> {
        let assumed = (self.further)(number, id)?;
        let stated = stated.and_then(|tokens| tokens.get(id.to_string()));
        Some(stated.and_then(token_content).map_or(assumed, str::to_owned))
    }
}

/// What is wrong with a line.
#[derive(Debug, PartialEq)]
struct Fault {
    line: usize,
    problem: String,
}

/// The file's tokens, in order of their ranks.
fn ranked(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    for (line, text) in lines.filter(|(_, text)| !text.trim_ascii().is_empty()) {
        let fault = |problem: String| Fault { line, problem };
        let mut words = text.trim_ascii().split(|byte| *byte == b' ');
        let (Some(token), Some(rank), None) = (words.next(), words.next(), words.next()) else {
            return Err(fault("is no token and its rank".to_owned()));
        };
        let rank = std::str::from_utf8(rank).ok().and_then(|rank| rank.parse::<usize>().ok());
        if rank != Some(tokens.len()) || tokens.len() as u64 >= MOST_TOKENS {
            return Err(fault(format!("has not the next rank, {}", tokens.len())));
        }
        let token = std::str::from_utf8(token)
            .ok()
            .and_then(base64::decode)
            .filter(|token| !token.is_empty());
        match token {
            Some(token) if token.len() <= LONGEST => tokens.push(token),
            Some(_) => return Err(fault(format!("has a token of more than {LONGEST} bytes"))),
            None => return Err(fault("has a token that is not in base 64".to_owned())),
        }
    }
    let mut lines: HashMap<&[u8], usize> = HashMap::with_capacity(tokens.len());
    for (line, token) in tokens.iter().enumerate() {
        if let Some(first) = lines.insert(token, line) {
            return Err(Fault { line, problem: format!("has the token of rank {first} again") });
        }
    }
    Ok(tokens)
}

/// A token in the alphabet of byte-level tokens.
fn letters(token: &[u8]) -> String {
    token.iter().map(|byte| letter_of(*byte)).collect()
}

/// The merge that makes each token: of the two that are left once all merges of lower rank are
/// done. A token that is left in more parts has none.
fn merges(ranked: &[Vec<u8>]) -> Vec<String> {
    let ranks: HashMap<&[u8], usize> =
        ranked.iter().enumerate().map(|(rank, token)| (token.as_slice(), rank)).collect();
    let merge = |(rank, token): (usize, &Vec<u8>)| match parts(&ranks, token, rank).as_slice() {
        [0, middle, _] => {
            let (left, right) = token.split_at_checked(*middle)?;
            Some(format!("{} {}", letters(left), letters(right)))
        }
        _ => None,
    };
    ranked.iter().enumerate().filter_map(merge).collect()
}

/// Where the parts of a token begin and the last ends, once all merges of less than a rank are
/// done, the lowest first.
fn parts(ranks: &HashMap<&[u8], usize>, token: &[u8], rank: usize) -> Vec<usize> {
    let mut ends: Vec<usize> = (0..=token.len()).collect();
    loop {
        let pairs = ends.windows(3).zip(1..);
        let of_pair = pairs.filter_map(|(pair, middle)| {
            let [start, _, end] = pair else { return None };
            Some((*ranks.get(token.get(*start..*end)?)?, middle))
        });
        match of_pair.min() {
            Some((lowest, middle)) if lowest < rank => _ = ends.remove(middle),
            _ => return ends,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_tokens_and_ranks() {
        let check = |text: &str, expected: Result<&[&[u8]], (usize, &str)>| {
            let expected = expected
                .map(|tokens| tokens.iter().map(|token| token.to_vec()).collect::<Vec<_>>())
                .map_err(|(line, problem)| Fault { line, problem: problem.to_owned() });
            assert_eq!(ranked(text.as_bytes()), expected, "{text}");
        };
        check("YQ== 0\nYWI= 1\n/+8A 2\n", Ok(&[b"a", b"ab", b"\xff\xef\x00"]));
        check("\nYQ== 0\r\n\n", Ok(&[b"a"]));
        check("YQ== 1", Err((0, "has not the next rank, 0")));
        check("YQ== 0\nYg==", Err((1, "is no token and its rank")));
        check("YQ== 0\nYQ== 1", Err((1, "has the token of rank 0 again")));
        for wrong in ["YQ", "YQ=", "Y===", "====", "YQ==YQ==", "Y*==", ""] {
            let text = format!("{wrong} 0");
            assert!(ranked(text.as_bytes()).is_err(), "{wrong}");
        }
    }

    /// As `QwenModel.bpe` of the reference finds them.
    #[test]
    fn merges_follow_from_ranks() {
        let tokens = ["a", "b", "c", "bc", "ab", "abc", "aabc", "cab"];
        let tokens: Vec<Vec<u8>> = tokens.iter().map(|token| token.as_bytes().to_vec()).collect();
        // "bc" comes before "ab": of "abc" that is what is merged first.
        assert_eq!(merges(&tokens), ["b c", "a b", "a bc", "a abc", "c ab"]);
        // Of three letters nothing makes two.
        let alone: Vec<Vec<u8>> = [&b"x"[..], b"y", b"xyx"].map(<[u8]>::to_vec).to_vec();
        assert!(merges(&alone).is_empty());
    }
}
