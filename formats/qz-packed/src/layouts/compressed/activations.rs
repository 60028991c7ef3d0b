//! What a configuration says of inputs: `input_activations` of a group, written and read
//! (`quantization/quant_args.py`, `quantization/quant_scheme.py`).

use qz_codec::activations::{Activations, Number};
use serde_json::{Map, Value, json};

/// `input_activations` of the package's preset with such inputs.
pub(super) fn arguments(activations: Activations) -> Value {
    const STATIC: &str = "static_minmax";
    let of = |number: Number, strategy: &str, dynamic: Value| {
        let (bits, kind) = match number {
            Number::Int(bits) => (bits, "int"),
            Number::E4M3 => (8, "float"),
            Number::E2M1 => (4, "float"),
        };
        let fixed = json!({"num_bits": bits, "type": kind, "symmetric": true});
        let mut all = fixed.as_object().cloned().unwrap_or_default();
        all.insert("strategy".to_owned(), json!(strategy));
        all.insert("dynamic".to_owned(), dynamic);
        all
    };
    let with = |mut all: Map<String, Value>, more: &[(&str, Value)]| {
        all.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Value::Object(all)
    };
    let scales = |name: &str| [("scale_dtype", json!(name)), ("zp_dtype", json!(name))];
    match activations {
        Activations::Full => Value::Null,
        Activations::Token(number) => with(of(number, "token", json!(true)), &[]),
        Activations::Tensor(number) => {
            with(of(number, "tensor", json!(false)), &[("observer", json!(STATIC))])
        }
        Activations::Group(number, run) => {
            with(of(number, "group", json!(true)), &[("group_size", json!(run))])
        }
        Activations::Micro(number) => {
            let [scale, zero] = scales("torch.uint8");
            with(of(number, "group", json!(true)), &[("group_size", json!(32)), scale, zero])
        }
        Activations::Nvfp4 => {
            let [scale, zero] = scales("torch.float8_e4m3fn");
            let own = [("group_size", json!(16)), ("observer", json!(STATIC)), scale, zero];
            with(of(Number::E2M1, "tensor_group", json!("local")), &own)
        }
    }
}

/// What such arguments ask for.
///
/// # Errors
/// The key that asks for something else than is known here, and what it says.
pub(super) fn read(arguments: &Map<String, Value>) -> Result<Activations, (&'static str, String)> {
    let stated = |key: &'static str| arguments.get(key).filter(|value| !value.is_null());
    let unknown = |key: &'static str| {
        let value = arguments.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
        (key, value)
    };
    let text = |key: &'static str| stated(key).and_then(Value::as_str).map(str::to_lowercase);
    let bits = stated("num_bits").map_or(Some(8), Value::as_u64);
    let number = match (text("type").as_deref().unwrap_or("int"), bits) {
        ("int", Some(bits @ 2..=8)) => Number::Int(bits as u32),
        ("float", Some(8)) => Number::E4M3,
        ("float", Some(4)) => Number::E2M1,
        ("int" | "float", _) => return Err(unknown("num_bits")),
        _ => return Err(unknown("type")),
    };
    if stated("symmetric").is_some_and(|symmetric| symmetric != true) {
        return Err(unknown("symmetric"));
    }
    let group = stated("group_size").and_then(Value::as_u64).filter(|group| *group > 0);
    let usual = if group.is_some() { "group" } else { "tensor" };
    let strategy = text("strategy").unwrap_or_else(|| usual.to_owned());
    let is_dynamic = match stated("dynamic") {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(local) if local == "local" => {
            let is_nvfp4 = (&*strategy, number, group) == ("tensor_group", Number::E2M1, Some(16));
            return is_nvfp4.then_some(Activations::Nvfp4).ok_or_else(|| unknown("strategy"));
        }
        Some(_) => return Err(unknown("dynamic")),
    };
    let scales = text("scale_dtype");
    match (&*strategy, is_dynamic, group, scales.as_deref()) {
        ("token", true, _, None) => Ok(Activations::Token(number)),
        ("tensor", false, _, None) => Ok(Activations::Tensor(number)),
        ("group", true, Some(32), Some("torch.uint8" | "uint8"))
            if matches!(number, Number::E4M3 | Number::E2M1) =>
        {
            Ok(Activations::Micro(number))
        }
        ("group", true, Some(group), None) => Ok(Activations::Group(number, group as usize)),
        (_, _, _, Some(_)) => Err(unknown("scale_dtype")),
        _ => Err(unknown("strategy")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, bytes_of, floats, golden, weights};
    use crate::layouts::numbers::ScaleType;

    /// Every kind, and what the goldens call it.
    const KINDS: [(&str, Activations); 10] = [
        ("w4a8", Activations::Token(Number::Int(8))),
        ("w4a4", Activations::Token(Number::Int(4))),
        ("fp8_dynamic", Activations::Token(Number::E4M3)),
        ("fp8_block", Activations::Group(Number::E4M3, 128)),
        ("mxfp4", Activations::Micro(Number::E2M1)),
        ("mxfp8", Activations::Micro(Number::E4M3)),
        ("nvfp4", Activations::Nvfp4),
        ("fp8", Activations::Tensor(Number::E4M3)),
        ("w8a8-static", Activations::Tensor(Number::Int(8))),
        ("w4afp8", Activations::Token(Number::E4M3)),
    ];

    #[test]
    fn inputs_become_what_the_package_makes_of_them() {
        let (rows, columns) = (6, 256);
        let inputs = weights(29, rows, columns, ScaleType::F32);
        // What calibration has seen is less than what comes later.
        let largest = inputs.iter().fold(0.0f32, |most, own| most.max(own.abs())) / 2.0;
        for (name, activations) in KINDS {
            let case = format!("activations-{name}");
            let stored = activations.stored(largest);
            if activations.is_stored() {
                assert_eq!(floats(&golden(&case, "stored")), [stored], "{name}");
            }
            let mut rounded = inputs.clone();
            let rounding = activations.with(stored);
            rounded.chunks_mut(columns).for_each(|row| rounding.round_row(row));
            // A zero has no sign that counts.
            rounded.iter_mut().for_each(|number| *number += 0.0);
            assert_golden(&case, "rounded", &bytes_of(&rounded));
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (name, activations) in KINDS {
            let arguments = arguments(activations);
            let found = read(arguments.as_object().expect("an object"));
            assert_eq!(found, Ok(activations), "{name}");
        }
        assert_eq!(arguments(Activations::Full), Value::Null);
    }

    #[test]
    fn what_is_not_known_is_named() {
        let check = |key: &'static str, value: Value, says: &str| {
            let mut all = arguments(Activations::Token(Number::Int(8)));
            all[key] = value;
            let found = read(all.as_object().expect("an object"));
            assert_eq!(found, Err((key, says.to_owned())));
        };
        check("num_bits", json!(16), "16");
        check("type", json!("posit"), "\"posit\"");
        check("symmetric", json!(false), "false");
        check("strategy", json!("attn_head"), "\"attn_head\"");
        check("dynamic", json!("always"), "\"always\"");
        check("scale_dtype", json!("torch.uint8"), "\"torch.uint8\"");
    }
}
