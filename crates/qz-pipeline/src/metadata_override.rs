//! `--override-kv`: metadata as a person wants it.

use std::str::FromStr;

use qz_tensor::Value;

/// `KEY=TYPE:VALUE`: one entry of the output's metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataOverride {
    /// The key.
    pub key: String,
    /// What it will hold.
    pub value: Value,
}

/// Why a text is no metadata override.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMetadataOverride {
    /// Not of the form.
    #[error("expected KEY=TYPE:VALUE with a type of int, float, bool or str")]
    Form,
    /// The value is not of the type.
    #[error("{value:?} is no {kind}")]
    Value {
        /// The value given.
        value: String,
        /// What it should be.
        kind: &'static str,
    },
}

impl FromStr for MetadataOverride {
    type Err = InvalidMetadataOverride;

    /// Types are llama-quantize's: `int` becomes a `u32` (it writes the magnitude
    /// of a negative number, here that is an error), `float` an `f32`.
    fn from_str(text: &str) -> Result<Self, InvalidMetadataOverride> {
        let (key, typed) = text.split_once('=').ok_or(InvalidMetadataOverride::Form)?;
        let (kind, value) = typed.split_once(':').ok_or(InvalidMetadataOverride::Form)?;
        if key.is_empty() {
            return Err(InvalidMetadataOverride::Form);
        }
        let not_a = |kind| InvalidMetadataOverride::Value { value: value.to_owned(), kind };
        let value = match kind {
            "int" => {
                value.parse::<u32>().map_err(|_| not_a("integer from 0 to 4294967295"))?.into()
            }
            // Through f64, as the reference rounds.
            "float" => (value.parse::<f64>().map_err(|_| not_a("number"))? as f32).into(),
            "bool" => value.parse::<bool>().map_err(|_| not_a("true or false"))?.into(),
            "str" => value.into(),
            _ => return Err(InvalidMetadataOverride::Form),
        };
        Ok(Self { key: key.to_owned(), value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let check = |text: &str, expected: Option<Value>| {
            let parsed = text.parse::<MetadataOverride>().ok();
            assert_eq!(parsed.map(|parsed| parsed.value), expected, "{text}");
        };
        check("a.b=int:7", Some(Value::U32(7)));
        check("a.b=int:-7", None);
        check("a.b=int:4294967296", None);
        check("a.b=float:0.1", Some(Value::F32(0.1)));
        check("a.b=bool:true", Some(Value::Bool(true)));
        check("a.b=bool:1", None);
        check("a.b=str:x=y:z", Some(Value::String("x=y:z".into())));
        check("a.b=str:", Some(Value::String(String::new())));
        check("a.b=u8:1", None);
        check("a.b=1", None);
        check("=int:1", None);
        check("a.b", None);
    }
}
