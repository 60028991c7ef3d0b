//! The JSON that lies beside the weights as a tensor of bytes (`QuantState.as_dict`).

use qz_tensor::DataType;
use serde_json::Value;

use super::blocks::Kind;

/// What the JSON says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) kind: Kind,
    pub(super) block: u64,
    pub(super) data_type: DataType,
    pub(super) rows: u64,
    pub(super) columns: u64,
    /// Blocks of the second quantization, and what was subtracted before.
    pub(super) nested: Option<(u64, f32)>,
}

/// torch's name of a type that weights are computed in.
pub(super) fn torch_name(data_type: DataType) -> &'static str {
    let known = TYPES.iter().find(|(known, _)| *known == data_type);
    known.map_or("float32", |(_, name)| name)
}

const TYPES: &[(DataType, &str)] =
    &[(DataType::F32, "float32"), (DataType::F16, "float16"), (DataType::BF16, "bfloat16")];

impl State {
    /// The text, as Python writes it.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            r#"{{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{}, {}]"#,
            self.kind.name(),
            self.block,
            torch_name(self.data_type),
            self.rows,
            self.columns,
        );
        if let Some((block, offset)) = self.nested {
            text += &format!(
                r#", "nested_blocksize": {block}, "nested_dtype": "float32", "nested_offset": {}"#,
                python_number(f64::from(offset)),
            );
        }
        text + "}"
    }

    /// The most bytes that the text has, whatever the offset.
    pub(super) fn room(&self) -> usize {
        /// `-1.2345678901234567e-38`, and a little more.
        const LONGEST: usize = 24;
        match self.nested {
            None => self.text().len(),
            Some((block, _)) => {
                let shortest = Self { nested: Some((block, 0.0)), ..self.clone() };
                let others = shortest.text().len().saturating_sub(python_number(0.0).len());
                others.saturating_add(LONGEST)
            }
        }
    }

    /// Takes the text apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let json: Value =
            serde_json::from_slice(bytes).map_err(|error| format!("is not JSON: {error}"))?;
        let field = |key: &str| json.get(key).filter(|value| !value.is_null());
        let text = |key: &str| {
            field(key).and_then(Value::as_str).ok_or_else(|| format!("has no text `{key}`"))
        };
        let positive = |key: &str| {
            let number = field(key).and_then(Value::as_u64).filter(|number| *number > 0);
            number.ok_or_else(|| format!("has no positive number `{key}`"))
        };
        let kind = text("quant_type")?;
        let kind = Kind::of(kind).ok_or_else(|| {
            format!("has the type {kind}, which is not known; there are: nf4, fp4")
        })?;
        let name = text("dtype")?;
        let data_type = TYPES.iter().find(|(_, known)| *known == name);
        let (data_type, _) = data_type
            .ok_or_else(|| format!("has weights of the type {name}, which is not known"))?;
        let dimensions = field("shape").and_then(Value::as_array).map(Vec::as_slice);
        let [rows, columns] = dimensions.unwrap_or_default() else {
            return Err("has no `shape` of a matrix".to_owned());
        };
        let (Some(rows), Some(columns)) = (rows.as_u64(), columns.as_u64()) else {
            return Err("has no `shape` of a matrix".to_owned());
        };
        let nested = match field("nested_blocksize") {
            None => None,
            Some(_) => {
                let offset = field("nested_offset").and_then(Value::as_f64);
                let offset = offset.ok_or("has no number `nested_offset`")?;
                Some((positive("nested_blocksize")?, offset as f32))
            }
        };
        Ok(Self {
            kind,
            block: positive("blocksize")?,
            data_type: *data_type,
            rows,
            columns,
            nested,
        })
    }
}

/// A finite number as Python writes it: the shortest digits that read back, an exponent of
/// at least two digits below 1e-4.
fn python_number(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_python_writes_them() {
        let check = |number: f64, expected: &str| assert_eq!(python_number(number), expected);
        check(0.0, "0.0");
        check(1.0, "1.0");
        check(-2.5, "-2.5");
        check(2.626_778_602_600_097_7, "2.6267786026000977");
        check(0.000_1, "0.0001");
        check(0.000_01, "1e-05");
        check(1.25e-7, "1.25e-07");
        check(1e16, "1e+16");
        check(123_456_789.0, "123456789.0");
        check(1.5e-38, "1.5e-38");
    }

    #[test]
    fn texts_come_back() {
        let state = State {
            kind: Kind::Nf4,
            block: 64,
            data_type: DataType::BF16,
            rows: 48,
            columns: 512,
            nested: Some((256, 1.25)),
        };
        let plain = State { nested: None, ..state.clone() };
        for state in [state, plain] {
            assert_eq!(State::parse(state.text().as_bytes()), Ok(state.clone()));
            assert!(state.text().len() <= state.room());
            let padded = format!("{:1$}", state.text(), state.room());
            assert_eq!(State::parse(padded.as_bytes()), Ok(state));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, expected: &str| {
            assert_eq!(State::parse(text.as_bytes()), Err(expected.to_owned()), "{text}");
        };
        check(
            r#"{"quant_type": "nf4", "blocksi"#,
            "is not JSON: EOF while parsing a string at line 1 column 30",
        );
        check("{}", "has no text `quant_type`");
        check(
            r#"{"quant_type": "af4"}"#,
            "has the type af4, which is not known; there are: nf4, fp4",
        );
        let head = r#"{"quant_type": "nf4", "dtype": "float32""#;
        check(&format!("{head}}}"), "has no `shape` of a matrix");
        check(&format!(r#"{head}, "shape": [1]}}"#), "has no `shape` of a matrix");
        check(&format!(r#"{head}, "shape": [1, 2]}}"#), "has no positive number `blocksize`");
        check(
            &format!(r#"{head}, "shape": [1, 2], "blocksize": 64, "nested_blocksize": 256}}"#),
            "has no number `nested_offset`",
        );
        check(
            r#"{"quant_type": "nf4", "dtype": "int8"}"#,
            "has weights of the type int8, which is not known",
        );
    }
}
