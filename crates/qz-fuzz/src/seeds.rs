//! Small good files, made here or taken from the fixtures.

use std::path::{Path, PathBuf};

use qz_eval::leading_file::LeadingWriter;
use qz_eval::logits_file::LogitsWriter;
use qz_eval::text::Text;
use qz_safetensors::SafetensorsFile;
use qz_tensor::{Artifact, OutputOptions, StagedArtifact, TensorInfo, TensorSource};
use serde_json::Value;

use crate::scratch::Scratch;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../fixtures/", $name)).to_vec()
    };
}

/// A string of a GGUF file.
fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

fn array(key: &str, kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
    let count = (items.len() as u64).to_le_bytes();
    pair(key, 9, &[&kind.to_le_bytes()[..], &count, &items.concat()].concat())
}

/// A GGUF file of these pairs, and of F32 tensors of these dimensions and numbers.
fn gguf_file(pairs: &[Vec<u8>], tensors: &[(&str, &[u64], Vec<f32>)]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    out.extend(pairs.concat());
    let mut data: Vec<u8> = Vec::new();
    for (name, dimensions, values) in tensors {
        out.extend(text(name));
        out.extend((dimensions.len() as u32).to_le_bytes());
        dimensions.iter().for_each(|dimension| out.extend(dimension.to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        values.iter().for_each(|value| data.extend(value.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

/// The keys of a small vocabulary of this kind.
fn vocabulary(kind: &str) -> Vec<Vec<u8>> {
    let tokens = ["<unk>", "<s>", "</s>", "<0x41>", "\u{2581}", "a", "b", "ab", "\u{2581}a", "c"];
    let types = [2i32, 3, 3, 6, 1, 1, 1, 1, 1, 4];
    let words = |words: &[i32]| words.iter().map(|word| word.to_le_bytes().to_vec()).collect();
    let words: &dyn Fn(&[i32]) -> Vec<Vec<u8>> = &words;
    vec![
        pair("tokenizer.ggml.model", 8, &text(kind)),
        pair("tokenizer.ggml.pre", 8, &text("llama-bpe")),
        array("tokenizer.ggml.tokens", 8, &tokens.map(text)),
        array("tokenizer.ggml.scores", 6, &words(&[0; 10])),
        array("tokenizer.ggml.token_type", 5, &words(&types)),
        array("tokenizer.ggml.merges", 8, &["a b", "\u{2581} a"].map(text)),
        pair("tokenizer.ggml.bos_token_id", 4, &1u32.to_le_bytes()),
        pair("tokenizer.ggml.add_bos_token", 7, &[1]),
    ]
}

pub(crate) fn gguf(_: &Scratch) -> Vec<Vec<u8>> {
    let numbers = (0..13u32).filter(|kind| ![8, 9].contains(kind)).map(|kind| {
        let size = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind as usize];
        pair(&format!("x.{kind}"), kind, &vec![1; size])
    });
    let mut pairs: Vec<Vec<u8>> = numbers.collect();
    pairs.push(pair("general.architecture", 8, &text("llama")));
    pairs.push(pair("general.alignment", 4, &32u32.to_le_bytes()));
    pairs.push(array("tokens", 8, &[text("a"), text(""), text("bc")]));
    pairs.push(array("scores", 6, &[vec![0; 4], vec![1; 4]]));
    pairs.push(array("flags", 7, &[vec![0], vec![1]]));
    let split = |number: u8| {
        vec![
            pair("split.no", 2, &[number, 0]),
            pair("split.count", 2, &[2, 0]),
            pair("split.tensors.count", 5, &[2, 0, 0, 0]),
        ]
    };
    let tensors: [(&str, &[u64], Vec<f32>); 2] =
        [("a.weight", &[4, 2], vec![0.5; 8]), ("b", &[3], vec![1.0; 3])];
    vec![
        gguf_file(&pairs, &tensors),
        gguf_file(&vocabulary("llama"), &tensors),
        gguf_file(&vocabulary("gpt2"), &tensors),
        gguf_file(&pairs[10..12], &tensors[..1]),
        gguf_file(&split(0), &tensors[..1]),
        gguf_file(&[], &[]),
    ]
}

pub(crate) fn importance(_: &Scratch) -> Vec<Vec<u8>> {
    let pairs = [
        pair("general.type", 8, &text("imatrix")),
        array("imatrix.datasets", 8, &[text("a.txt")]),
        pair("imatrix.chunk_count", 4, &2u32.to_le_bytes()),
        pair("imatrix.chunk_size", 4, &512u32.to_le_bytes()),
    ];
    let file = gguf_file(
        &pairs,
        &[
            ("blk.0.ffn_up_exps.weight.in_sum2", &[4, 2], vec![1.0; 8]),
            ("blk.0.ffn_up_exps.weight.counts", &[1, 2], vec![1024.0, 3.0]),
            ("output.weight.in_sum2", &[4], vec![2.0; 4]),
            ("output.weight.counts", &[1], vec![1024.0]),
        ],
    );
    let mut legacy = Vec::new();
    let number = |number: i32| number.to_le_bytes();
    legacy.extend(number(2));
    for name in ["blk.0.attn_q.weight", "output.weight"] {
        legacy.extend(number(name.len() as i32));
        legacy.extend(name.as_bytes());
        legacy.extend([number(2), number(4)].concat());
        legacy.extend([1.0f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
    }
    legacy.extend([number(2), number(5)].concat());
    legacy.extend(b"a.txt");
    vec![file, legacy]
}

pub(crate) fn statistics(_: &Scratch) -> Vec<Vec<u8>> {
    let triangle = vec![4.0, 1.0, 0.0, 0.0, 4.0, 1.0, 0.0, 4.0, 1.0, 4.0];
    let pairs = [pair("general.type", 8, &text("imatrix"))];
    vec![
        gguf_file(&pairs, &[("a.gram", &[10], triangle.clone())]),
        gguf_file(&pairs, &[("a.gram", &[10, 2], [triangle.clone(), triangle].concat())]),
    ]
}

pub(crate) fn safetensors(_: &Scratch) -> Vec<Vec<u8>> {
    let file = |header: &str, data: usize| {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.resize(out.len() + data, 0);
        out
    };
    vec![
        file(
            r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#,
            22,
        ),
        file(r#"{"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}   "#, 8),
        file("{}", 0),
    ]
}

pub(crate) fn index(scratch: &Scratch) -> Vec<Vec<u8>> {
    for (name, shard) in [("a", "model-00001-of-00002"), ("b", "model-00002-of-00002")] {
        let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.push(0);
        scratch.named(&format!("{shard}.safetensors"), &file);
    }
    vec![
        br#"{"metadata":{"total_size":2},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#.to_vec(),
        br#"{"weight_map":{"a":"../x.safetensors","b":"a/b"}}"#.to_vec(),
    ]
}

/// A zip file of stored entries.
pub(crate) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let mut fields = vec![0; 8];
        fields.extend(crc32fast::hash(data).to_le_bytes());
        fields.extend([(data.len() as u32).to_le_bytes(); 2].concat());
        fields.extend((name.len() as u16).to_le_bytes());
        directory.extend([b"PK\x01\x02\0\0\0\0".as_slice(), &fields, &[0; 12]].concat());
        directory.extend((out.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        out.extend(
            [b"PK\x03\x04\0\0".as_slice(), &fields, &[0; 2], name.as_bytes(), data].concat(),
        );
    }
    let (start, size) = (out.len() as u32, directory.len() as u32);
    let count = (entries.len() as u16).to_le_bytes();
    out.extend(directory);
    out.extend([b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count].concat());
    out.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
    out.extend([0; 2]);
    out
}

/// A state dictionary of one tensor of 2 by 2, of protocol 2.
fn pickle() -> Vec<u8> {
    let text = |text: &str| {
        [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    };
    let storage = [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        b"K\x04tQ".to_vec(),
    ];
    let tensor = [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage.concat(),
        b"K\x00(K\x02K\x02t(K\x02K\x01t\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ];
    let dict = [b"\x80\x02}q\x00(".to_vec(), text("w"), b"q\x01".to_vec(), tensor.concat()];
    [dict.concat(), b"u.".to_vec()].concat()
}

pub(crate) fn torch(_: &Scratch) -> Vec<Vec<u8>> {
    let storage: Vec<u8> = (0..16).collect();
    let archive = zip(&[("m/data.pkl", &pickle()), ("m/data/0", &storage), ("m/version", b"3\n")]);
    let magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    let system = b"\x80\x02}q\x01(X\x10\0\0\0protocol_versionM\xe9\x03X\r\0\0\0little_endian\x88X\n\0\0\0type_sizes}(X\x05\0\0\0shortK\x02X\x03\0\0\0intK\x04X\x04\0\0\0longK\x04uu.".to_vec();
    let keys = [b"\x80\x02]X\x01\0\0\x000a.".to_vec(), 4u64.to_le_bytes().to_vec(), storage];
    let legacy = [magic, system, pickle(), keys.concat()].concat();
    vec![archive, zip(&[("m/data.pkl", b"\x80\x02}.")]), legacy]
}

pub(crate) fn tokenizer_json(_: &Scratch) -> Vec<Vec<u8>> {
    vec![
        br#"{"version":"1.0","added_tokens":[{"id":5,"content":"<s>","single_word":false,"lstrip":false,"rstrip":true,"normalized":false,"special":true},{"id":6,"content":"<x>","special":false}],"normalizer":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[5],"tokens":["<s>"]}}},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","ignore_merges":true,"vocab":{"a":0,"b":1,"ab":2,"c":3,"abc":4},"merges":[["a","b"],"ab c"]}}"#.to_vec(),
        br#"{"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true}],"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},{"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]},"pre_tokenizer":null,"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{"<unk>":0,"<s>":1,"<0x00>":2,"<0x01>":3,"\u2581":4,"a":5,"\u2581a":6},"merges":["\u2581 a"]}}"#.to_vec(),
        br#"{"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.5],["b",-2]]}}"#.to_vec(),
    ]
}

/// A model of these pieces, with their kinds, and of other fields.
fn pieces(pieces: &[(&str, f32, u8)], others: &[u8]) -> Vec<u8> {
    let mut model = Vec::new();
    for (text, score, kind) in pieces {
        let mut inner = vec![0x0a, text.len() as u8];
        inner.extend(text.as_bytes());
        inner.push(0x15);
        inner.extend(score.to_le_bytes());
        inner.extend([0x18, *kind]);
        model.extend([0x0a, inner.len() as u8]);
        model.extend(inner);
    }
    model.extend(others);
    model
}

pub(crate) fn sentencepiece(_: &Scratch) -> Vec<Vec<u8>> {
    let words = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<x>", 0.0, 4),
        ("<y>", 0.0, 5),
        ("\u{2581}a", -1.0, 1),
        ("a", -2.0, 1),
        ("b", -3.5, 1),
    ];
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let bytes = bytes.iter().map(|byte| (byte.as_str(), 0.0, 6));
    let with_bytes: Vec<_> = words[..3].iter().copied().chain(bytes).collect();
    vec![
        // Trainer: unigrams; normalizer: a space in front.
        pieces(&words, &[0x12, 4, 0x18, 1, 0x20, 7, 0x1a, 2, 0x18, 1]),
        // Byte pairs; spaces are kept, and bytes for what has no piece.
        pieces(&with_bytes, &[0x12, 5, 0x18, 2, 0x98, 2, 1, 0x1a, 4, 0x18, 0, 0x20, 0]),
        read("llama-spm", "tokenizer.model"),
    ]
}

pub(crate) fn tiktoken(_: &Scratch) -> Vec<Vec<u8>> {
    vec![b"YQ== 0\nYg== 1\nYWI= 2\nYWJh 3\n".to_vec(), read("kimi-k2", "tiktoken.model")]
}

/// The committed checkpoints that have a tokenizer.json.
const CHECKPOINTS: [&str; 6] =
    ["llama-tied", "llama3-rope", "mixtral", "qwen2", "qwen3", "mistral"];

/// What of a checkpoint stands beside a configuration.
pub(crate) struct Checkpoint {
    /// The architecture's name in its configuration.
    pub(crate) class: String,
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) tokenizer: Vec<u8>,
}

fn read(checkpoint: &str, name: &str) -> Vec<u8> {
    std::fs::read(folder(checkpoint).join(name)).expect("a file of a fixture")
}

fn folder(checkpoint: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny").join(checkpoint)
}

pub(crate) fn checkpoints() -> Vec<Checkpoint> {
    let checkpoint = |name: &str| {
        let config: Value = serde_json::from_slice(&read(name, "config.json")).expect("JSON");
        let weights = SafetensorsFile::open(folder(name).join("model.safetensors"));
        Checkpoint {
            class: config["architectures"][0].as_str().expect("a class").to_owned(),
            tensors: weights.expect("a fixture").tensors().to_vec(),
            tokenizer: read(name, "tokenizer.json"),
        }
    };
    CHECKPOINTS.map(checkpoint).into()
}

pub(crate) fn config(_: &Scratch) -> Vec<Vec<u8>> {
    CHECKPOINTS.map(|name| read(name, "config.json")).into()
}

pub(crate) fn chat(_: &Scratch) -> Vec<Vec<u8>> {
    let templates = include_str!("../../qz-jinja/tests/data/templates.txt");
    let expressions = include_str!("../../qz-jinja/tests/data/expressions.txt");
    let templates = templates.split("\n=====\n").map(|one| one.as_bytes().to_vec());
    let expressions = expressions.lines().map(|one| format!("{{{{ {one} }}}}").into_bytes());
    templates.chain(expressions).collect()
}

pub(crate) fn tasks(_: &Scratch) -> Vec<Vec<u8>> {
    let json = [
        r#"{"question":"2+2?","choices":["3","4"],"answer":"B"}"#,
        r#"{"question":"q","choices":{"text":["x","y"],"label":["1","2"]},"answerKey":"2"}"#,
        r#"{"activity_label":"Skiing","ctx":"He","endings":["runs.","skis."],"label":"1"}"#,
        r#"{"sentence":"The _ was big.","option1":"cat","option2":"dog","answer":"2"}"#,
    ];
    let number = |number: u32| number.to_le_bytes().to_vec();
    let text = |text: &str| [number(text.len() as u32), text.as_bytes().to_vec()].concat();
    let answers = [number(2), text("a"), text("b"), number(1), number(0)].concat();
    let task = [text("why?"), answers, number(0)].concat();
    let binary = [number(1), number(0), task].concat();
    vec![json.join("\n").into_bytes(), json[0].as_bytes().to_vec(), binary]
}

fn probabilities() -> (Text, Vec<f32>) {
    let tokens: Vec<u32> = (0..24).map(|position| position * 7 % 9).collect();
    let text = Text::new(&tokens, 8, None).expect("long enough");
    (text, (0..9).map(|token| token as f32 * 0.3).collect())
}

pub(crate) fn logits(scratch: &Scratch) -> Vec<Vec<u8>> {
    let (text, logits) = probabilities();
    let path = scratch.folder().join("logits");
    let options = OutputOptions::default();
    let mut writer = LogitsWriter::create(&path, &text, 9, options).expect("created");
    for _ in 0..text.positions() {
        writer.write(&logits).expect("written");
    }
    writer.finish().expect("finished");
    vec![std::fs::read(path).expect("read")]
}

pub(crate) fn leading(scratch: &Scratch) -> Vec<Vec<u8>> {
    let (text, logits) = probabilities();
    let path = scratch.folder().join("leading");
    let options = OutputOptions::default();
    let mut writer = LeadingWriter::create(&path, &text, 9, 3, options).expect("created");
    for _ in 0..text.positions() {
        writer.write(&logits, 4).expect("written");
    }
    writer.finish().expect("finished");
    vec![std::fs::read(path).expect("read")]
}

pub(crate) fn parquet(_: &Scratch) -> Vec<Vec<u8>> {
    vec![fixture!("documents.parquet")]
}

/// The output whose journals are mutated.
pub(crate) fn staged(scratch: &Scratch) -> Artifact {
    Artifact::file(&scratch.folder().join("out"), 64)
}

/// The journals of a run that was killed, after some pieces and before the first.
pub(crate) fn journal(scratch: &Scratch) -> Vec<Vec<u8>> {
    let path = scratch.folder().join("out.partial").join("journal");
    let mut seeds = Vec::new();
    for pieces in [0, 3] {
        let staged = StagedArtifact::create(staged(scratch), "job", OutputOptions::default());
        let mut staged = staged.expect("created");
        for piece in 0..pieces {
            staged.write_at(0, 8 * piece, &[1; 8]).expect("written");
            staged.record(format!("piece {piece}"));
        }
        staged.keep().expect("kept");
        seeds.push(std::fs::read(&path).unwrap_or_default());
    }
    seeds
}

pub(crate) fn quantization(_: &Scratch) -> Vec<Vec<u8>> {
    [
        r#"{"quant_method":"gptq","bits":4,"group_size":32,"desc_act":true,"sym":false,"checkpoint_format":"gptq","dynamic":{"-:.*skip.*":{},"+:.*up.*":{"bits":8}},"pack_dtype":"int32"}"#,
        r#"{"quant_method":"awq","bits":4,"group_size":32,"zero_point":true,"version":"gemm","modules_to_not_convert":["lm_head"]}"#,
        r#"{"quant_method":"compressed-tensors","format":"pack-quantized","ignore":["lm_head"],"config_groups":{"group_0":{"targets":["Linear","re:.*up.*"],"weights":{"num_bits":4,"type":"int","symmetric":true,"strategy":"group","group_size":32,"actorder":null},"input_activations":null}}}"#,
        r#"{"quant_method":"compressed-tensors","format":"float-quantized","config_groups":{"g":{"targets":["Linear"],"weights":{"num_bits":8,"type":"float","symmetric":true,"strategy":"channel"}}}}"#,
        r#"{"quant_method":"compressed-tensors","format":"mixed-precision","config_groups":{"g":{"targets":["re:.*layers.2.*"],"format":"pack-quantized","weights":{"num_bits":4,"type":"int","strategy":"group","group_size":32}},"h":{"targets":["model.layers.3.mlp.up_proj"],"format":"mxfp6-pack-quantized","weights":{"num_bits":6,"type":"float","strategy":"group","group_size":32}}}}"#,
        r#"{"quant_method":"compressed-tensors","format":"mxfp4-pack-quantized","config_groups":{"g":{"targets":["Linear"],"weights":{"num_bits":4,"type":"float","strategy":"group","group_size":32}}},"transform_config":{"config_groups":{"r":{"type":"hadamard","head_dim":32,"randomize":false,"apply":[{"targets":["Linear"],"location":"input","ignore":["lm_head","re:.*down.*"]},{"targets":["Linear"],"location":"weight_input","inverse":true}]}}}}"#,
        r#"{"quant_method":"fp8","activation_scheme":"dynamic","fmt":"e4m3","weight_block_size":[128,128]}"#,
        r#"{"quant_method":"bitsandbytes","load_in_4bit":true,"load_in_8bit":false,"bnb_4bit_quant_type":"nf4","bnb_4bit_use_double_quant":true}"#,
        r#"{"quant_method":"modelopt","quant_algo":"NVFP4","kv_cache_quant_algo":"FP8","group_size":16,"exclude_modules":["lm_head"]}"#,
        r#"{"quant_method":"mlx","group_size":32,"bits":4,"mode":"affine"}"#,
        r#"{"quant_method":"hqq","quant_config":{"weight_quant_params":{"nbits":4,"channel_wise":true,"group_size":64,"optimize":true,"axis":1}}}"#,
        r#"{"quant_method":"aqlm","in_group_size":8,"out_group_size":1,"num_codebooks":1,"nbits_per_codebook":16,"linear_weights_not_to_quantize":["lm_head.weight"]}"#,
        r#"{"quant_method":"mxfp4","modules_to_not_convert":["lm_head"]}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Configurations of adapters; a base and an adapter's weights for them lie beside.
pub(crate) fn adapter(scratch: &Scratch) -> Vec<Vec<u8>> {
    let file = |tensors: &[(&str, [usize; 2])]| {
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        for (name, shape) in tensors {
            let begin = end;
            end += shape[0] * shape[1] * 4;
            let tensor =
                serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]});
            header.insert((*name).to_owned(), tensor);
        }
        let header = Value::Object(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header.as_bytes(), &vec![0; end]].concat()
    };
    let q = "base_model.model.model.layers.0.self_attn.q_proj";
    let (a, b) = (format!("{q}.lora_A.weight"), format!("{q}.lora_B.weight"));
    scratch.named("adapter_model.safetensors", &file(&[(&a, [4, 8]), (&b, [8, 4])]));
    let base = "model.layers.0.self_attn.q_proj.weight";
    scratch.named("model.safetensors", &file(&[(base, [8, 8])]));
    scratch.named("config.json", br#"{"architectures": ["NobodyKnowsThisForCausalLM"]}"#);
    vec![fixture!("lora/plain/adapter_config.json"), fixture!("lora/patterns/adapter_config.json")]
}
