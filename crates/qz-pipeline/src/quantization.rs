//! How a checkpoint says its weights are quantized, in the words that people use.

use qz_tensor::TensorSource;
use serde_json::{Map, Value};

use crate::model::ModelTensor;

/// What a configuration says of its weights.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Quantization {
    /// In a line: `GPTQ 4-bit, group 128, symmetric`.
    pub summary: String,
    /// `quant_method`, or whose it is.
    pub method: String,
    /// Bits of a weight, if all have the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<u64>,
    /// Inputs that share a scale; none if a scale is that of an output, a block or a matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<u64>,
    /// Whether zero is in the middle of the codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<bool>,
    /// What chose the values, by the program that wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<Value>,
    #[serde(skip)]
    config: Map<String, Value>,
}

/// What is said of some weights.
#[derive(Clone, Debug, Default, PartialEq)]
struct Words {
    /// `GPTQ 4-bit`.
    name: String,
    bits: Option<u64>,
    group: Option<u64>,
    symmetric: Option<bool>,
    /// What else belongs behind it.
    rest: Vec<String>,
}

impl Quantization {
    /// What `quantization_config` says, with the method's name in it.
    pub(crate) fn of(config: Map<String, Value>) -> Self {
        let method = text(&config, "quant_method").unwrap_or_default().to_owned();
        let all = words(&config, &method);
        let mut lines: Vec<String> = all.iter().map(Words::line).collect();
        lines.dedup();
        Self {
            summary: lines.join(" and "),
            bits: same(&all, |words| words.bits),
            group_size: same(&all, |words| words.group),
            symmetric: same(&all, |words| words.symmetric),
            meta: config.get("meta").filter(|meta| meta.is_object()).cloned(),
            method,
            config,
        }
    }

    /// What chose the values, and which program, where the configuration says it.
    pub fn chosen_by(&self) -> Option<String> {
        let meta = self.meta.as_ref()?;
        let program = match meta.get("quantizer")? {
            Value::Array(programs) => programs.first()?.as_str()?,
            program => program.as_str()?,
        };
        let method = meta.get("method").and_then(Value::as_str);
        Some(method.map_or_else(|| program.to_owned(), |method| format!("{method}, {program}")))
    }

    /// What the package calls the type of a packed tensor of a source.
    pub(crate) fn type_of_tensor(
        &self,
        tensor: &ModelTensor,
        source: &dyn TensorSource,
    ) -> Option<String> {
        let first = tensor.packed.as_ref().and_then(|_| tensor.first_source())?;
        let name = &*source.tensors()[first.0].name;
        Some(self.type_of(name.strip_suffix(".weight").unwrap_or(name)))
    }

    /// What a packed module's weights are called in lists of types.
    fn type_of(&self, module: &str) -> String {
        let own = match &*self.method {
            "mlx" => self.config.get(module).and_then(Value::as_object).cloned(),
            _ => None,
        };
        let all = match own {
            Some(mut own) => {
                own.entry("quant_method").or_insert_with(|| "mlx".into());
                words(&own, "mlx")
            }
            None => words(&self.config, &self.method),
        };
        // Which group of several a module is in is for those who load it.
        let mut names: Vec<String> = all.into_iter().map(|words| words.name).collect();
        names.dedup();
        names.join("/")
    }
}

/// What all say, if they say the same.
fn same<T: PartialEq + Copy>(all: &[Words], of: fn(&Words) -> Option<T>) -> Option<T> {
    let first = of(all.first()?);
    first.filter(|_| all.iter().all(|words| of(words) == first))
}

impl Words {
    fn line(&self) -> String {
        let mut parts = vec![self.name.clone()];
        parts.extend(self.group.map(|group| format!("group {group}")));
        parts.extend(self.symmetric.map(|symmetric| match symmetric {
            true => "symmetric".to_owned(),
            false => "asymmetric".to_owned(),
        }));
        parts.extend(self.rest.iter().cloned());
        parts.join(", ")
    }

    fn sized(name: &str, bits: Option<u64>) -> Self {
        let name = bits.map_or_else(|| name.to_owned(), |bits| format!("{name} {bits}-bit"));
        Self { name, bits, ..Self::default() }
    }

    /// With the group that a configuration states; minus one stands for a scale of each
    /// output.
    fn grouped(mut self, config: &Map<String, Value>, key: &str) -> Self {
        self.group = number(config, key);
        if config.get(key).and_then(Value::as_i64) == Some(-1) {
            self.rest.insert(0, "per channel".to_owned());
        }
        self
    }
}

fn text<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    config.get(key)?.as_str()
}

fn number(config: &Map<String, Value>, key: &str) -> Option<u64> {
    config.get(key)?.as_u64()
}

fn flag(config: &Map<String, Value>, key: &str) -> Option<bool> {
    config.get(key)?.as_bool()
}

fn words(config: &Map<String, Value>, method: &str) -> Vec<Words> {
    let bits = number(config, "bits");
    let one = match method {
        "gptq" => gptq(config, "GPTQ"),
        "auto-round" => gptq(config, "auto-round"),
        "awq" => {
            let bits = bits.or_else(|| number(config, "w_bit"));
            let key = if config.contains_key("group_size") { "group_size" } else { "q_group_size" };
            let mut words = Words::sized("AWQ", bits).grouped(config, key);
            words.symmetric = flag(config, "zero_point").map(|has_zero| !has_zero);
            words
        }
        "compressed-tensors" => return compressed(config),
        "fp8" => fp8(config),
        "bitsandbytes" => bitsandbytes(config),
        "mlx" => {
            let mut words = Words::sized("MLX", bits).grouped(config, "group_size");
            words.rest.extend(text(config, "mode").map(str::to_owned));
            words
        }
        "modelopt" => {
            let algorithm = text(config, "quant_algo").unwrap_or("weights");
            let name = format!("ModelOpt {algorithm}");
            Words { name, ..Words::default() }.grouped(config, "group_size")
        }
        "mxfp4" => {
            Words { name: "MXFP4".to_owned(), bits: Some(4), group: Some(32), ..Words::default() }
        }
        "hqq" => {
            let inner = config
                .get("quant_config")
                .and_then(|config| config.get("weight_quant_params").unwrap_or(config).as_object());
            let bits = inner.and_then(|inner| number(inner, "nbits"));
            let words = Words::sized("HQQ", bits);
            inner.map_or(words.clone(), |inner| words.grouped(inner, "group_size"))
        }
        "aqlm" => {
            let codebooks = number(config, "num_codebooks");
            let rest = codebooks.map(|count| format!("{count} codebooks")).into_iter().collect();
            Words { name: "AQLM".to_owned(), rest, ..Words::default() }
        }
        other => Words { name: other.to_owned(), bits, ..Words::default() },
    };
    vec![one]
}

fn gptq(config: &Map<String, Value>, name: &str) -> Words {
    let mut words = Words::sized(name, number(config, "bits")).grouped(config, "group_size");
    words.symmetric = flag(config, "sym");
    if flag(config, "desc_act") == Some(true) {
        words.rest.push("act-order".to_owned());
    }
    let format = text(config, "checkpoint_format").or_else(|| text(config, "format"));
    if format == Some("gptq_v2") {
        words.rest.push("zero points of v2".to_owned());
    }
    words
}

fn fp8(config: &Map<String, Value>) -> Words {
    let kind = text(config, "fmt").unwrap_or("e4m3").to_ascii_uppercase();
    let sides = config.get("weight_block_size").and_then(Value::as_array);
    let side = |at: usize| sides.and_then(|sides| sides.get(at)?.as_u64());
    let spread = match (side(0), side(1)) {
        (Some(rows), Some(columns)) => format!("blocks of {rows} × {columns}"),
        _ => "per tensor".to_owned(),
    };
    let mut rest = vec![spread];
    rest.extend(text(config, "activation_scheme").map(|kind| format!("{kind} activations")));
    Words { name: format!("FP8 {kind}"), bits: Some(8), rest, ..Words::default() }
}

fn bitsandbytes(config: &Map<String, Value>) -> Words {
    if flag(config, "load_in_8bit") == Some(true) {
        let rest = vec!["LLM.int8()".to_owned()];
        return Words { rest, ..Words::sized("bitsandbytes", Some(8)) };
    }
    let kind = text(config, "bnb_4bit_quant_type").unwrap_or("fp4").to_ascii_uppercase();
    let is_double = flag(config, "bnb_4bit_use_double_quant") == Some(true);
    let rest = is_double.then(|| "double quantization".to_owned()).into_iter().collect();
    Words { rest, bits: Some(4), name: format!("bitsandbytes {kind}"), ..Words::default() }
}

/// What becomes of inputs.
fn inputs(activations: &Map<String, Value>) -> Option<String> {
    let bits = number(activations, "num_bits")?;
    let float = if text(activations, "type") == Some("float") { " float" } else { "" };
    let is_static = activations.get("dynamic") == Some(&Value::Bool(false));
    let fixed = if is_static { "static " } else { "" };
    Some(format!("{fixed}{bits}-bit{float} activations"))
}

/// A kind for each group of modules.
fn compressed(config: &Map<String, Value>) -> Vec<Words> {
    let whole = text(config, "format");
    let groups = config.get("config_groups").and_then(Value::as_object);
    let of_group = |group: &Value| {
        let group = group.as_object()?;
        let weights = group.get("weights")?.as_object()?;
        let bits = number(weights, "num_bits")?;
        let activations = group.get("input_activations").and_then(Value::as_object);
        let kind = match (text(group, "format").or(whole), text(weights, "type")) {
            (Some("nvfp4-pack-quantized"), _) => "NVFP4".to_owned(),
            (Some("mxfp4-pack-quantized"), _) => "MXFP4".to_owned(),
            (Some("mxfp6-pack-quantized"), _) => "MXFP6".to_owned(),
            (Some("mxfp8-quantized"), _) => "MXFP8".to_owned(),
            (_, Some("float")) if bits == 8 => "FP8".to_owned(),
            (_, Some("float")) => format!("{bits}-bit float"),
            _ => format!("{bits}-bit"),
        };
        let mut words = Words { name: format!("compressed-tensors {kind}"), ..Words::default() };
        words.bits = Some(bits);
        words = words.grouped(weights, "group_size");
        words.symmetric =
            flag(weights, "symmetric").filter(|_| text(weights, "type") != Some("float"));
        match text(weights, "strategy") {
            Some("channel") => words.rest.push("per channel".to_owned()),
            Some("tensor") => words.rest.push("per tensor".to_owned()),
            _ => {}
        }
        words.rest.extend(activations.and_then(inputs));
        Some(words)
    };
    let known: Vec<Words> =
        groups.into_iter().flatten().filter_map(|(_, group)| of_group(group)).collect();
    match known.is_empty() {
        true => vec![Words { name: "compressed-tensors".to_owned(), ..Words::default() }],
        false => known,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn configurations_in_words() {
        let check = |config: Value, expected: &str| {
            let Value::Object(config) = config else { panic!("an object") };
            assert_eq!(Quantization::of(config).summary, expected);
        };
        check(
            json!({"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": true}),
            "GPTQ 4-bit, group 64, symmetric",
        );
        check(
            json!({"quant_method": "gptq", "bits": 3, "group_size": -1, "sym": false, "desc_act": true,
                   "checkpoint_format": "gptq_v2"}),
            "GPTQ 3-bit, asymmetric, per channel, act-order, zero points of v2",
        );
        check(
            json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true}),
            "AWQ 4-bit, group 128, asymmetric",
        );
        check(
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
                {"a": {"weights": {"num_bits": 4, "type": "int", "symmetric": true,
                                   "strategy": "group", "group_size": 32}},
                 "b": {"weights": {"num_bits": 8, "type": "float", "symmetric": true,
                                   "strategy": "channel"}, "input_activations": {"num_bits": 8}}}}),
            "compressed-tensors 4-bit, group 32, symmetric and \
             compressed-tensors FP8, per channel, 8-bit activations",
        );
        check(
            json!({"quant_method": "fp8", "weight_block_size": [128, 128]}),
            "FP8 E4M3, blocks of 128 × 128",
        );
        check(
            json!({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4",
                   "bnb_4bit_use_double_quant": true, "load_in_4bit": true}),
            "bitsandbytes NF4, double quantization",
        );
        check(
            json!({"quant_method": "mlx", "bits": 4, "group_size": 64, "mode": "affine"}),
            "MLX 4-bit, group 64, affine",
        );
        check(json!({"quant_method": "x"}), "x");
        check(json!({"quant_method": "compressed-tensors"}), "compressed-tensors");
    }
}
