//! Checkpoints as large as tiles and parts are: matrices that are cut, heads that no cut
//! divides, stacks of experts. Written, read, restored and verified in every layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Safetensors, copy_of, edit_json, names, quantize, scratch, text};

/// The sizes of a decoder with one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head: usize,
    pub(crate) inner: usize,
    pub(crate) experts: usize,
}

/// Heads of 96 rows divide neither a tile (606 rows) nor a part (303 rows).
const ODD_HEADS: Sizes =
    Sizes { hidden: 864, heads: 8, kv_heads: 4, head: 96, inner: 640, experts: 0 };

/// Llama 3's head: a part has 64 rows, half a head.
const WIDE: Sizes =
    Sizes { hidden: 4096, heads: 3, kv_heads: 1, head: 128, inner: 128, experts: 0 };

/// A tile ends within an expert.
const EXPERTS: Sizes =
    Sizes { hidden: 896, heads: 2, kv_heads: 1, head: 64, inner: 448, experts: 3 };

impl Sizes {
    /// A tensor of each kind: name and dimensions.
    pub(crate) fn tensors(&self, vocabulary: usize) -> Vec<(String, Vec<usize>)> {
        let Self { hidden, heads, kv_heads, head, inner, experts } = *self;
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
            ("lm_head.weight".to_owned(), vec![vocabulary, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.0.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
        add("self_attn.q_proj", &[heads * head, hidden]);
        add("self_attn.k_proj", &[kv_heads * head, hidden]);
        add("self_attn.v_proj", &[kv_heads * head, hidden]);
        add("self_attn.o_proj", &[hidden, heads * head]);
        if experts == 0 {
            add("mlp.gate_proj", &[inner, hidden]);
            add("mlp.up_proj", &[inner, hidden]);
            add("mlp.down_proj", &[hidden, inner]);
            return tensors;
        }
        add("block_sparse_moe.gate", &[experts, hidden]);
        for expert in 0..experts {
            let matrices =
                [("w1", [inner, hidden]), ("w3", [inner, hidden]), ("w2", [hidden, inner])];
            for (matrix, shape) in matrices {
                add(&format!("block_sparse_moe.experts.{expert}.{matrix}"), &shape);
            }
        }
        tensors
    }
}

/// A checkpoint of these sizes, with configuration and tokenizer of a committed one.
pub(crate) fn checkpoint(sizes: Sizes, into: &Path) -> PathBuf {
    let fixture = if sizes.experts > 0 { "tiny/mixtral" } else { "tiny/llama-spm" };
    // A name of its own, which outputs get.
    let folder = into.join("shaped");
    fs::rename(copy_of(fixture, into), &folder).expect("renamed");
    let mut vocabulary = 0;
    edit_json(&folder.join("config.json"), |config| {
        vocabulary = config["vocab_size"].as_u64().expect("a number") as usize;
        for (key, value) in [
            ("hidden_size", sizes.hidden),
            ("num_attention_heads", sizes.heads),
            ("num_key_value_heads", sizes.kv_heads),
            ("head_dim", sizes.head),
            ("intermediate_size", sizes.inner),
            ("num_hidden_layers", 1),
        ] {
            config[key] = json!(value);
        }
        config["tie_word_embeddings"] = json!(false);
        if sizes.experts > 0 {
            config["num_local_experts"] = json!(sizes.experts);
        }
    });
    let mut file = Safetensors { header: json!({}), data: Vec::new() };
    let mut state = 0x2545_f491_u32;
    for (name, shape) in sizes.tensors(vocabulary) {
        let start = file.data.len();
        for _ in 0..shape.iter().product::<usize>() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // A bfloat16 of magnitude 2^-6 to 2^-4 and either sign.
            let number = (state >> 16 & 0x8000) as u16 | (0x3c80 + (state >> 8 & 0xff) as u16);
            file.data.extend(number.to_le_bytes());
        }
        file.header[&name] =
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, file.data.len()]});
    }
    file.write(&folder.join("model.safetensors"));
    folder
}

pub(crate) fn convert(source: &Path, targets: &str, output: &Path) {
    quantize(&["convert", text(source), "--to", targets, "-o", text(output)]).expect_success();
}

/// Holds the artifact to its source; the relative errors of its tensors.
#[track_caller]
pub(crate) fn verified(artifact: &Path, source: &Path) -> Vec<f64> {
    let run = quantize(&["verify", text(artifact), "--source", text(source), "--json"]);
    assert_eq!(run.code, 0, "{}: {}\n{}", artifact.display(), run.stdout, run.stderr);
    let tensors = run.json()["tensors"].as_array().expect("tensors").clone();
    tensors.iter().filter_map(|tensor: &Value| tensor["relative_error"].as_f64()).collect()
}

/// Through a GGUF file and back, a packed checkpoint among the ways, no row is lost or
/// moved: plain types come back exactly, and each artifact fits each form of its source.
fn check(sizes: Sizes, targets: &str) {
    let folder = scratch();
    let source = checkpoint(sizes, folder.path());
    let gguf = folder.path().join("plain.gguf");
    convert(&source, "bf16", &gguf);
    assert!(verified(&gguf, &source).iter().all(|error| *error == 0.0));
    let restored = folder.path().join("restored");
    convert(&gguf, "safetensors:bf16", &restored);
    for other in [&source, &gguf] {
        assert!(verified(&restored, other).iter().all(|error| *error == 0.0));
    }
    let [direct, again] = ["direct", "again"].map(|name| folder.path().join(name));
    convert(&source, targets, &direct);
    convert(&gguf, targets, &again);
    for name in names(&direct) {
        let written = direct.join(name);
        let errors = verified(&written, &source);
        assert_eq!(verified(&written, &gguf), errors, "{}", written.display());
        quantize(&["verify", text(&written)]).expect_success();
        // A packed checkpoint is read in pieces of rows like any other.
        if written.is_dir() {
            let unpacked = folder.path().join("unpacked.gguf");
            convert(&written, "bf16", &unpacked);
            let errors = verified(&unpacked, &written);
            assert!(errors.iter().all(|error| *error < 0.004), "{}", written.display());
            fs::remove_file(&unpacked).expect("removed");
        }
    }
    for name in names(&direct).iter().filter(|name| !name.ends_with(".gguf")) {
        let target = name.strip_prefix("shaped-").expect("the source's name");
        let expected = tensors(&direct.join(name));
        let found = tensors(&again.join(format!("plain-{target}")));
        assert!(expected.keys().eq(found.keys()), "{target}");
        for (name, tensor) in expected {
            assert!(found[&name] == tensor, "{target} {name}");
        }
    }
}

/// Every tensor of a folder: what the header says of its type and size, and its bytes.
fn tensors(folder: &Path) -> BTreeMap<String, (String, String, Vec<u8>)> {
    let file = Safetensors::read(&folder.join("model.safetensors"));
    let tensors = file.header.as_object().expect("an object").iter();
    let tensor = |(name, info): (&String, &Value)| {
        let [begin, end] = [0, 1].map(|at| info["data_offsets"][at].as_u64().expect("an offset"));
        let bytes = file.data[begin as usize..end as usize].to_vec();
        (name.clone(), (info["dtype"].to_string(), info["shape"].to_string(), bytes))
    };
    tensors.filter(|(name, _)| *name != "__metadata__").map(tensor).collect()
}

#[test]
fn heads_that_no_cut_divides() {
    check(
        ODD_HEADS,
        "q8_0,safetensors:f32,gptq:w4g32,gptq:w3g32+v2+asym,awq:w4g32,ct:w4a16+g32,ct:w5a16+asym+g32,\
         ct:w8a8,ct:fp8,ct:nvfp4,ct:mxfp4,ct:mxfp6a16,ct:mxfp8,fp8:block128,fp8:block100,fp8:tensor,bnb:nf4+double,bnb:int8,\
         mlx:w4g32",
    );
}

#[test]
fn parts_smaller_than_a_head() {
    check(WIDE, "q4_k_m,gptq:w4g128,ct:w4a16,fp8:block128+ue8m0,bnb:nf4,mlx:w4g64");
}

#[test]
fn tiles_that_end_within_an_expert() {
    check(EXPERTS, "q4_k_m,gptq:w4g64,awq:w4g64,ct:w4a16+g32,ct:fp8,bnb:fp4,mlx:w8g64");
}

/// Where narrow rows have stand-ins and the mixture gives the others more bits, no tensor has
/// the type that the file is named after; such a file is sound.
#[test]
fn no_tensor_of_the_type_that_names_the_file() {
    let folder = scratch();
    let sizes = Sizes { hidden: 96, heads: 2, kv_heads: 1, head: 48, inner: 256, experts: 0 };
    let source = checkpoint(sizes, folder.path());
    let file = folder.path().join("out.gguf");
    for target in ["q2_k", "q3_k_m"] {
        quantize(&["convert", text(&source), "--to", target, "--force", "-o", text(&file)])
            .expect_success();
        let listed = quantize(&["inspect", text(&file), "--tensors"]).expect_success().stdout;
        assert!(!listed.contains("Q2_K"), "{listed}");
        quantize(&["verify", text(&file)]).expect_success();
    }
}
