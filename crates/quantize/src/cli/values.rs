//! Values of options: how they are read, and which there are.

use std::ffi::OsStr;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::Path;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command};
use qz_pipeline::qz_methods::{METHODS, method_named};
use qz_pipeline::{
    ENGINES, Engine, InvalidOverride, Isa, MergedAdapter, TRANSFORMS, Target, TensorOverride,
    Transform, UnknownTarget, Wish, element_type,
};
use qz_tensor::{DATA_TYPES, DataType};

use crate::hub::model_path;

/// Values by name: those that are listed by help texts and completions, and what reads them.
macro_rules! named {
    ($(#[$doc:meta])* $parser:ident: $value:ty, $parse:expr, $names:expr) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub(super) struct $parser;

        impl TypedValueParser for $parser {
            type Value = $value;

            fn parse_ref(
                &self,
                command: &Command,
                argument: Option<&Arg>,
                value: &OsStr,
            ) -> Result<$value, clap::Error> {
                $parse.parse_ref(command, argument, value)
            }

            fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
                Some(Box::new($names.map(PossibleValue::new)))
            }
        }
    };
}

named!(
    /// Targets, as text: those that do not exist are reported together, with those that do not
    /// fit the model.
    TargetParser: String,
    |text: &str| Ok::<_, String>(text.to_owned()),
    Target::names().into_iter()
);

named!(
    /// Element types of GGUF.
    TypeParser: DataType,
    |text: &str| element_type(text).map_err(|error| error.to_string()),
    type_names()
);

named!(
    /// Engines.
    EngineParser: Engine,
    str::parse::<Engine>,
    ENGINES.iter().map(|engine| engine.name())
);

/// Types of single tensors: types of GGUF, or schemes of packed targets.
pub(super) fn parse_tensor_override(text: &str) -> Result<TensorOverride, String> {
    let wish: TensorOverride = text.parse().map_err(|error: InvalidOverride| error.to_string())?;
    if let Wish::Scheme(scheme) = wish.wish() {
        let target: Target = scheme.parse().map_err(|error: UnknownTarget| error.to_string())?;
        if !target.is_packed() {
            return Err(format!("{scheme} is no scheme of packed matrices"));
        }
    }
    Ok(wish)
}

/// A method, and what is done to the model before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct MethodChoice {
    pub(super) transform: Option<Transform>,
    pub(super) method: &'static str,
}

fn method_choices() -> impl Iterator<Item = String> {
    let methods = || METHODS.iter().map(|method| method.name().to_owned());
    let transformed = TRANSFORMS.iter().flat_map(move |transform| {
        let name = transform.name();
        let both = methods().map(move |method| format!("{name}+{method}"));
        std::iter::once(name.to_owned()).chain(both)
    });
    METHODS.iter().map(|method| method.name().to_owned()).chain(transformed)
}

named!(
    /// Methods.
    MethodParser: MethodChoice,
    |text: &str| {
        let is_named = |transform: &&Transform| {
            text.strip_prefix(transform.name())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
        };
        let transform = TRANSFORMS.iter().copied().find(|transform| is_named(&transform));
        let rest = transform.map_or(text, |transform| match &text[transform.name().len()..] {
            "" => transform.usual_method(),
            rest => &rest[1..],
        });
        method_named(rest).map(|method| MethodChoice { transform, method: method.name() }).ok_or_else(|| {
            let known: Vec<String> = method_choices().collect();
            format!("no such method; there are: {}", known.join(", "))
        })
    },
    method_choices()
);

/// The element types that GGUF has, as they are written in options.
fn type_names() -> impl Iterator<Item = String> {
    let in_gguf = DATA_TYPES.iter().filter(|data_type| data_type.spec().ggml.is_some());
    in_gguf.map(|data_type| data_type.name().to_lowercase())
}

/// An instruction set of this machine.
pub(super) fn parse_instruction_set(name: &str) -> Result<Isa, String> {
    let isa: Isa = name.parse().map_err(|error: qz_pipeline::IsaError| error.to_string())?;
    match isa.is_supported() {
        true => Ok(isa),
        false => Err(qz_pipeline::IsaError::Unsupported(isa).to_string()),
    }
}

/// A size as llama.cpp's converter takes it: a number, or thousands, millions or
/// thousand millions.
pub(super) fn parse_size(text: &str) -> Result<NonZeroU64, String> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let wanted = "expected a positive number of bytes, or one with K, M or G";
    size.and_then(NonZeroU64::new).ok_or_else(|| wanted.to_owned())
}

/// A number that is not negative.
pub(super) fn parse_amount(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a number that is not negative".to_owned())
}

/// A damping, or none that is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct PropagationDamping(pub(super) Option<f64>);

pub(super) fn parse_propagation_damping(text: &str) -> Result<PropagationDamping, String> {
    match text {
        "auto" => Ok(PropagationDamping(None)),
        _ => match parse_amount(text) {
            Ok(number) => Ok(PropagationDamping(Some(number))),
            Err(error) => Err(format!("{error}, or auto")),
        },
    }
}

/// Layers that follow each other.
pub(crate) type Layers = RangeInclusive<u32>;

/// A layer, or the first and the last of some: `7-9`.
pub(super) fn parse_layers(text: &str) -> Result<Layers, String> {
    let number = |text: &str| text.parse::<u32>().ok();
    let range = match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)),
        None => number(text).map(|layer| (layer, layer)),
    };
    match range {
        Some((first, last)) if first <= last => Ok(first..=last),
        _ => Err("not the number of a layer, nor of the first and the last of some".to_owned()),
    }
}

/// An adapter, with what its change is multiplied by behind it.
pub(super) fn parse_adapter(text: &str) -> Result<MergedAdapter, String> {
    let adapter = |path: &str, weight| MergedAdapter { path: model_path(path.into()), weight };
    match text.rsplit_once('=') {
        Some((path, weight)) if !Path::new(text).exists() => {
            let number = weight.parse::<f64>().ok().filter(|number| number.is_finite());
            let number = number.ok_or_else(|| format!("{weight} is no weight"))?;
            Ok(adapter(path, number))
        }
        _ => Ok(adapter(text, 1.0)),
    }
}

/// A share of the whole: 0.9 or 90%.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse().ok().map(|number: f64| number / 100.0),
        None => text.parse().ok(),
    };
    let number = number.filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "expected a number from 0 to 1, or a percentage".to_owned())
}

/// A bound that a figure may not pass. None is passed by what is no number.
pub(super) fn parse_limit(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|limit: &f64| limit.is_finite() && *limit >= 0.0);
    number.ok_or_else(|| "expected a number from 0 on".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let check =
            |text: &str, expected: Option<f64>| assert_eq!(parse_limit(text).ok(), expected);
        check("0.05", Some(0.05));
        check("0", Some(0.0));
        check("-1", None);
        check("nan", None);
        check("inf", None);
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_size(text).ok().map(NonZeroU64::get), expected, "{text}");
        };
        check("7", Some(7));
        check("2K", Some(2_000));
        check("300M", Some(300_000_000));
        check("48G", Some(48_000_000_000));
        check("0", None);
        check("0G", None);
        check("-1M", None);
        check("1.5G", None);
        check("2T", None);
        check("G", None);
        check("", None);
        check("18446744073709551615G", None);
    }

    #[test]
    fn shares() {
        let check = |text: &str, expected: Option<f64>| {
            assert_eq!(parse_share(text).ok(), expected, "{text}");
        };
        check("0.9", Some(0.9));
        check("90%", Some(0.9));
        check("90 %", Some(0.9));
        check("1", Some(1.0));
        check("90", None);
        check("101%", None);
        check("-1", None);
        check("NaN", None);
        check("%", None);
    }
}
