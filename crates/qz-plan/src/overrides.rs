//! What a person says about types, over the file type's rules; the options and
//! their order of precedence are llama-quantize's.

use std::fmt;
use std::str::FromStr;

use qz_tensor::{DATA_TYPES, DataType};
use regex::Regex;

use crate::file_type::FileType;
use crate::suggestion::{did_you_mean, nearest};

/// Wishes over a file type's rules.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The first whose pattern is found in a tensor's name, and whose wish the format can
    /// fulfil, decides instead of the rules. Without effect on file types that are not made of
    /// blocks.
    pub tensors: Vec<TensorOverride>,
    /// The output matrix's type, or that of a token embedding standing for it.
    pub output: Option<DataType>,
    /// The token embedding's type.
    pub token_embedding: Option<DataType>,
    /// Leave `output.weight` in its source's precision.
    pub leave_output: bool,
    /// Give every tensor the base type, whatever the rules say.
    pub pure: bool,
}

impl Overrides {
    /// The first pattern found in `name` whose wish is one of those that `wanted` takes: its
    /// position, and what that makes of it.
    pub fn first_match<'a, T>(
        &'a self,
        name: &str,
        wanted: impl Fn(&'a Wish) -> Option<T>,
    ) -> Option<(usize, T)> {
        let matching = self.tensors.iter().enumerate();
        let mut matching = matching.filter(|(_, tensor)| tensor.matches(name));
        matching.find_map(|(position, tensor)| Some((position, wanted(&tensor.wish)?)))
    }

    /// The first pattern found in `name` that wishes an element type.
    pub fn first_type(&self, name: &str) -> Option<(usize, DataType)> {
        self.first_match(name, Wish::data_type)
    }
}

/// What a tensor is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// An element type of GGUF.
    Type(DataType),
    /// A scheme of a packed family, as targets are called: `gptq:w8g128`.
    Scheme(String),
}

impl Wish {
    /// The element type, if it is one.
    pub fn data_type(&self) -> Option<DataType> {
        match self {
            Self::Type(data_type) => Some(*data_type),
            Self::Scheme(_) => None,
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(data_type) => data_type.fmt(f),
            Self::Scheme(scheme) => f.write_str(scheme),
        }
    }
}

/// `REGEX=TYPE`: tensors in whose name the pattern is found get the type, or the scheme.
#[derive(Clone, Debug)]
pub struct TensorOverride {
    pattern: Regex,
    wish: Wish,
}

impl TensorOverride {
    /// True if the pattern is found in `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.pattern.is_match(name)
    }

    /// What they get.
    pub fn wish(&self) -> &Wish {
        &self.wish
    }
}

impl fmt::Display for TensorOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.wish)
    }
}

/// Why a text is no override.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOverride {
    /// Not of the form.
    #[error("expected REGEX=TYPE")]
    Form,
    /// The pattern does not compile.
    #[error("{0}")]
    Pattern(#[from] regex::Error),
    /// No element type of GGUF has this name.
    #[error(transparent)]
    Type(#[from] UnknownType),
}

/// No element type of GGUF has this name.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no such element type: {given}{}", instead_of(given))]
pub struct UnknownType {
    given: String,
}

/// What may have been meant: a file type's base, or types of similar names.
fn instead_of(given: &str) -> String {
    if let Some(FileType { name, base, .. }) = FileType::from_name(given) {
        return format!("; {name} is a file type, its base is {}", base.name().to_lowercase());
    }
    let known: Vec<String> = DATA_TYPES
        .iter()
        .filter(|data_type| data_type.spec().ggml.is_some())
        .map(|data_type| data_type.name().to_lowercase())
        .collect();
    match nearest(given, known.iter().map(String::as_str)).as_slice() {
        [] => "; types are q4_k, q8_0, iq4_xs, bf16 and the like".to_owned(),
        names => did_you_mean(names),
    }
}

/// The element type called `name`, if GGUF has it.
///
/// # Errors
/// If there is none.
pub fn element_type(name: &str) -> Result<DataType, UnknownType> {
    DataType::from_name(name)
        .filter(|data_type| data_type.spec().ggml.is_some())
        .ok_or_else(|| UnknownType { given: name.to_owned() })
}

impl FromStr for TensorOverride {
    type Err = InvalidOverride;

    /// The last `=` divides, so that the pattern may hold one. The pattern is
    /// taken as it is; llama-quantize makes it lower-case, which turns `\D` into
    /// `\d`.
    fn from_str(text: &str) -> Result<Self, InvalidOverride> {
        let (pattern, name) = text.rsplit_once('=').ok_or(InvalidOverride::Form)?;
        if pattern.is_empty() {
            return Err(InvalidOverride::Form);
        }
        // No element type has a colon in its name. Which schemes there are is not known here.
        let wish = match name.contains(':') {
            true => Wish::Scheme(name.to_owned()),
            false => Wish::Type(element_type(name)?),
        };
        Ok(Self { pattern: Regex::new(pattern)?, wish })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let parsed = text.parse::<TensorOverride>();
            match expected {
                Ok(shown) => assert_eq!(parsed.expect("parses").to_string(), shown),
                Err(part) => {
                    let message = parsed.expect_err("refused").to_string();
                    assert!(message.contains(part), "{text}: {message}");
                }
            }
        };
        check("attn_v=q8_0", Ok("attn_v=Q8_0"));
        check(r"^blk\.(\d+)\.ffn=IQ4_XS", Ok(r"^blk\.(\d+)\.ffn=IQ4_XS"));
        check("a=b=q4_k", Ok("a=b=Q4_K"));
        check("ffn_down=gptq:w8g128", Ok("ffn_down=gptq:w8g128"));
        check("attn_v", Err("REGEX=TYPE"));
        check("=q8_0", Err("REGEX=TYPE"));
        check("attn_v=q4_k_m", Err("file type"));
        check("attn_v=q4km", Err("did you mean q4_k?"));
        check("attn_v=int4", Err("types are q4_k"));
        check("attn_v=u32", Err("no such element type"));
        check("(=q8_0", Err("unclosed group"));
    }

    #[test]
    fn patterns_are_searched_for_and_the_first_wins() {
        let overrides = Overrides {
            tensors: ["attn_v=ct:w8a8", "attn_v=q8_0", "attn=q6_k", "V=q2_k"]
                .map(|text| text.parse().expect("parses"))
                .into(),
            ..Overrides::default()
        };
        let check = |name: &str, expected| assert_eq!(overrides.first_type(name), expected);
        check("blk.0.attn_v.weight", Some((1, DataType::Q8_0)));
        check("blk.0.attn_q.weight", Some((2, DataType::Q6_K)));
        check("blk.0.ffn_up.weight", None);
    }
}
