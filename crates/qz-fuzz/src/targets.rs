//! The parsers, each with what it is given.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use qz_calib::{ImportanceMatrix, StatisticsFile};
use qz_eval::leading_file::LeadingFile;
use qz_eval::logits_file::LogitsFile;
use qz_gguf::GgufModel;
use qz_jinja::Template;
use qz_packed::PackedSource;
use qz_pickle::TorchFile;
use qz_pipeline::{MergedAdapter, Model, OpenOptions};
use qz_safetensors::{SafetensorsFile, SafetensorsModel};
use qz_tensor::{
    DataType, FileError, MemorySource, MemoryTensor, OutputOptions, Shape, SideFiles,
    StagedArtifact, TensorIndex, TensorSource,
};
use qz_tokenize::{EncodeOptions, Tokenizer, VocabularyOptions};
use serde_json::{Map, Value, json};

use crate::scratch::Scratch;
use crate::seeds::{self, Checkpoint};
use crate::structured::Structure;

/// Something that reads a stranger's bytes.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Good files; other files that a mutant stands beside are written here, too.
    pub seeds: fn(&Scratch) -> Vec<Vec<u8>>,
    /// Words of the format.
    pub words: &'static [&'static [u8]],
    /// What its files are made of.
    pub structure: Structure,
    /// Reads a file as the program does; true if nothing is wrong with it.
    pub read: fn(&[u8], &Scratch) -> bool,
}

const JSON: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"a\":",
    b"\xef\xbb\xbf",
    b"NaN",
    b"Infinity",
    b"[[[[[[[[",
    b"{\"a\":{\"a\":",
];

const GGUF: &[&[u8]] = &[
    b"GGUF",
    b"\x09\0\0\0\x08\0\0\0",
    b"\x08\0\0\0",
    b"general.alignment",
    b"split.count",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
];

const JINJA: &[&[u8]] = &[
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"{#",
    b"#}",
    b"-%}",
    b"{%-",
    b"{% for x in messages %}",
    b"{% endfor %}",
    b"{% if x %}",
    b"{% endif %}",
    b"{% set x = ",
    b"{% set ns.x = [ns.x, ns.x] %}",
    b"namespace(x=messages)",
    b"range(99999)",
    b"* 99999",
    b"~ x",
    b"[::-1]",
    b"|tojson",
    b"|join(x)",
    b".replace('a', x)",
    b"{% macro f(x) %}",
    b"{% endmacro %}",
    b"f(x)",
    b"loop(x)",
    b"recursive",
    b"|map('length')",
    b"|sort",
    b"|list",
    b"is defined",
    b"not ",
    b"-",
    b"(",
    b")",
    b"[",
    b"]",
    b"**",
    b"{% raw %}",
    b"{% endraw %}",
    b"{% generation %}",
    b"{% endgeneration %}",
    b"|indent(99999)",
    b"'%99999d' % 1",
    b"\\u",
    b"'",
    b"\"",
];

/// Every target.
pub static TARGETS: &[Target] = &[
    Target {
        name: "gguf",
        seeds: seeds::gguf,
        words: GGUF,
        structure: Structure::Gguf,
        read: gguf,
    },
    Target {
        name: "safetensors",
        seeds: seeds::safetensors,
        words: JSON,
        structure: Structure::PrefixedJson,
        read: |bytes, scratch| SafetensorsFile::open(scratch.file(bytes)).is_ok(),
    },
    Target {
        name: "index",
        seeds: seeds::index,
        words: JSON,
        structure: Structure::Json,
        read: index,
    },
    Target {
        name: "torch",
        seeds: seeds::torch,
        words: PICKLE,
        structure: Structure::Zip,
        read: torch,
    },
    Target {
        name: "tokenizer.json",
        seeds: seeds::tokenizer_json,
        words: JSON,
        structure: Structure::Json,
        read: tokenizer_json,
    },
    Target {
        name: "sentencepiece",
        seeds: seeds::sentencepiece,
        words: PROTOBUF,
        structure: Structure::Protobuf,
        read: sentencepiece,
    },
    Target {
        name: "tiktoken",
        seeds: seeds::tiktoken,
        words: &[b" ", b"\n", b"=", b"==", b"AA==", b"0", b"256", b"18446744073709551616"],
        structure: Structure::Bytes,
        read: tiktoken,
    },
    Target {
        name: "config",
        seeds: seeds::config,
        words: JSON,
        structure: Structure::Json,
        read: config,
    },
    Target {
        name: "chat-template",
        seeds: seeds::chat,
        words: JINJA,
        structure: Structure::Bytes,
        read: chat,
    },
    Target {
        name: "imatrix",
        seeds: seeds::importance,
        words: GGUF,
        structure: Structure::Gguf,
        read: |bytes, scratch| ImportanceMatrix::open(scratch.file(bytes)).is_ok(),
    },
    Target {
        name: "statistics",
        seeds: seeds::statistics,
        words: GGUF,
        structure: Structure::Gguf,
        read: statistics,
    },
    Target {
        name: "logits",
        seeds: seeds::logits,
        words: &[b"_logits_"],
        structure: Structure::Bytes,
        read: logits,
    },
    Target {
        name: "leading",
        seeds: seeds::leading,
        words: &[b"QZLEAD01"],
        structure: Structure::Bytes,
        read: leading,
    },
    Target {
        name: "tasks",
        seeds: seeds::tasks,
        words: JSON,
        structure: Structure::Json,
        read: |bytes, scratch| qz_eval::tasks::read(scratch.file(bytes)).is_ok(),
    },
    Target {
        name: "parquet",
        seeds: seeds::parquet,
        words: &[b"PAR1", b"\x15", b"\x4c"],
        structure: Structure::Bytes,
        read: parquet,
    },
    Target {
        name: "journal",
        seeds: seeds::journal,
        words: &[b"\n", b"piece 1\n", b"job"],
        structure: Structure::Bytes,
        read: journal,
    },
    Target {
        name: "adapter_config",
        seeds: seeds::adapter,
        words: JSON,
        structure: Structure::Json,
        read: adapter,
    },
    Target {
        name: "quantization_config",
        seeds: seeds::quantization,
        words: JSON,
        structure: Structure::Json,
        read: quantization,
    },
];

const PICKLE: &[&[u8]] = &[
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"\x80\x02",
    b"c__builtin__\neval\n",
    b"R",
    b"t",
    b"(",
    b"}",
    b"]",
    b"Q",
    b"q\x00",
    b"h\x00",
    b"u",
    b"s",
    b"\x85",
    b"\x93",
    b".",
    b"2222",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
];

const PROTOBUF: &[&[u8]] =
    &[b"\x0a", b"\x12", b"\x1a", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"<0x41>"];

/// Read is what opens; of what has a vocabulary that is made, too.
fn gguf(bytes: &[u8], scratch: &Scratch) -> bool {
    let Ok(model) = GgufModel::open(scratch.file(bytes)) else { return false };
    if let Ok(tokenizer) = Tokenizer::from_metadata(model.metadata()) {
        encode(&tokenizer);
    }
    (0..model.tensors().len()).all(|index| {
        let mut out = vec![0; model.tensors()[index].bytes.min(256) as usize];
        model.read(TensorIndex(index), 0, &mut out).is_ok()
    })
}

fn index(bytes: &[u8], scratch: &Scratch) -> bool {
    scratch.named("model.safetensors.index.json", bytes);
    SafetensorsModel::open_folder(scratch.folder()).is_ok()
}

fn torch(bytes: &[u8], scratch: &Scratch) -> bool {
    let Ok(file) = TorchFile::open(scratch.file(bytes)) else { return false };
    file.tensors().iter().enumerate().filter(|(_, info)| info.bytes > 0).all(|(index, info)| {
        // The first element: views are read by whole ones.
        let mut out = vec![0; info.data_type.block_bytes()];
        file.read(TensorIndex(index), 0, &mut out).is_ok()
    })
}

/// One file of a checkpoint, others as they are.
struct Files<'a> {
    mutant: (&'a str, &'a [u8]),
    others: &'a [(&'a str, &'a [u8])],
}

impl SideFiles for Files<'_> {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        let mut all = self.others.iter().chain([&self.mutant]);
        Ok(all.find(|(known, _)| *known == name).map(|(_, bytes)| bytes.to_vec()))
    }

    fn list(&self, _: &str) -> Result<Vec<String>, FileError> {
        Ok(Vec::new())
    }

    fn folder_name(&self) -> Option<&str> {
        Some("model")
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

fn vocabulary(files: &Files<'_>) -> bool {
    let options =
        VocabularyOptions { rules: qz_tokenize::VocabularyRules::Llama, ..Default::default() };
    let Ok(vocabulary) = qz_tokenize::vocabulary(files, options) else { return false };
    let Ok(tokenizer) = Tokenizer::from_metadata(&vocabulary.metadata) else { return false };
    encode(&tokenizer);
    true
}

/// Makes tokens of a text, and text of them.
fn encode(tokenizer: &Tokenizer) {
    let tokens = tokenizer
        .encode("a abc <s> b\u{2581}a", EncodeOptions { add_special: true, parse_special: true });
    tokens.into_iter().flatten().for_each(|token| drop(tokenizer.piece(token)));
}

fn tokenizer_json(bytes: &[u8], _: &Scratch) -> bool {
    vocabulary(&Files { mutant: ("tokenizer.json", bytes), others: &[] })
}

fn sentencepiece(bytes: &[u8], _: &Scratch) -> bool {
    vocabulary(&Files { mutant: ("tokenizer.model", bytes), others: &[] })
}

fn tiktoken(bytes: &[u8], _: &Scratch) -> bool {
    vocabulary(&Files { mutant: ("tiktoken.model", bytes), others: &[] })
}

/// Describes a checkpoint with the tensors and the vocabulary of one that has this class.
fn config(bytes: &[u8], _: &Scratch) -> bool {
    static CHECKPOINTS: LazyLock<Vec<Checkpoint>> = LazyLock::new(seeds::checkpoints);
    let has = |class: &str| bytes.windows(class.len()).any(|window| window == class.as_bytes());
    CHECKPOINTS.iter().filter(|checkpoint| has(&checkpoint.class)).any(|checkpoint| {
        let others = [("tokenizer.json", checkpoint.tokenizer.as_slice())];
        let files = Files { mutant: ("config.json", bytes), others: &others };
        let options = qz_models::ConvertOptions::default();
        qz_models::describe(&files, &checkpoint.tensors, &options).is_ok()
    })
}

/// Merges an adapter with this configuration into the base beside it.
fn adapter(bytes: &[u8], scratch: &Scratch) -> bool {
    scratch.named("adapter_config.json", bytes);
    let merged = MergedAdapter { path: scratch.folder().to_owned(), weight: 1.0 };
    let options = OpenOptions { generic: true, adapters: vec![merged], ..Default::default() };
    Model::open(scratch.folder(), &options).is_ok()
}

fn chat(bytes: &[u8], _: &Scratch) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(template) = Template::new(text) else { return false };
    let variables = json!({
        "messages": [
            {"role": "system", "content": " Be brief. "},
            {"role": "user", "content": "Hi 'you' \"é\"\n"},
            {"role": "assistant", "content": "Hello", "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1.5, null]}}}]},
        ],
        "tools": null,
        "bos_token": "<s>",
    });
    let Value::Object(variables) = variables else { return false };
    template.render(&variables).is_ok()
}

fn statistics(bytes: &[u8], scratch: &Scratch) -> bool {
    let Ok(file) = StatisticsFile::open(scratch.file(bytes)) else { return false };
    match file.gram("a", 4) {
        Ok(Some(entry)) => (0..entry.experts.min(4)).all(|expert| file.read(entry, expert).is_ok()),
        _ => false,
    }
}

fn logits(bytes: &[u8], scratch: &Scratch) -> bool {
    LogitsFile::open(scratch.file(bytes)).is_ok_and(|file| {
        let text = file.read_text();
        text.is_ok_and(|text| both_ends(text.positions(), |at| file.read(at).is_ok()))
    })
}

fn leading(bytes: &[u8], scratch: &Scratch) -> bool {
    LeadingFile::open(scratch.file(bytes)).is_ok_and(|file| {
        let text = file.read_text();
        text.is_ok_and(|text| both_ends(text.positions(), |at| file.read(at).is_ok()))
    })
}

/// Reads the first position and the last.
fn both_ends(positions: usize, read: impl Fn(usize) -> bool) -> bool {
    read(0) && read(positions.saturating_sub(1))
}

fn parquet(bytes: &[u8], scratch: &Scratch) -> bool {
    qz_pipeline::each_parquet_row(scratch.file(bytes), &mut |_, _| {
        Ok(std::ops::ControlFlow::Continue(()))
    })
    .is_ok()
}

fn journal(bytes: &[u8], scratch: &Scratch) -> bool {
    scratch.named("out.partial/journal", bytes);
    let staged = StagedArtifact::create(seeds::staged(scratch), "job", OutputOptions::default());
    let Ok(staged) = staged else { return false };
    let continued = !staged.completed().is_empty();
    staged.keep().is_ok() && continued
}

/// Tensors of packed matrices in many layouts, whose bytes are all one.
fn ones() -> Option<MemorySource> {
    let layers: &[&[(&str, DataType, &[u64])]] = &[
        &[
            ("qweight", DataType::I32, &[8, 64]),
            ("qzeros", DataType::I32, &[2, 8]),
            ("scales", DataType::F16, &[2, 64]),
            ("g_idx", DataType::I32, &[64]),
        ],
        &[
            ("qweight", DataType::I32, &[64, 8]),
            ("qzeros", DataType::I32, &[2, 8]),
            ("scales", DataType::F16, &[2, 64]),
        ],
        &[
            ("weight_packed", DataType::I32, &[64, 8]),
            ("weight_scale", DataType::BF16, &[64, 2]),
            ("weight_shape", DataType::I64, &[2]),
        ],
        &[("weight_packed", DataType::U8, &[64, 48]), ("weight_scale", DataType::U8, &[64, 2])],
        &[
            ("weight", DataType::F8_E4M3, &[64, 64]),
            ("weight_scale", DataType::F32, &[64, 1]),
            ("weight_scale_inv", DataType::F32, &[1, 1]),
        ],
        &[
            ("weight", DataType::U8, &[2048, 1]),
            ("weight.absmax", DataType::F32, &[64]),
            ("weight.quant_map", DataType::F32, &[16]),
            ("weight.quant_state.bitsandbytes__nf4", DataType::U8, &[96]),
        ],
        &[
            ("weight", DataType::U32, &[64, 8]),
            ("scales", DataType::BF16, &[64, 2]),
            ("biases", DataType::BF16, &[64, 2]),
        ],
    ];
    let parts = layers.iter().enumerate().flat_map(|(layer, parts)| {
        let name = move |suffix: &str| format!("model.layers.{layer}.mlp.up_proj.{suffix}");
        parts
            .iter()
            .map(move |(suffix, data_type, dimensions)| (name(suffix), *data_type, *dimensions))
    });
    let parts: Vec<(String, DataType, &[u64])> = parts.collect();
    let mut tensors: Vec<MemoryTensor<'_>> = Vec::new();
    for (name, data_type, dimensions) in &parts {
        let size = Shape::new(dimensions).ok()?.byte_size(*data_type).ok()?;
        tensors.push((name, *data_type, dimensions, vec![1; usize::try_from(size).ok()?]));
    }
    MemorySource::new(tensors).ok()
}

fn quantization(bytes: &[u8], _: &Scratch) -> bool {
    let Ok(config) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return false };
    let Some(ones) = ones() else { return false };
    let Ok(source) = PackedSource::open(Box::new(ones), &config, Path::new("config.json")) else {
        return false;
    };
    (0..source.tensors().len()).all(|index| {
        let mut out = vec![0; source.tensors()[index].bytes.min(256) as usize];
        source.read(TensorIndex(index), 0, &mut out).is_ok()
    })
}
