//! What a conversion can be asked for: `format:scheme`.

use std::fmt;
use std::str::FromStr;

use qz_plan::{FILE_TYPES, FileType};

/// A container format and the types its tensors get. `gguf:` may be left out.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A GGUF file type.
    FileType(&'static FileType),
    /// A GGUF model as it is: types, order of tensors and metadata.
    Copy,
}

const COPY: &str = "copy";

/// A target that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("no such target: {given}; there are: {}", known.join(", "))]
pub struct UnknownTarget {
    given: String,
    known: Vec<&'static str>,
}

impl Target {
    /// All that can be written, as they are called on the command line. Others
    /// are known, but want a type for which there is no codec yet.
    pub fn names() -> Vec<&'static str> {
        let has_codec = |data_type| qz_codec::codec_for(data_type).is_some();
        let is_writable = |file_type: &&FileType| file_type.data_types().all(has_codec);
        let names = FILE_TYPES.iter().filter(is_writable).map(|file_type| file_type.name);
        names.chain([COPY]).collect()
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::FileType(file_type) => file_type.name,
            Self::Copy => COPY,
        }
    }

    /// The file's name for a model called `stem`: `stem-Q4_K_M.gguf`.
    pub fn file_name(self, stem: &str) -> String {
        format!("{stem}-{}.gguf", self.name().to_uppercase())
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Self, UnknownTarget> {
        let scheme = text.strip_prefix("gguf:").unwrap_or(text);
        if scheme.eq_ignore_ascii_case(COPY) {
            return Ok(Self::Copy);
        }
        FileType::from_name(scheme)
            .map(Self::FileType)
            .ok_or_else(|| UnknownTarget { given: text.to_owned(), known: Self::names() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                text.parse::<Target>().ok().map(|target| target.to_string()),
                expected.map(str::to_owned)
            );
        };
        check("q4_k_m", Some("q4_k_m"));
        check("gguf:Q6_K", Some("q6_k"));
        check("iq3_xxs", Some("iq3_xxs"));
        check("COPY", Some("copy"));
        check("gptq:w4", None);
        check("", None);
    }

    #[test]
    fn what_is_listed_can_be_written() {
        let names = Target::names();
        assert!(names.contains(&"q4_k_m"), "{names:?}");
        for name in names {
            let Ok(Target::FileType(file_type)) = name.parse() else { continue };
            let codecs = file_type.data_types().map(qz_codec::codec_for);
            assert!(codecs.into_iter().all(|codec| codec.is_some()), "{name}");
        }
    }
}
