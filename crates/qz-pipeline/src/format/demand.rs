//! What schemes cost and ask for, told without a model: of one that stands for all.

use qz_models::{ARCHITECTURES, Part, Role};
use qz_packed::{Matrix, Provenance, Quantized, Scheme};
use qz_plan::{ModelFacts, PlannedTensor};
use qz_tensor::{DataType, Shape, SideFile, SinkTensor};
use serde_json::{Map, Value};

/// What a scheme costs, and asks of matrices.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Demand {
    /// Bits per weight of a Llama 3 of 8 billion weights; none where the source decides.
    pub bits_per_weight: Option<f64>,
    /// What the inputs of a matrix have to be a multiple of.
    pub columns: u64,
    /// What its outputs have to be a multiple of.
    pub rows: u64,
    /// True if a matrix that does not fit gets another type instead of ending the job.
    pub has_stand_in: bool,
    /// True if the result is useless without an importance matrix.
    pub needs_importance: bool,
    /// True if it stores what only a text tells: the largest inputs of matrices.
    pub needs_text: bool,
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            bits_per_weight: None,
            columns: 1,
            rows: 1,
            has_stand_in: false,
            needs_importance: false,
            needs_text: false,
        }
    }
}

const LAYERS: usize = 32;
const HIDDEN: u64 = 4096;
const KEYS: u64 = 1024;
const FEED_FORWARD: u64 = 14336;
const VOCABULARY: u64 = 128_256;

/// The tensors of a Llama 3 of 8 billion weights, for which llama.cpp lists its types'
/// sizes, too.
pub(super) fn example() -> Vec<PlannedTensor> {
    let layer: [(&str, &[u64]); 9] = [
        ("attn_k", &[KEYS, HIDDEN]),
        ("attn_norm", &[HIDDEN]),
        ("attn_output", &[HIDDEN, HIDDEN]),
        ("attn_q", &[HIDDEN, HIDDEN]),
        ("attn_v", &[KEYS, HIDDEN]),
        ("ffn_down", &[HIDDEN, FEED_FORWARD]),
        ("ffn_gate", &[FEED_FORWARD, HIDDEN]),
        ("ffn_norm", &[HIDDEN]),
        ("ffn_up", &[FEED_FORWARD, HIDDEN]),
    ];
    let ends: [(&str, &[u64]); 3] = [
        ("output", &[VOCABULARY, HIDDEN]),
        ("output_norm", &[HIDDEN]),
        ("token_embd", &[VOCABULARY, HIDDEN]),
    ];
    let layers = (0..LAYERS).flat_map(|number| {
        layer.map(|(name, shape)| (format!("blk.{number}.{name}.weight"), shape))
    });
    let ends = ends.map(|(name, shape)| (format!("{name}.weight"), shape));
    ends.into_iter().chain(layers).filter_map(|(name, shape)| tensor(name, shape)).collect()
}

fn tensor(name: String, dimensions: &[u64]) -> Option<PlannedTensor> {
    let shape = Shape::new(dimensions).ok()?;
    let plain = if shape.rank() == 1 { DataType::F32 } else { DataType::BF16 };
    Some(PlannedTensor { name, shape, unquantized: plain, source_type: plain })
}

pub(super) fn example_facts() -> ModelFacts {
    ModelFacts {
        architecture: "llama".to_owned(),
        layers: LAYERS,
        heads_per_key_head: HIDDEN / KEYS,
        ..ModelFacts::default()
    }
}

/// One layer and the ends of that model as a packed folder: its matrices, and the
/// configuration.
pub(super) fn checkpoint(scheme: &dyn Scheme) -> (Vec<SinkTensor>, Vec<SideFile>) {
    let rules = ARCHITECTURES.iter().find(|known| known.gguf_name() == "llama");
    let rules = rules.map_or(&[][..], |known| known.tensor_rules());
    let layout = scheme.layout(DataType::BF16);
    let (mut tensors, mut modules, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for PlannedTensor { name, shape, source_type, .. } in example() {
        let rule = rules.iter().find_map(|rule| Some((rule, rule.gguf.matches(&name)?.layer)));
        let Some((rule, layer)) = rule.filter(|(_, layer)| layer.is_none_or(|layer| layer.0 == 0))
        else {
            continue;
        };
        let name = rule.hugging_face.name(layer);
        let module = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
        let matrix = Matrix { rows: shape.rows(), columns: shape.columns() };
        let is_packed = shape.rank() == 2
            && !scheme.packs_stacks()
            && (layer.is_some() || scheme.packs_embeddings());
        let parts = is_packed.then(|| layout.parts(matrix).ok()).flatten();
        if let Some(parts) = parts {
            let input = scheme.input_part(DataType::BF16).and_then(|part| part.part().ok());
            tensors.extend(parts.into_iter().chain(input).map(|part| SinkTensor {
                name: format!("{module}.{}", part.suffix),
                data_type: part.data_type,
                shape: part.shape,
            }));
            modules.push(module);
            continue;
        }
        if (rule.role, rule.part) == (Role::Output, Part::Weight) {
            left.push(module);
        }
        tensors.push(SinkTensor { name, data_type: source_type, shape });
    }
    let provenance = &Provenance::of("rtn");
    let model_type = DataType::BF16;
    let quantized = Quantized {
        modules: &modules,
        others: &[],
        left: &left,
        model_type,
        provenance,
        cache: None,
    };
    let configuration = scheme.configuration(&quantized);
    let entries = configuration.entries.into_iter();
    let config: Map<String, Value> = entries.map(|(key, value)| (key.to_owned(), value)).collect();
    let content = Value::Object(config).to_string().into_bytes();
    let mut files = configuration.files;
    files.push(SideFile { name: "config.json".to_owned(), content });
    (tensors, files)
}

/// Bits per weight of tensors of these types.
pub(super) fn bits_per_weight<'a>(
    tensors: impl Iterator<Item = (&'a Shape, DataType)>,
) -> Option<f64> {
    let (mut bytes, mut weights) = (0, 0);
    for (shape, data_type) in tensors {
        bytes += shape.byte_size(data_type).ok()?;
        weights += shape.elements();
    }
    (weights > 0).then(|| bytes as f64 * 8.0 / weights as f64)
}
