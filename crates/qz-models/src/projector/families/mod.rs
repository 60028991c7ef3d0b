//! The families of projectors: names, and what their configurations say.

mod gemma;
mod internvl;
mod kimi;
mod llama4;
mod pixtral;
mod qwen;
mod siglip;
mod whisper;

use qz_tensor::SideFiles;

use super::metadata::{ACTIVATION, Absent, Entry, Of, number, reciprocal};
use super::{
    Defaults, Precision, ProjectorConfig, ProjectorFamily, ProjectorRule, Take, Tower, TowerKind,
};
use crate::error::Error;
use crate::lists::{count, joined};
use crate::rules::{LayerIndex, NamePattern};

/// Every family.
pub(super) const FAMILIES: &[ProjectorFamily] = &[
    gemma::GEMMA_3,
    gemma::GEMMA_4,
    qwen::QWEN_2_VL,
    qwen::QWEN_2_5_VL,
    qwen::QWEN_3_VL,
    siglip::IDEFICS_3,
    siglip::LFM_2_VL,
    pixtral::MISTRAL_3,
    pixtral::PIXTRAL,
    llama4::LLAMA_4,
    internvl::INTERNVL,
    kimi::KIMI_VL,
    whisper::QWEN_2_AUDIO,
    whisper::ULTRAVOX,
    whisper::VOXTRAL,
];

const fn rule(source: &'static str, target: &'static str) -> ProjectorRule {
    ProjectorRule {
        source: NamePattern(source),
        target: NamePattern(target),
        take: Take::All,
        precision: None,
        is_required: true,
    }
}

impl ProjectorRule {
    const fn taking(self, take: Take) -> Self {
        Self { take, ..self }
    }

    const fn of(self, precision: Precision) -> Self {
        Self { precision: Some(precision), ..self }
    }

    const fn optional(self) -> Self {
        Self { is_required: false, ..self }
    }
}

/// The weight and the bias of a module.
macro_rules! module {
    ($source:literal, $target:literal) => {
        [
            rule(concat!($source, ".weight"), concat!($target, ".weight")),
            rule(concat!($source, ".bias"), concat!($target, ".bias")),
        ]
    };
}

/// The same, of a module that may have no bias.
macro_rules! unbiased {
    ($source:literal, $target:literal) => {
        [
            rule(concat!($source, ".weight"), concat!($target, ".weight")),
            rule(concat!($source, ".bias"), concat!($target, ".bias")).optional(),
        ]
    };
}

/// The weight and the bias of queries, keys and values in one; there may be no bias.
macro_rules! thirds {
    ($source:literal) => {
        [
            rule(concat!($source, ".weight"), "v.blk.{layer}.attn_q.weight").taking(Take::Third(0)),
            rule(concat!($source, ".weight"), "v.blk.{layer}.attn_k.weight").taking(Take::Third(1)),
            rule(concat!($source, ".weight"), "v.blk.{layer}.attn_v.weight").taking(Take::Third(2)),
            rule(concat!($source, ".bias"), "v.blk.{layer}.attn_q.bias")
                .taking(Take::Third(0))
                .optional(),
            rule(concat!($source, ".bias"), "v.blk.{layer}.attn_k.bias")
                .taking(Take::Third(1))
                .optional(),
            rule(concat!($source, ".bias"), "v.blk.{layer}.attn_v.bias")
                .taking(Take::Third(2))
                .optional(),
        ]
    };
}

/// Lists, one behind the other.
macro_rules! lists {
    ($kind:ty: $($list:expr),+ $(,)?) => {{
        const LISTS: &[&[$kind]] = &[$(&$list),+];
        const ALL: [$kind; count(LISTS)] = joined(LISTS);
        &ALL
    }};
}

/// Lists of rules, one behind the other.
macro_rules! rules {
    ($($list:expr),+ $(,)?) => { lists!(ProjectorRule: $($list),+) };
}

/// Lists of entries of the metadata, one behind the other.
macro_rules! entries {
    ($($list:expr),+ $(,)?) => { lists!(Entry: $($list),+) };
}

use {entries, lists, module, rules, thirds, unbiased};

/// A family that sees, and differs in nothing from most.
const SEES: ProjectorFamily = ProjectorFamily {
    model_types: &[],
    towers: &[Tower::new(TowerKind::Vision, &["vision_config"])],
    prefixes: &[],
    dropped: &[],
    rules: &[],
    sizes: SIZES,
    prepare: |_, _| Ok(()),
    metadata: &[],
    layer_of: |_, _, layer| Ok(layer),
};

/// The sizes that configurations and tensors both say.
const SIZES: &[(&str, &str)] =
    &[(".ln1.weight", "hidden_size"), (".ffn_up.weight", "intermediate_size")];

/// The epsilon of a tower's norms, where it is the configuration's.
const fn epsilon(default: f64) -> Entry {
    let absent = Absent::Default(default);
    Entry::Number("vision.attention.layer_norm_epsilon", Of::Vision, "layer_norm_eps", absent)
}
