//! What a conversion can be asked for: `format:scheme`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use qz_packed::Activations;

use crate::error::Error;
use crate::format::{FORMATS, Format, TargetPlan};
use crate::model::Model;
use crate::planning::PlanOptions;
use crate::unknown_target::UnknownTarget;

/// A format and the types its tensors get. `gguf:` may be left out.
#[derive(Clone, Debug)]
pub struct Target {
    /// What is written.
    pub format: &'static Format,
    /// One of the format's schemes, in the spelling that reports use.
    pub scheme: Cow<'static, str>,
}

impl Target {
    /// What can be written, as it is called on the command line: all of some formats,
    /// the usual of those whose schemes have numbers in them. Others are known, but want
    /// a type for which there is no codec yet.
    pub fn names() -> Vec<String> {
        let names = |format: &&'static Format| {
            let format = *format;
            let target = move |scheme: &'static str| Self { format, scheme: scheme.into() };
            format.schemes().into_iter().map(move |scheme| target(scheme).to_string())
        };
        FORMATS.iter().flat_map(names).collect()
    }

    /// What the artifact of a model called `stem` is called: `stem-Q4_K_M.gguf`, or
    /// `stem-safetensors-bf16` for a folder.
    pub fn artifact_name(&self, stem: &str) -> String {
        self.format.artifact_name(stem, &self.scheme)
    }

    /// True if its artifact is a folder, false if it is a file.
    pub fn is_folder(&self) -> bool {
        self.format.is_folder()
    }

    /// True if its matrices are packed as a layout of its own says.
    pub fn is_packed(&self) -> bool {
        self.format.is_packed()
    }

    /// What engines round the inputs of its matrices to.
    pub fn activations(&self) -> Activations {
        self.format.activations(&self.scheme)
    }

    /// True if engines rotate the inputs of its matrices.
    pub(crate) fn rotates(&self) -> bool {
        self.format.rotates(&self.scheme)
    }

    /// True for a name of one of the format's targets.
    pub(crate) fn is_of(name: &str, format: &Format) -> bool {
        match name.split_once(':') {
            Some((of, _)) => of == format.name,
            None => FORMATS.first().is_some_and(|first| first.name == format.name),
        }
    }

    /// Plans it for a model.
    pub(crate) fn plan(&self, model: &Model, options: &PlanOptions) -> Result<TargetPlan, Error> {
        self.format.plan(model, &self.scheme, options)
    }

    fn find(text: &str) -> Option<Self> {
        let (format, scheme) = match text.split_once(':') {
            Some((name, scheme)) => (FORMATS.iter().find(|format| format.name == name)?, scheme),
            None => (FORMATS.first()?, text),
        };
        Some(Self { format, scheme: format.scheme(scheme)? })
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Self, UnknownTarget> {
        Self::find(text).ok_or_else(|| UnknownTarget::new(text))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_default = FORMATS.first().is_some_and(|first| first.name == self.format.name);
        match is_default {
            true => f.write_str(&self.scheme),
            false => write!(f, "{}:{}", self.format.name, self.scheme),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let target = text.parse::<Target>().ok();
            let found = target.map(|target| (target.to_string(), target.artifact_name("x")));
            let expected = expected.map(|(name, file)| (name.to_owned(), file.to_owned()));
            assert_eq!(found, expected, "{text}");
        };
        check("q4_k_m", Some(("q4_k_m", "x-Q4_K_M.gguf")));
        check("gguf:Q6_K", Some(("q6_k", "x-Q6_K.gguf")));
        check("iq3_xxs", Some(("iq3_xxs", "x-IQ3_XXS.gguf")));
        check("COPY", Some(("copy", "x-COPY.gguf")));
        check("safetensors:BF16", Some(("safetensors:bf16", "x-safetensors-bf16")));
        check("safetensors:q4_k_m", None);
        check("safetensors", None);
        check("gptq:w4", Some(("gptq:w4", "x-gptq-w4")));
        check("gptq:W4G128+V2", Some(("gptq:w4g128+v2", "x-gptq-w4g128-v2")));
        check("gptq:w5g128", None);
        check("awq:w4g64", Some(("awq:w4g64", "x-awq-w4g64")));
        check("awq:w8g128", None);
        check("ct:w4a16+g128", Some(("ct:w4a16", "x-ct-w4a16")));
        check("ct:w3a16+asym+channel", Some(("ct:w3a16+channel+asym", "x-ct-w3a16-channel-asym")));
        check("ct:w8a8", Some(("ct:w8a8", "x-ct-w8a8")));
        check("", None);
    }

    #[test]
    fn what_is_listed_can_be_written() {
        let names = Target::names();
        for name in ["q4_k_m", "copy", "safetensors:f32", "safetensors:f16", "safetensors:bf16"] {
            assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
        }
        for name in &names {
            assert_eq!(name.parse::<Target>().expect("known").to_string(), *name);
        }
    }
}
