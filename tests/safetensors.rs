//! Safetensors folders: what they hold, from checkpoints and from GGUF files, and
//! the way there and back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use qz_gguf::GgufFile;
use qz_safetensors::SafetensorsModel;
use qz_tensor::{Array, Metadata, TensorIndex, TensorSource, Value};
use serde_json::json;

use crate::bad_input::BAD_INPUT;
use crate::support::{
    checkpoints, copy_of, fixtures, names, quantize, scratch, survives_kills, text, write_gguf,
};

/// The tensors of a model by name: type, shape, bytes.
fn tensors(source: &dyn TensorSource) -> BTreeMap<String, Tensor> {
    let read = |position: usize| {
        let info = &source.tensors()[position];
        let mut bytes = vec![0; info.bytes as usize];
        source.read(TensorIndex(position), 0, &mut bytes).expect("read");
        let shape = info.shape.dimensions().to_vec();
        (info.name.to_string(), (info.data_type.name(), shape, bytes))
    };
    (0..source.tensors().len()).map(read).collect()
}

type Tensor = (&'static str, Vec<u64>, Vec<u8>);

fn folder_tensors(folder: &Path) -> BTreeMap<String, Tensor> {
    tensors(&SafetensorsModel::open_folder(folder).expect("opens"))
}

fn read_json(path: PathBuf) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON")
}

fn convert(source: &Path, target: &str, output: &Path) {
    quantize(&["convert", text(source), "--to", target, "-o", text(output)]).expect_success();
}

/// Every committed checkpoint comes back from GGUF with its own tensors, byte for
/// byte, and with the values of its configuration.
#[test]
fn checkpoints_come_back() {
    for checkpoint in checkpoints() {
        let name = text(&checkpoint);
        let folder = scratch();
        let [gguf, back] = ["model.gguf", "back"].map(|name| folder.path().join(name));
        convert(&checkpoint, "bf16", &gguf);
        convert(&gguf, "safetensors:bf16", &back);
        assert_eq!(names(folder.path()), ["back", "model.gguf"]);
        let (expected, found) = (text_part(&checkpoint), folder_tensors(&back));
        assert!(expected.keys().eq(found.keys()), "{name}");
        for (tensor, value) in &expected {
            assert!(found.get(tensor) == Some(value), "{name}: {tensor}");
        }
        let verify = ["verify", text(&back), "--source", text(&gguf)];
        quantize(&verify).expect_success();
        check_config(&checkpoint, &back);
    }
}

/// The tensors of the part of a checkpoint that reads and writes text, as those of a model
/// that does nothing else, and without vectors that no position has.
fn text_part(folder: &Path) -> BTreeMap<String, Tensor> {
    let mut tensors = text_tensors(folder);
    let skipped = skipped_positions(folder);
    if let Some((_, shape, bytes)) = tensors.get_mut("embeddings.position_embeddings.weight") {
        let row = bytes.len() / shape[0] as usize;
        bytes.drain(..skipped as usize * row);
        shape[0] -= skipped;
    }
    // Tokens that have no rows of their own in layers get zeros.
    let config = read_json(folder.join("config.json"));
    let tokens = config["vocab_size"].as_u64().unwrap_or(0);
    if let Some((_, shape, bytes)) = tensors.get_mut("model.embed_tokens_per_layer.weight") {
        let row = bytes.len() / shape[0] as usize;
        bytes.resize(tokens as usize * row, 0);
        shape[0] = tokens;
    }
    tensors
}

/// RoBERTa's first position has the number behind that of padding: a BERT whose positions begin
/// with it is the same model.
fn skipped_positions(folder: &Path) -> u64 {
    let config = read_json(folder.join("config.json"));
    let is_roberta =
        config["model_type"].as_str().is_some_and(|model_type| model_type.ends_with("roberta"));
    if is_roberta && !turns(&config) {
        config["pad_token_id"].as_u64().expect("an id") + 1
    } else {
        0
    }
}

/// True for a RoBERTa without learned positions, which is another family's.
fn turns(config: &serde_json::Value) -> bool {
    config["position_embedding_type"] == "rotary"
}

/// The name of a matrix that has adapters beside it, without these.
fn without_adapters((name, tensor): (String, Tensor)) -> Option<(String, Tensor)> {
    let name = name.replace(".parametrizations.weight.original", ".weight");
    let is_adapter = name.ends_with(".lora_A") || name.ends_with(".lora_B");
    let name = name.strip_prefix("roberta.").map_or(name.clone(), str::to_owned);
    (!is_adapter).then_some((name, tensor))
}

fn text_tensors(folder: &Path) -> BTreeMap<String, Tensor> {
    let part = |(name, tensor): (String, _)| {
        let is_seeing = name.starts_with("visual.") || name.starts_with("model.visual.");
        (!is_seeing).then(|| (name.replace("model.language_model.", "model."), tensor))
    };
    let tensors = folder_tensors(folder).into_iter().filter_map(part);
    let config = read_json(folder.join("config.json"));
    match config["model_type"].as_str() {
        _ if turns(&config) => tensors.filter_map(without_adapters).collect(),
        Some("qwen3_vl_moe") => tensors.flat_map(experts_apart).collect(),
        Some("falcon_h1") => tensors.map(|own| multiplied(own, &config)).collect(),
        _ => tensors.collect(),
    }
}

/// Falcon-H1's weights times the factors of its configuration, which GGUF has no other place for.
fn multiplied((name, tensor): (String, Tensor), config: &serde_json::Value) -> (String, Tensor) {
    let (kind, shape, mut bytes) = tensor;
    let number = |key: &str| config[key].as_f64().expect("a number") as f32;
    let listed = |key: &str, at: usize| config[key][at].as_f64().expect("a number") as f32;
    let size = |key: &str| config[key].as_u64().expect("a size");
    let inner = size("mamba_d_ssm");
    let state = size("mamba_n_groups") * size("mamba_d_state");
    // Of each row what it is multiplied with.
    let factors = |row: u64| -> Vec<f32> {
        let input = number("attention_in_multiplier");
        let starts = [0, inner, 2 * inner, 2 * inner + state, 2 * (inner + state)];
        match name.rsplit_once(".weight").map_or("", |(stem, _)| stem.rsplit('.').next().unwrap()) {
            "embed_tokens" => vec![number("embedding_multiplier")],
            "lm_head" => vec![number("lm_head_multiplier")],
            "q_proj" | "v_proj" => vec![input],
            "k_proj" => vec![number("key_multiplier"), input],
            "o_proj" => vec![number("attention_out_multiplier")],
            "gate_proj" => vec![listed("mlp_multipliers", 0)],
            "down_proj" => vec![listed("mlp_multipliers", 1)],
            "out_proj" => vec![number("ssm_out_multiplier")],
            "in_proj" => {
                let part = starts.iter().rposition(|start| row >= *start).expect("a part");
                vec![number("ssm_in_multiplier"), listed("ssm_multipliers", part)]
            }
            _ => Vec::new(),
        }
    };
    let columns = *shape.last().expect("a dimension");
    for (at, bytes) in (0u64..).zip(bytes.as_chunks_mut::<2>().0) {
        let value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
        let bits = factors(at / columns).iter().fold(value, |own, by| own * by).to_bits();
        // To the nearest, of two that are as near to the even one.
        *bytes = (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16).to_le_bytes();
    }
    (name, (kind, shape, bytes))
}

/// Experts with inputs as rows, all in one tensor, as a tensor for each with outputs as rows.
fn experts_apart((name, tensor): (String, Tensor)) -> Vec<(String, Tensor)> {
    let Some((layer, which)) = name.split_once("experts.") else {
        return vec![(name, tensor)];
    };
    let (kind, sizes, bytes) = tensor;
    let [experts, rows, columns] = sizes[..] else { panic!("{name} has the sizes {sizes:?}") };
    let parts: &[&str] = match which {
        "gate_up_proj" => &["gate_proj", "up_proj"],
        _ => &["down_proj"],
    };
    let (count, width) = (parts.len() as u64, columns / parts.len() as u64);
    let part = |(expert, at): (u64, u64)| {
        let places = (at * width..(at + 1) * width).flat_map(|column| {
            (0..rows).map(move |row| ((expert * rows + row) * columns + column) as usize)
        });
        let values = places.flat_map(|place| bytes[2 * place..2 * place + 2].to_vec()).collect();
        let name = format!("{layer}experts.{expert}.{}.weight", parts[at as usize]);
        (name, (kind, vec![width, rows], values))
    };
    let places = (0..experts).flat_map(|expert| (0..count).map(move |at| (expert, at)));
    places.map(part).collect()
}

/// What a configuration's `model_type` becomes that GGUF has no word for: Mistral without its
/// window is a Llama, and what models that see do with text is what others do.
fn restored_type(stated: &str) -> &str {
    match stated {
        "mistral" => "llama",
        "qwen2_5_vl_text" => "qwen2",
        "qwen3_vl_text" => "qwen3",
        "qwen3_vl_moe_text" => "qwen3_moe",
        "roberta" | "xlm-roberta" => "bert",
        "internlm3" => "llama",
        other => other,
    }
}

/// Keys that say nothing about what the model computes, or that GGUF has no room
/// for and that are as they are by default.
const UNSAID: &[&str] = &[
    "_name_or_path",
    "add_cross_attention",
    "altup_coef_clip",
    "architectures",
    "attention_dropout",
    "attention_softmax_in_fp32",
    "attn_pdrop",
    "attention_probs_dropout_prob",
    "chunk_size",
    "classifier_activation",
    "classifier_dropout",
    "decoder_bias",
    "dropout_rate",
    "embd_pdrop",
    "embedding_dropout",
    "eod_token_id",
    "hidden_dropout",
    "hidden_dropout_prob",
    "emb_pooler",
    "initializer_cutoff_factor",
    "initializer_factor",
    "initializer_range",
    "input_jitter_noise",
    "is_decoder",
    "layer_types",
    "lora_adaptations",
    "lora_alpha",
    "lora_rank",
    "max_window_layers",
    "block_auto_adjust_ff_dim",
    "block_ffn_dim_multiplier",
    "block_multiple_of",
    "time_step_init_scheme",
    "time_step_scale",
    "use_associative_scan",
    "use_mambapy",
    "mixer_rms_eps",
    "mamba_ssm_cache_dtype",
    "use_mamba_kernels",
    "num_logits_to_keep",
    "moe_norm_min",
    "moe_shared_expert_overlap",
    "mtp_layers_block_type",
    "mamba_chunk_size",
    "mlp_dropout",
    "model_type",
    "output_router_logits",
    // Said by other keys, as published files do.
    "per_layer_config",
    "pretraining_tp",
    "qkv_multipliers",
    "rescale_prenorm_residual",
    "resid_pdrop",
    "residual_dropout",
    "residual_in_fp32",
    "rope_max_length",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "scale_attention_softmax_in_fp32",
    "scale_attn_weights",
    "scale_decoder_outputs",
    "sliding_window",
    "sparse_pred_ignore_index",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "time_step_floor",
    "time_step_limit",
    "time_step_max",
    "time_step_min",
    "transformers_version",
    "use_bias",
    "use_bidirectional_attention",
    "use_cache",
    "use_sliding_window",
    "rope_parameters",
    "rope_scaling",
    "pad_token_id",
    "sep_token_id",
];

fn check_config(checkpoint: &Path, back: &Path) {
    let mut before = read_json(checkpoint.join("config.json"));
    if let (Some(positions), skipped @ 1..) =
        (before["max_position_embeddings"].as_u64(), skipped_positions(checkpoint))
    {
        before["max_position_embeddings"] = json!(positions - skipped);
    }
    let before = before.get("text_config").unwrap_or(&before);
    let after = read_json(back.join("config.json"));
    for (key, value) in before.as_object().expect("an object") {
        // Files of state spaces say so much of all.
        if key == "max_position_embeddings" && after[key] == json!(1 << 20) {
            continue;
        }
        // What is off, and not said, is off.
        let is_off = *value == json!(false) && after.get(key).is_none();
        // An encoder has no decoder, whatever its configuration says.
        let is_of_decoder = matches!(&**key, "decoder_start_token_id" | "num_decoder_layers");
        if is_of_decoder && before["architectures"] == json!(["T5EncoderModel"]) {
            continue;
        }
        // Those without rows of their own have zeros.
        if key == "vocab_size_per_layer_input" && after[key] == before["vocab_size"] {
            continue;
        }
        // What ends a turn of InternLM 2's chats ends texts in GGUF.
        let is_turned = key == "eos_token_id" && before["model_type"] == "internlm2";
        // Texts of Hunyuan's begin with the token that has the name.
        let is_begun = key == "bos_token_id" && before["model_type"] == "hunyuan_v1_moe";
        let is_unsaid = UNSAID.contains(&key.as_str()) || is_turned || is_begun;
        // Falcon-H1's weights are what they are multiplied with.
        let is_multiplied = before["model_type"] == "falcon_h1" && key.contains("_multiplier");
        let is_said = !is_unsaid && !value.is_null() && !is_off && !is_multiplied;
        assert!(!is_said || after[key] == *value, "{}: {key}", checkpoint.display());
    }
    let rope = before.get("rope_parameters").or_else(|| before.get("rope_scaling"));
    for (key, value) in rope.and_then(serde_json::Value::as_object).into_iter().flatten() {
        // Of a text's tokens all numbers of a position are the same.
        let is_said = !key.starts_with("mrope_");
        let found = &after["rope_parameters"][key];
        assert!(!is_said || found == value, "{}: {key}", checkpoint.display());
    }
    let stated = before["model_type"].as_str().expect("text");
    let expected = if turns(before) { stated } else { restored_type(stated) };
    assert_eq!(after["model_type"], expected);
    let tokenizer = read_json(back.join("tokenizer_config.json"));
    assert_eq!(tokenizer["tokenizer_class"], "PreTrainedTokenizerFast");
}

/// Keys that a second conversion cannot know: the name is the folder's, the rest is
/// not in any file of the restored folder.
fn is_lost(key: &str) -> bool {
    key.starts_with("general.")
        || matches!(key, "tokenizer.ggml.add_sep_token" | "tokenizer.ggml.unknown_token_id")
}

/// True for the part of a model that sees: alone it is a model of another family.
fn becomes_another(checkpoint: &Path) -> bool {
    read_json(checkpoint.join("config.json")).get("text_config").is_some()
}

/// From GGUF there and back is the same file: tensors always, metadata but for what
/// a checkpoint has no place for.
#[test]
fn gguf_files_come_back() {
    for checkpoint in checkpoints() {
        let name = text(&checkpoint);
        if becomes_another(&checkpoint) {
            continue;
        }
        let folder = scratch();
        let [gguf, middle, again] =
            ["model.gguf", "middle", "again.gguf"].map(|name| folder.path().join(name));
        convert(&checkpoint, "f32", &gguf);
        convert(&gguf, "safetensors:f32", &middle);
        convert(&middle, "f32", &again);
        let (before, after) = (GgufFile::open(&gguf).unwrap(), GgufFile::open(&again).unwrap());
        assert!(tensors(&before) == tensors(&after), "{name}");
        for (key, value) in before.metadata().iter().filter(|(key, _)| !is_lost(key)) {
            assert_eq!(after.metadata().get(key), Some(value), "{name}: {key}");
        }
        // Ranks do not say whether tokens are added to a text; a definition does.
        let has_ranks = !["tokenizer.json", "tokenizer.model"]
            .map(|name| checkpoint.join(name))
            .iter()
            .any(|path| path.exists());
        let is_told = |key: &str| has_ranks && key.starts_with("tokenizer.ggml.add_");
        let new = after.metadata().iter().filter(|(key, _)| !is_lost(key) && !is_told(key));
        for (key, _) in new {
            assert!(before.metadata().get(key).is_some(), "{name}: {key} is new");
        }
    }
}

/// A checkpoint that is written again has the same tensors, whole: rows that a GGUF file has no
/// place for, too.
#[test]
fn every_checkpoint_keeps_its_tensors() {
    for checkpoint in checkpoints() {
        let folder = scratch();
        let output = folder.path().join("out");
        convert(&checkpoint, "safetensors:bf16", &output);
        let (before, after) = (folder_tensors(&checkpoint), folder_tensors(&output));
        let name = text(&checkpoint);
        assert!(!after.is_empty() && after.keys().all(|own| before.contains_key(own)), "{name}");
        for (tensor, own) in before.iter().filter(|(_, (data_type, ..))| *data_type == "BF16") {
            let found = after.get(tensor).filter(|found| *found != own);
            assert!(found.is_none(), "{name}: {tensor}");
        }
    }
}

/// llama-quantize forgets that a vector was a matrix of one row; a checkpoint has one.
#[test]
fn matrices_of_one_row_come_back() {
    let folder = scratch();
    for name in ["qwen2moe", "qwen35moe"] {
        let source = fixtures().join("tiny").join(name);
        let [gguf, back] =
            [".gguf", "-back"].map(|ending| folder.path().join(format!("{name}{ending}")));
        convert(&source, "q4_0", &gguf);
        let forgotten = tensors(&GgufFile::open(&gguf).expect("opens"));
        assert_eq!(forgotten["blk.0.ffn_gate_inp_shexp.weight"].1.len(), 1, "{name}");
        convert(&gguf, "safetensors:bf16", &back);
        let (before, after) = (text_tensors(&source), folder_tensors(&back));
        let gate = before.keys().find(|own| own.ends_with("0.mlp.shared_expert_gate.weight"));
        let gate = gate.expect("a gate");
        assert!(before[gate] == after[gate], "{name}: {gate}");
        assert!(before.keys().eq(after.keys()), "{name}");
    }
}

#[test]
fn a_checkpoint_keeps_its_files() {
    let folder = scratch();
    let [source, output] = [fixtures().join("tiny/sharded"), folder.path().join("out")];
    convert(&source, "safetensors:f16", &output);
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(
            fs::read(source.join(name)).expect("read")
                == fs::read(output.join(name)).expect("read"),
            "{name}"
        );
    }
    let (mut before, after) =
        (read_json(source.join("config.json")), read_json(output.join("config.json")));
    before["dtype"] = json!("float16");
    assert_eq!(before, after);
    assert!(folder_tensors(&source).keys().eq(folder_tensors(&output).keys()));
    assert!(folder_tensors(&output).values().all(|(data_type, ..)| *data_type == "F16"));
    quantize(&["verify", text(&output), "--source", text(&source)]).expect_success();
    let inspection = quantize(&["inspect", text(&output), "--json"]).expect_success().json();
    assert_eq!(
        (&inspection["container"], &inspection["architecture"]),
        (&json!("huggingface"), &json!("llama"))
    );
}

#[test]
fn shards_have_an_index() {
    let folder = scratch();
    let [whole, shards] = ["whole", "shards"].map(|name| folder.path().join(name));
    let source = fixtures().join("demo-llama");
    convert(&source, "safetensors:bf16", &whole);
    let arguments = ["convert", text(&source), "--to", "safetensors:bf16", "-o", text(&shards)];
    quantize(&[&arguments[..], &["--shard-size", "1M"]].concat()).expect_success();
    assert!(names(&whole).contains(&"model.safetensors".to_owned()));
    let index = read_json(shards.join("model.safetensors.index.json"));
    let (expected, found) = (folder_tensors(&whole), folder_tensors(&shards));
    assert!(expected == found);
    let bytes: usize = expected.values().map(|(.., bytes)| bytes.len()).sum();
    assert_eq!(index["metadata"]["total_size"], bytes);
    let count = names(&shards).iter().filter(|name| name.ends_with(".safetensors")).count();
    assert!(count > 3, "{count} shards");
    assert!(names(&shards).contains(&format!("model-00001-of-{count:05}.safetensors")));
    for name in names(&shards).iter().filter(|name| name.ends_with(".safetensors")) {
        let bytes = fs::read(shards.join(name)).expect("read");
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        assert_eq!(header % 8, 0, "{name}");
        let header: serde_json::Value =
            serde_json::from_slice(&bytes[8..8 + header as usize]).expect("JSON");
        assert_eq!(header["__metadata__"], json!({"format": "pt"}), "{name}");
    }
}

/// One read of the source feeds both formats, and each is what it is alone.
#[test]
fn formats_mix_in_one_run() {
    for fixture in ["tiny/mixtral", "tiny/llama-tied"] {
        let folder = scratch();
        let source = fixtures().join(fixture);
        let gguf = folder.path().join("model.gguf");
        convert(&source, "bf16", &gguf);
        for from in [&source, &gguf] {
            let many = folder.path().join("many");
            convert(from, "safetensors:bf16,q8_0,safetensors:f32", &many);
            let stem = from.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            let written = ["-Q8_0.gguf", "-safetensors-bf16", "-safetensors-f32"];
            let written = written.map(|ending| format!("{stem}{ending}"));
            assert_eq!(names(&many), written);
            for (target, name) in
                ["q8_0", "safetensors:bf16", "safetensors:f32"].iter().zip(&written)
            {
                let single = folder.path().join("single");
                convert(from, target, &single);
                if single.is_dir() {
                    assert_eq!(names(&single), names(&many.join(name)));
                    assert!(
                        folder_tensors(&single) == folder_tensors(&many.join(name)),
                        "{target}"
                    );
                    fs::remove_dir_all(single).expect("removed");
                } else {
                    let same = fs::read(&single).unwrap() == fs::read(many.join(name)).unwrap();
                    assert!(same, "{target}");
                    fs::remove_file(single).expect("removed");
                }
            }
            fs::remove_dir_all(many).expect("removed");
        }
    }
}

#[test]
fn a_quantized_file_is_decoded() {
    let folder = scratch();
    let [gguf, output] = ["model.gguf", "out"].map(|name| folder.path().join(name));
    convert(&fixtures().join("demo-llama"), "q4_k_m", &gguf);
    convert(&gguf, "safetensors:f32", &output);
    let report = quantize(&["verify", text(&output), "--source", text(&gguf), "--json"]);
    let report = report.expect_success().json();
    for tensor in report["tensors"].as_array().expect("a list") {
        assert_eq!(tensor["relative_error"], 0.0, "{tensor}");
    }
}

#[test]
fn a_plan_is_what_a_folder_gets() {
    let folder = scratch();
    let (source, output) = (fixtures().join("tiny/mixtral"), folder.path().join("out"));
    let common = [text(&source), "--to", "safetensors:f16", "--json"];
    let plan = quantize(&[&["plan"], &common[..]].concat()).expect_success().json();
    let arguments = [&["convert"], &common[..], &["-o", text(&output)]].concat();
    let report = quantize(&arguments).expect_success().json();
    let (planned, written) = (&plan["outputs"][0], &report["outputs"][0]);
    for key in ["target", "bytes", "bits_per_weight", "fallbacks"] {
        assert_eq!(planned[key], written[key], "{key}");
    }
    assert_eq!(written["bits_per_weight"], 16.0);
    let size = |name: &String| fs::metadata(output.join(name)).expect("a file").len();
    let bytes: u64 = names(&output).iter().map(size).sum();
    assert_eq!(written["bytes"], bytes);
}

#[test]
fn only_a_folder_of_this_kind_is_replaced() {
    let folder = scratch();
    let (source, output) = (fixtures().join("tiny/qwen3"), folder.path().join("out"));
    let arguments = ["convert", text(&source), "--to", "safetensors:bf16", "-o", text(&output)];
    let forced = [&arguments[..], &["--force"]].concat();
    fs::create_dir(&output).expect("created");
    fs::write(output.join("thesis.txt"), "precious").expect("written");
    for arguments in [&arguments[..], &forced] {
        assert_eq!(quantize(arguments).code, 5);
        assert_eq!(names(&output), ["thesis.txt"]);
    }
    fs::remove_dir_all(&output).expect("removed");
    quantize(&arguments).expect_success();
    assert_eq!(quantize(&arguments).code, 5);
    quantize(&forced).expect_success();
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn a_checkpoint_is_never_its_own_output() {
    let folder = scratch();
    for fixture in ["tiny/qwen3", "tiny/sharded"] {
        let checkpoint = copy_of(fixture, folder.path());
        let before = names(&checkpoint);
        let arguments =
            ["convert", text(&checkpoint), "--to", "safetensors:f32", "-o", text(&checkpoint)];
        let run = quantize(&[&arguments[..], &["--force", "--json"]].concat());
        assert_eq!((run.code, &run.json()["error"]["rule"]), (5, &json!("output-is-input")));
        assert_eq!(names(&checkpoint), before);
        fs::remove_dir_all(checkpoint).expect("removed");
    }
}

/// Killed with some of its work written down, a run is continued to the same folder.
#[test]
fn a_killed_run_is_finished_by_the_next() {
    let folder = scratch();
    let (source, output) = (fixtures().join("demo-llama"), folder.path().join("out"));
    let expected = folder.path().join("expected");
    convert(&source, "safetensors:f32", &expected);
    let arguments = ["convert", text(&source), "--to", "safetensors:f32", "-o", text(&output)];
    survives_kills(&arguments, &output, &|| {
        for name in names(&expected) {
            let same =
                fs::read(expected.join(&name)).unwrap() == fs::read(output.join(&name)).unwrap();
            assert!(same, "{name}");
        }
    });
    assert_eq!(names(folder.path()), ["expected", "out"]);
}

/// A GGUF file of a Llama with one layer, as small as can be.
fn small_llama() -> (Metadata, Vec<(&'static str, Vec<u64>)>) {
    let strings =
        |list: &[&str]| Value::from(list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    let metadata = [
        ("general.architecture", Value::from("llama")),
        ("llama.block_count", 1u32.into()),
        ("llama.context_length", 64u32.into()),
        ("llama.embedding_length", 8u32.into()),
        ("llama.feed_forward_length", 16u32.into()),
        ("llama.attention.head_count", 2u32.into()),
        ("llama.attention.head_count_kv", 1u32.into()),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5f32.into()),
        ("tokenizer.ggml.model", "gpt2".into()),
        ("tokenizer.ggml.pre", "llama-bpe".into()),
        ("tokenizer.ggml.tokens", strings(&["a", "b", "ab", "<|end|>"])),
        ("tokenizer.ggml.token_type", vec![1i32, 1, 1, 3].into()),
        ("tokenizer.ggml.merges", strings(&["a b"])),
        ("tokenizer.ggml.eos_token_id", 3u32.into()),
    ];
    let tensors = [
        ("token_embd.weight", vec![4, 8]),
        ("output_norm.weight", vec![8]),
        ("blk.0.attn_norm.weight", vec![8]),
        ("blk.0.attn_q.weight", vec![8, 8]),
        ("blk.0.attn_k.weight", vec![4, 8]),
        ("blk.0.attn_v.weight", vec![4, 8]),
        ("blk.0.attn_output.weight", vec![8, 8]),
        ("blk.0.ffn_norm.weight", vec![8]),
        ("blk.0.ffn_gate.weight", vec![16, 8]),
        ("blk.0.ffn_up.weight", vec![16, 8]),
        ("blk.0.ffn_down.weight", vec![8, 16]),
    ];
    (metadata.into_iter().collect(), tensors.into())
}

/// Converts a bent copy of the small Llama.
fn convert_small(
    output: &Path,
    bend: impl FnOnce(&mut Metadata, &mut Vec<(&'static str, Vec<u64>)>),
) -> crate::support::Run {
    let (mut metadata, mut tensors) = small_llama();
    bend(&mut metadata, &mut tensors);
    let folder = scratch();
    let path = folder.path().join("model.gguf");
    let values: Vec<Vec<f32>> = tensors
        .iter()
        .map(|(_, shape)| (0..shape.iter().product()).map(|index| 1.0 + index as f32).collect())
        .collect();
    let tensors: Vec<(&str, &[u64], &[f32])> = tensors
        .iter()
        .zip(&values)
        .map(|((name, shape), values)| (*name, &shape[..], &values[..]))
        .collect();
    write_gguf(&path, &metadata, &tensors);
    quantize(&["convert", text(&path), "--to", "safetensors:f32", "-o", text(output), "--json"])
}

#[test]
fn a_small_file_is_restored() {
    let folder = scratch();
    let output = folder.path().join("out");
    convert_small(&output, |_, _| ()).expect_success();
    let config = read_json(output.join("config.json"));
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "head_dim": 4,
        "num_key_value_heads": 1, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "attention_bias": false, "dtype": "float32",
        "eos_token_id": 3, "bos_token_id": null,
    });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(config[key], *value, "{key}");
    }
    let found = folder_tensors(&output);
    let (_, _, query) = &found["model.layers.0.self_attn.q_proj.weight"];
    let rows: Vec<f32> = query
        .chunks_exact(32)
        .map(|row| f32::from_le_bytes(row[..4].try_into().expect("4 bytes")))
        .collect();
    // Rows 0 2 1 3 of each head.
    assert_eq!(rows, [1.0, 17.0, 9.0, 25.0, 33.0, 49.0, 41.0, 57.0]);
}

#[test]
fn a_window_makes_a_mistral() {
    let folder = scratch();
    let output = folder.path().join("out");
    let window = |metadata: &mut Metadata, _: &mut Vec<_>| {
        metadata.set("llama.attention.sliding_window", 32u32);
    };
    convert_small(&output, window).expect_success();
    let config = read_json(output.join("config.json"));
    assert_eq!((&config["model_type"], &config["sliding_window"]), (&json!("mistral"), &json!(32)));
}

#[test]
fn what_cannot_be_restored_is_named() {
    type Tensors = Vec<(&'static str, Vec<u64>)>;
    let check = |rule: &str, part: &str, bend: &dyn Fn(&mut Metadata, &mut Tensors)| {
        let folder = scratch();
        let run = convert_small(&folder.path().join("out"), bend);
        assert_eq!(run.code, BAD_INPUT, "{part}: {}", run.stderr);
        assert_eq!(run.json()["error"]["rule"], rule, "{}", run.stderr);
        assert!(run.stderr.contains(part), "{part:?} is not in: {}", run.stderr);
        assert!(names(folder.path()).is_empty(), "something was left behind");
    };
    for key in [
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
    ] {
        check("metadata-missing", key, &|metadata, _| _ = metadata.remove(key));
    }
    let set = |key: &'static str, value: Value| {
        move |metadata: &mut Metadata, _: &mut Tensors| metadata.set(key, value.clone())
    };
    let strings =
        |list: &[&str]| Value::from(list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    check(
        "unsupported-architecture",
        "unheard-of",
        &set("general.architecture", "unheard-of".into()),
    );
    check("metadata-missing", "tokenizer.ggml.tokens", &set("tokenizer.ggml.model", "none".into()));
    check("unsupported-tokenizer", "rwkv", &set("tokenizer.ggml.model", "rwkv".into()));
    check("unknown-pre-tokenizer", "--pre-tokenizer", &set("tokenizer.ggml.pre", "default".into()));
    check("unknown-pre-tokenizer", "unheard", &set("tokenizer.ggml.pre", "unheard".into()));
    check(
        "bad-tokenizer-value",
        "has two ids",
        &set("tokenizer.ggml.tokens", strings(&["a", "b", "a", "<|end|>"])),
    );
    check(
        "bad-tokenizer-value",
        "5 tokens",
        &set("tokenizer.ggml.tokens", strings(&["a", "b", "ab", "<|end|>", "c"])),
    );
    check(
        "bad-tokenizer-value",
        "needs the token \"bb\"",
        &set("tokenizer.ggml.merges", strings(&["b b"])),
    );
    check("bad-tokenizer-value", "merges[0]", &set("tokenizer.ggml.merges", strings(&["ab"])));
    check("bad-tokenizer-value", "eos_token_id", &set("tokenizer.ggml.eos_token_id", 4u32.into()));
    check(
        "bad-tokenizer-value",
        "unknown type 9",
        &set("tokenizer.ggml.token_type", vec![1i32, 9, 1, 3].into()),
    );
    check(
        "bad-tokenizer-value",
        "3 entries",
        &set("tokenizer.ggml.token_type", vec![1i32, 1, 3].into()),
    );
    check("bad-tokenizer-value", "list of strings", &set("tokenizer.ggml.tokens", Value::U8(1)));
    check("bad-config-value", "head_count", &set("llama.attention.head_count", 3u32.into()));
    check(
        "bad-config-value",
        "head_count",
        &set("llama.attention.head_count", Value::Array(Array::U32(vec![2]))),
    );
    check("bad-config-value", "block_count", &set("llama.block_count", 0u32.into()));
    check("bad-config-value", "longrope", &set("llama.rope.scaling.type", "longrope".into()));
    check(
        "metadata-missing",
        "rope.scaling.factor",
        &set("llama.rope.scaling.type", "yarn".into()),
    );
    check(
        "bad-config-value",
        "rope.dimension_count",
        &set("llama.rope.dimension_count", 2u32.into()),
    );
    check("missing-tensor", "blk.1.attn_norm.weight", &set("llama.block_count", 2u32.into()));
    check("tensor-shape", "blk.0.ffn_gate.weight", &set("llama.feed_forward_length", 32u32.into()));
    check("metadata-missing", "expert_used_count", &set("llama.expert_count", 4u32.into()));
    check("unknown-tensor", "blk.0.strange", &|_, tensors| {
        tensors.push(("blk.0.strange", vec![8]))
    });
    check("unknown-tensor", "block_count is 1", &|_, tensors| {
        tensors.push(("blk.7.attn_norm.weight", vec![8]))
    });
    check("missing-tensor", "blk.0.attn_k.bias", &|_, tensors| {
        tensors.push(("blk.0.attn_q.bias", vec![8]))
    });
    check("rope-factors", "rope_freqs.weight", &|_, tensors| {
        tensors.push(("rope_freqs.weight", vec![2]))
    });
    check("rope-factors", "expected one F32", &|_, tensors| {
        tensors.push(("rope_freqs.weight", vec![3]))
    });
}

#[test]
fn a_person_may_name_the_pre_tokenizer() {
    let folder = scratch();
    let checkpoint = copy_of("tiny/qwen3", folder.path());
    let [gguf, output] = ["model.gguf", "out"].map(|name| folder.path().join(name));
    let arguments = ["convert", text(&checkpoint), "--to", "f32", "-o", text(&gguf)];
    quantize(&[&arguments[..], &["--pre-tokenizer", "default"]].concat()).expect_success();
    let arguments = ["convert", text(&gguf), "--to", "safetensors:f32", "-o", text(&output)];
    assert_eq!(quantize(&arguments).code, BAD_INPUT);
    quantize(&[&arguments[..], &["--pre-tokenizer", "qwen2"]].concat()).expect_success();
    let [before, after] = [&checkpoint, &output].map(|at| read_json(at.join("tokenizer.json")));
    for part in ["normalizer", "decoder", "post_processor"] {
        assert_eq!(before[part], after[part], "{part}");
    }
    for part in ["vocab", "merges", "ignore_merges"] {
        assert_eq!(before["model"][part], after["model"][part], "{part}");
    }
}
