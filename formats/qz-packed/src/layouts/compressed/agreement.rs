//! What the configuration's groups say of weights, held against the tensors: the package, and
//! engines with it, make room for what is said, and fail on what is there. Sources:
//! compressed-tensors 0.20 (`quantization/quant_args.py`, `quantization/lifecycle`,
//! `compressors/*`).

use qz_codec::activations::Activations;
use qz_tensor::{DataType, TensorIndex};
use serde_json::{Map, Value};

use super::{activations, microscaled};
use crate::bits;
use crate::error::Error;
use crate::exceptions::Patterns;
use crate::inputs::{self, Inputs};
use crate::layout::Matrix;
use crate::layouts::microscaling::Element;
use crate::method::{OpenRequest, PackedTensor};

/// How weights are stored, as their tensors show it.
struct Stored {
    /// Formats with such tensors.
    formats: &'static [&'static str],
    /// `type`.
    number: &'static str,
    /// Bits of a code, where the tensor leaves no choice.
    bits: Option<i64>,
    /// Inputs with a scale, where the layout leaves no choice.
    group: Option<u64>,
}

static WORDS: Stored =
    Stored { formats: &["pack-quantized"], number: "int", bits: None, group: None };

static INTEGERS: Stored = Stored {
    formats: &["int-quantized", "naive-quantized"],
    number: "int",
    bits: None,
    group: None,
};

static EIGHT_BIT_FLOATS: Stored = Stored {
    formats: &["float-quantized", "naive-quantized"],
    number: "float",
    bits: Some(8),
    group: None,
};

static MXFP8: Stored = Stored {
    formats: &["mxfp8-quantized", "float-quantized", "naive-quantized"],
    number: "float",
    bits: Some(8),
    group: Some(32),
};

static MXFP6: Stored =
    Stored { formats: &["mxfp6-pack-quantized"], number: "float", bits: Some(6), group: Some(32) };

static NVFP4: Stored =
    Stored { formats: &["nvfp4-pack-quantized"], number: "float", bits: Some(4), group: Some(16) };

static MXFP4: Stored =
    Stored { formats: &["mxfp4-pack-quantized"], number: "float", bits: Some(4), group: Some(32) };

/// A group of the configuration.
struct Group<'a> {
    key: String,
    all: &'a Map<String, Value>,
    weights: &'a Map<String, Value>,
}

/// A key, and how it contradicts a tensor.
type Contradiction = (String, String);

/// Fails with a matrix that no group about it describes; of the others it notes what the first
/// group that does says of their inputs.
pub(super) fn check(request: &OpenRequest<'_>, packed: &mut [PackedTensor]) -> Result<(), Error> {
    let (groups, patterns) = (groups(request), Patterns::default());
    for packed in packed {
        let Some(module) = Module::of(request, packed) else { continue };
        let Some(group) = module.group(&groups, &patterns)? else { continue };
        let (inputs, code_bits) = (module.inputs(group)?, module.bits_in_bytes(group));
        (packed.inputs, packed.code_bits) = (inputs, code_bits);
    }
    Ok(())
}

fn groups<'a>(request: &OpenRequest<'a>) -> Vec<Group<'a>> {
    let groups = request.config.get("config_groups").and_then(Value::as_object);
    let group = |(name, group): (&String, &'a Value)| {
        let (key, all) = (format!("config_groups.{name}"), group.as_object()?);
        Some(Group { key, all, weights: all.get("weights")?.as_object()? })
    };
    groups.into_iter().flatten().filter_map(group).collect()
}

impl Group<'_> {
    /// Whether it may be about a module. What classes modules are of is not known here.
    fn is_about(&self, module: &str, patterns: &Patterns) -> bool {
        let Some(mut targets) = self.targets() else { return true };
        let is_class = |name: &str| name.starts_with(|first: char| first.is_ascii_uppercase());
        self.names(module, patterns) || targets.any(is_class)
    }

    /// Whether one of its targets is the module's name, or a pattern that may be.
    fn names(&self, module: &str, patterns: &Patterns) -> bool {
        self.targets().into_iter().flatten().any(|name| match name.strip_prefix("re:") {
            Some(pattern) => patterns.begins(pattern, "", module).unwrap_or(true),
            None => name == module,
        })
    }

    fn targets(&self) -> Option<impl Iterator<Item = &str>> {
        Some(self.all.get("targets")?.as_array()?.iter().filter_map(Value::as_str))
    }
}

/// A packed matrix.
struct Module<'a> {
    request: &'a OpenRequest<'a>,
    name: &'a str,
    stored: &'static Stored,
    codes: TensorIndex,
    scales: TensorIndex,
    matrix: Matrix,
}

impl<'a> Module<'a> {
    /// The first group about it that describes it; none if there are no groups about it.
    fn group<'g>(
        &self,
        groups: &'g [Group<'a>],
        patterns: &Patterns,
    ) -> Result<Option<&'g Group<'a>>, Error> {
        let mut first = None;
        let about = groups.iter().filter(|group| group.is_about(self.name, patterns));
        let mut about: Vec<_> = about.collect();
        // Names go before classes.
        about.sort_by_key(|group| !group.names(self.name, patterns));
        for group in about {
            match self.contradiction(group)? {
                None => return Ok(Some(group)),
                Some(contradiction) => first = first.or(Some(contradiction)),
            }
        }
        if groups.is_empty() {
            first = self.of_format("format", self.request.config.get("format"));
        }
        match first {
            Some((key, detail)) => Err(self.request.config_fault(&key, detail)),
            None => Ok(None),
        }
    }

    /// Bits of integers that a group says, where each has a byte.
    fn bits_in_bytes(&self, group: &Group<'_>) -> Option<u32> {
        let bits = group.weights.get("num_bits").and_then(Value::as_u64)?;
        (self.request.data_type(self.codes) == DataType::I8).then_some(bits.min(8) as u32)
    }

    /// What a group says of its inputs.
    fn inputs(&self, group: &Group<'_>) -> Result<Inputs, Error> {
        let unknown = |key: &str, says: String| {
            Inputs::Unknown(format!("quantization_config.{}.{key}: says {says}", group.key).into())
        };
        let stated = |key: &str| group.all.get(key).filter(|value| !value.is_null());
        if let Some(results) = stated("output_activations") {
            return Ok(unknown("output_activations", results.to_string()));
        }
        let Some(stated) = stated("input_activations") else { return Ok(Inputs::default()) };
        let Some(arguments) = stated.as_object() else {
            return Ok(unknown("input_activations", stated.to_string()));
        };
        match activations::read(arguments) {
            Ok(found) => {
                let is_nvfp4 = found == Activations::Nvfp4;
                let suffix = if is_nvfp4 { "input_global_scale" } else { "input_scale" };
                inputs::of_module(self.request, self.name, found, (suffix, false))
            }
            Err((key, says)) => Ok(unknown(&format!("input_activations.{key}"), says)),
        }
    }

    fn of(request: &'a OpenRequest<'_>, packed: &'a PackedTensor) -> Option<Self> {
        let name = packed.name.strip_suffix(".weight")?;
        let scales = request.tensor(name, "weight_scale")?;
        let is_bytes = |tensor: TensorIndex| request.data_type(tensor) == DataType::U8;
        if let Some((element, codes)) = microscaled::element(request, name) {
            let stored = if element == Element::E2m3 { &MXFP6 } else { &MXFP8 };
            return Some(Self { request, name, stored, codes, scales, matrix: packed.matrix() });
        }
        let (codes, stored) = match request.tensor(name, "weight_packed") {
            Some(codes) if !is_bytes(codes) => (codes, &WORDS),
            Some(codes) => (codes, if is_bytes(scales) { &MXFP4 } else { &NVFP4 }),
            None => {
                let codes = request.tensor(name, "weight")?;
                let is_integer = request.data_type(codes) == DataType::I8;
                (codes, if is_integer { &INTEGERS } else { &EIGHT_BIT_FLOATS })
            }
        };
        Some(Self { request, name, stored, codes, scales, matrix: packed.matrix() })
    }

    /// The first key of a group that contradicts the tensors.
    fn contradiction(&self, group: &Group<'_>) -> Result<Option<Contradiction>, Error> {
        let key = |key: &str| format!("{}.weights.{key}", group.key);
        let of_groups = group.all.get("format").filter(|format| !format.is_null());
        let of_format = match of_groups {
            Some(format) => self.of_format(&format!("{}.format", group.key), Some(format)),
            None => self.of_format("format", self.request.config.get("format")),
        };
        let text = |key: &str| group.weights.get(key).and_then(Value::as_str);
        let found = of_format
            .or_else(|| Some((key("type"), self.of_type(text("type")?)?)))
            .or_else(|| Some((key("strategy"), self.of_strategy(text("strategy")?)?)))
            .or_else(|| Some((key("group_size"), self.of_group_size(group.weights)?)))
            .or_else(|| Some((key("symmetric"), self.of_symmetry(group.weights)?)))
            .or_else(|| self.of_activations(group));
        if found.is_some() {
            return Ok(found);
        }
        let bits = group.weights.get("num_bits").and_then(Value::as_i64);
        let detail = bits.map(|bits| self.of_bits(bits)).transpose()?.flatten();
        Ok(detail.map(|detail| (key("num_bits"), detail)))
    }

    fn says(&self, stated: impl std::fmt::Display, tensor: TensorIndex, has: &str) -> String {
        format!("says {stated}, but {} {has}", self.request.info(tensor).name)
    }

    /// What the tensor is called when its type and dimensions are the point.
    fn is(&self, tensor: TensorIndex) -> String {
        let info = self.request.info(tensor);
        format!("is {} {}", info.data_type, info.shape)
    }

    fn of_format(&self, key: &str, format: Option<&Value>) -> Option<Contradiction> {
        let format = format.and_then(Value::as_str)?;
        let fits = format == "mixed-precision" || self.stored.formats.contains(&format);
        let has = format!("{}, as {} has it", self.is(self.codes), self.stored.formats.first()?);
        (!fits).then(|| (key.to_owned(), self.says(format, self.codes, &has)))
    }

    fn of_type(&self, number: &str) -> Option<String> {
        let fits = number.eq_ignore_ascii_case(self.stored.number);
        let has = format!("{}, of type {}", self.is(self.codes), self.stored.number);
        (!fits).then(|| self.says(number, self.codes, &has))
    }

    /// Fails strategies with other scales; what is no strategy is for others to say.
    fn of_strategy(&self, strategy: &str) -> Option<String> {
        let dimensions = self.request.dimensions(self.scales);
        let (count, rows) = (dimensions.iter().product::<u64>(), self.matrix.rows);
        let by_row = dimensions.first() == Some(&rows);
        let fits = match &*strategy.to_ascii_lowercase() {
            "tensor" => count == 1,
            "channel" => by_row && count == rows,
            "group" | "tensor_group" => by_row,
            _ => true,
        };
        // One row has one scale, whatever it is called.
        let fits = fits || (count == 1 && rows == 1);
        (!fits).then(|| self.says(strategy, self.scales, &self.is(self.scales)))
    }

    fn of_group_size(&self, weights: &Map<String, Value>) -> Option<String> {
        let stated = weights.get("group_size")?.as_u64().filter(|group| *group > 0)?;
        let columns = self.matrix.columns;
        if let Some(group) = self.stored.group {
            let has = format!("has groups of {group}");
            return (stated != group).then(|| self.says(stated, self.scales, &has));
        }
        let &[_, groups] = self.request.dimensions(self.scales) else { return None };
        let has = format!("has {groups} groups for {columns} inputs");
        (columns.div_ceil(stated) != groups).then(|| self.says(stated, self.scales, &has))
    }

    /// Zero points are there where weights are not symmetric. Floats may have useless ones.
    fn of_symmetry(&self, weights: &Map<String, Value>) -> Option<String> {
        const ZEROS: &str = "weight_zero_point";
        let symmetric = weights.get("symmetric")?.as_bool()?;
        let name = self.name;
        match self.request.tensor(name, ZEROS) {
            Some(zeros) if symmetric && self.stored.number == "int" => {
                Some(self.says(symmetric, zeros, "is there"))
            }
            None if !symmetric => {
                Some(format!("says {symmetric}, but there is no tensor {name}.{ZEROS}"))
            }
            _ => None,
        }
    }

    /// Activations that are rounded with a scale of the checkpoint need it.
    fn of_activations(&self, group: &Group<'_>) -> Option<Contradiction> {
        const SCALES: &[&str] = &["input_scale", "input_global_scale"];
        let stated = group.all.get("input_activations")?.get("dynamic")?;
        let needs = matches!(stated, Value::Bool(false)) || stated == "local";
        if !needs || !self.request.tensors(self.name, SCALES).is_empty() {
            return None;
        }
        let shown = stated.as_str().map_or_else(|| stated.to_string(), str::to_owned);
        let scale = SCALES.get(usize::from(stated == "local")).copied().unwrap_or_default();
        let detail = format!("says {shown}, but there is no tensor {}.{scale}", self.name);
        Some((format!("{}.input_activations.dynamic", group.key), detail))
    }

    fn of_bits(&self, stated: i64) -> Result<Option<String>, Error> {
        let columns = self.matrix.columns;
        let small = u32::try_from(stated).ok().filter(|bits| (1..=8).contains(bits));
        let has = match (self.stored.bits, small) {
            (Some(bits), _) if stated == bits => return Ok(None),
            (Some(bits), _) => format!("has codes of {bits} bits"),
            (None, Some(bits)) if self.request.data_type(self.codes) == DataType::I8 => {
                let Some(code) = self.code_beyond(bits)? else { return Ok(None) };
                format!("has the code {code}")
            }
            (None, bits) => {
                let &[_, words] = self.request.matrix_dimensions(self.codes)?;
                if bits.is_some_and(|bits| bits::words(columns, bits) == words) {
                    return Ok(None);
                }
                format!("{} for {columns} inputs", self.is(self.codes))
            }
        };
        Ok(Some(self.says(stated, self.codes, &has)))
    }

    /// The first code of the matrix' beginning that so many bits do not hold: fewer than eight
    /// are stored in bytes, too.
    fn code_beyond(&self, bits: u32) -> Result<Option<i8>, Error> {
        const LOOKED_AT: u64 = 4096;
        let mut codes = vec![0; self.request.info(self.codes).bytes.min(LOOKED_AT) as usize];
        self.request.source.read(self.codes, 0, &mut codes)?;
        let unused = 8u32.saturating_sub(bits);
        let fits = |code: i8| (code << unused) >> unused == code;
        Ok(codes.into_iter().map(u8::cast_signed).find(|code| !fits(*code)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::golden::bytes_of;
    use crate::testing::{Checkpoint, Tensor};

    /// A sound checkpoint of two rows of 64 inputs, and its configuration's only group.
    fn sound(format: &str) -> (Vec<Tensor<'static>>, Value) {
        let number = |bits: u32, kind: &str, strategy: &str, group: Option<u64>| {
            json!({
                "num_bits": bits, "type": kind, "symmetric": true, "strategy": strategy,
                "group_size": group,
            })
        };
        let shape = [2u64.to_le_bytes(), 64u64.to_le_bytes()].concat();
        let row_scales = ("a.weight_scale", DataType::F32, &[2, 1][..], bytes_of(&[1.0; 2]));
        let (tensors, weights) = match format {
            "pack-quantized" => (
                vec![
                    ("a.weight_packed", DataType::I32, &[2, 8][..], vec![0x99; 64]),
                    ("a.weight_scale", DataType::F32, &[2, 2], bytes_of(&[1.0; 4])),
                    ("a.weight_shape", DataType::I64, &[2], shape),
                ],
                number(4, "int", "group", Some(32)),
            ),
            "int-quantized" => (
                vec![("a.weight", DataType::I8, &[2, 64][..], vec![100; 128]), row_scales],
                number(8, "int", "channel", None),
            ),
            "float-quantized" => (
                vec![("a.weight", DataType::F8_E4M3, &[2, 64][..], vec![0x38; 128]), row_scales],
                number(8, "float", "channel", None),
            ),
            "nvfp4-pack-quantized" => (
                vec![
                    ("a.weight_packed", DataType::U8, &[2, 32][..], vec![0x22; 64]),
                    ("a.weight_scale", DataType::F8_E4M3, &[2, 4], vec![0x38; 8]),
                    ("a.weight_global_scale", DataType::F32, &[1], bytes_of(&[1.0])),
                ],
                number(4, "float", "tensor_group", Some(16)),
            ),
            "mxfp6-pack-quantized" => (
                vec![
                    ("a.weight_packed", DataType::U8, &[2, 48][..], vec![0x22; 96]),
                    ("a.weight_scale", DataType::U8, &[2, 2], vec![127; 4]),
                ],
                number(6, "float", "group", Some(32)),
            ),
            "mxfp8-quantized" => (
                vec![
                    ("a.weight", DataType::F8_E4M3, &[2, 64][..], vec![0x38; 128]),
                    ("a.weight_scale", DataType::U8, &[2, 2], vec![127; 4]),
                ],
                number(8, "float", "group", Some(32)),
            ),
            _ => (
                vec![
                    ("a.weight_packed", DataType::U8, &[2, 32][..], vec![0x22; 64]),
                    ("a.weight_scale", DataType::U8, &[2, 2], vec![127; 4]),
                ],
                number(4, "float", "group", Some(32)),
            ),
        };
        let activations = json!({"num_bits": 8, "strategy": "token", "dynamic": true});
        let group = json!({
            "targets": ["Linear"], "weights": weights, "input_activations": activations,
            "format": format,
        });
        (tensors, group)
    }

    const FORMATS: [&str; 7] = [
        "pack-quantized",
        "int-quantized",
        "float-quantized",
        "nvfp4-pack-quantized",
        "mxfp4-pack-quantized",
        "mxfp6-pack-quantized",
        "mxfp8-quantized",
    ];

    fn opened(tensors: Vec<Tensor<'_>>, groups: Value) -> Option<String> {
        let config = json!({"quant_method": "compressed-tensors", "config_groups": groups});
        Checkpoint::new(tensors).open(config).err().map(|error| error.to_string())
    }

    #[test]
    fn contradictions_are_named() {
        let check = |format: &str, key: &str, value: Value, expected: &str| {
            let (tensors, mut group) = sound(format);
            let pointer = format!("/{}", key.replace('.', "/"));
            *group.pointer_mut(&pointer).expect("a key") = value;
            let expected =
                format!("config.json: quantization_config.config_groups.g.{key}: {expected}");
            assert_eq!(opened(tensors, json!({"g": group})), Some(expected));
        };
        let [words, integers, floats, nvfp4, mxfp4, mxfp6, mxfp8] = FORMATS;
        let packed = "a.weight_packed is";
        for format in ["naive-quantized", "float-quantized", "dense"] {
            let expected =
                format!("says {format}, but {packed} I32 [2, 8], as pack-quantized has it");
            check(words, "format", json!(format), &expected);
        }
        check(
            nvfp4,
            "format",
            json!("mxfp4-pack-quantized"),
            &format!("says mxfp4-pack-quantized, but {packed} U8 [2, 32], as {nvfp4} has it"),
        );
        check(
            words,
            "weights.type",
            json!("float"),
            &format!("says float, but {packed} I32 [2, 8], of type int"),
        );
        check(
            floats,
            "weights.type",
            json!("int"),
            "says int, but a.weight is F8_E4M3 [2, 64], of type float",
        );
        check(
            words,
            "weights.num_bits",
            json!(8),
            &format!("says 8, but {packed} I32 [2, 8] for 64 inputs"),
        );
        check(integers, "weights.num_bits", json!(4), "says 4, but a.weight has the code 100");
        check(floats, "weights.num_bits", json!(4), "says 4, but a.weight has codes of 8 bits");
        check(
            words,
            "weights.group_size",
            json!(64),
            "says 64, but a.weight_scale has 2 groups for 64 inputs",
        );
        check(
            nvfp4,
            "weights.group_size",
            json!(32),
            "says 32, but a.weight_scale has groups of 16",
        );
        check(
            mxfp4,
            "weights.group_size",
            json!(16),
            "says 16, but a.weight_scale has groups of 32",
        );
        for (format, bits) in [(mxfp6, 6), (mxfp8, 8)] {
            check(
                format,
                "weights.group_size",
                json!(16),
                "says 16, but a.weight_scale has groups of 32",
            );
            let codes = if format == mxfp6 { "weight_packed" } else { "weight" };
            check(
                format,
                "weights.num_bits",
                json!(4),
                &format!("says 4, but a.{codes} has codes of {bits} bits"),
            );
        }
        check(
            mxfp6,
            "format",
            json!("mxfp4-pack-quantized"),
            &format!("says mxfp4-pack-quantized, but {packed} U8 [2, 48], as {mxfp6} has it"),
        );
        for strategy in ["tensor", "channel"] {
            let expected = format!("says {strategy}, but a.weight_scale is F32 [2, 2]");
            check(words, "weights.strategy", json!(strategy), &expected);
        }
        for format in [integers, floats] {
            let expected = "says tensor, but a.weight_scale is F32 [2, 1]";
            check(format, "weights.strategy", json!("tensor"), expected);
            check(
                format,
                "input_activations.dynamic",
                json!(false),
                "says false, but there is no tensor a.input_scale",
            );
        }
        check(
            nvfp4,
            "input_activations.dynamic",
            json!("local"),
            "says local, but there is no tensor a.input_global_scale",
        );
        for format in FORMATS {
            check(
                format,
                "weights.symmetric",
                json!(false),
                "says false, but there is no tensor a.weight_zero_point",
            );
        }
    }

    #[test]
    fn zero_points_of_symmetric_weights_are_named() {
        let (mut tensors, group) = sound("pack-quantized");
        tensors.push(("a.weight_zero_point", DataType::I32, &[1, 2], vec![0x88; 8]));
        let expected = "config.json: quantization_config.config_groups.g.weights.symmetric: \
                        says true, but a.weight_zero_point is there";
        assert_eq!(opened(tensors, json!({"g": group})).as_deref(), Some(expected));
    }

    #[test]
    fn one_group_that_fits_is_enough() {
        for format in FORMATS {
            let (_, group) = sound(format);
            let mut other = group.clone();
            other["weights"]["symmetric"] = json!(false);
            let mut elsewhere = other.clone();
            elsewhere["targets"] = json!(["re:.*b$", "c"]);
            let check = |groups: Value, is_sound: bool| {
                let found = opened(sound(format).0, groups);
                assert_eq!(found.is_none(), is_sound, "{format}: {found:?}");
            };
            check(json!({"g": group}), true);
            check(json!({"f": other, "g": group}), true);
            check(json!({"e": elsewhere, "g": group}), true);
            check(json!({"e": elsewhere}), true);
            check(json!({"f": other}), false);
        }
    }

    /// Codes of four bits are stored in bytes where activations have eight.
    #[test]
    fn few_bits_in_bytes() {
        let check = |code: i8, is_sound: bool| {
            let (mut tensors, mut group) = sound("int-quantized");
            tensors[0].3 = vec![code as u8; 128];
            group["weights"]["num_bits"] = json!(4);
            assert_eq!(opened(tensors, json!({"g": group})).is_none(), is_sound, "{code}");
        };
        check(7, true);
        check(-8, true);
        check(8, false);
        check(-9, false);
    }
}
