use std::collections::BTreeMap;

use super::*;
use crate::assign::{Fallback, assign};
use crate::facts::ModelFacts;
use crate::file_type::FileType;
use crate::overrides::Overrides;

const DENSE: ModelFacts = ModelFacts {
    architecture: String::new(),
    layers: 16,
    heads_per_key_head: 2,
    experts: 0,
    is_seventy_billion: false,
    is_generic: false,
};
const ALL: &str = "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15";
const MORE_BITS: &str = "0 1 4 7 10 13 14 15";

fn model(layers: usize, is_tied: bool) -> Vec<PlannedTensor> {
    let mut names = vec!["token_embd.weight".to_owned()];
    if !is_tied {
        names.insert(0, "output.weight".to_owned());
    }
    for layer in 0..layers {
        for part in ["attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up"]
        {
            names.push(format!("blk.{layer}.{part}.weight"));
        }
    }
    let shape = Shape::new([512, 256]).expect("fits");
    let planned = |name| PlannedTensor {
        name,
        shape: shape.clone(),
        unquantized: DataType::F32,
        source_type: DataType::F32,
    };
    names.into_iter().map(planned).collect()
}

/// "part TYPE: layers" for all tensors that do not get the base type.
fn exceptions(name: &str, facts: &ModelFacts, is_tied: bool, has_importance: bool) -> Vec<String> {
    let file_type = FileType::from_name(name).expect("known");
    let tensors = model(facts.layers, is_tied);
    let (overrides, fallback) = (&Overrides::default(), Fallback::Refused);
    let request = Request { file_type, facts, has_importance, overrides, fallback };
    let types = assign(&request, &tensors).expect("fits");
    let types = types.iter().map(|assignment| assignment.data_type);
    let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, data_type) in tensors.iter().zip(types).filter(|(_, t)| *t != file_type.base) {
        let part = tensor.name.split('.').rev().nth(1).expect("a part");
        let layer = layer_of(&tensor.name).map_or("-".to_owned(), |layer| layer.to_string());
        lines.entry(format!("{part} {data_type}")).or_default().push(layer);
    }
    lines.iter().map(|(key, layers)| format!("{key}: {}", layers.join(" "))).collect()
}

fn check(name: &str, facts: &ModelFacts, is_tied: bool, expected: &[&str]) {
    let found = exceptions(name, facts, is_tied, false);
    assert_eq!(found, expected, "{name} {facts:?} tied {is_tied}");
}

#[test]
fn mixtures_of_a_dense_model() {
    check("f16", &DENSE, false, &[]);
    check("q8_0", &DENSE, false, &[]);
    check("q6_k", &DENSE, false, &[]);
    check("q3_k_s", &DENSE, false, &["output Q6_K: -"]);
    check("q5_k_s", &DENSE, false, &["output Q6_K: -"]);
    let first_layers = ["attn_v Q5_K: 0 1 2 3", "ffn_down Q5_K: 0 1", "output Q6_K: -"];
    check("q4_k_s", &DENSE, false, &first_layers);
    let more_bits = [
        &format!("attn_v Q6_K: {MORE_BITS}"),
        &*format!("ffn_down Q6_K: {MORE_BITS}"),
        "output Q6_K: -",
    ];
    check("q4_k_m", &DENSE, false, &more_bits);
    check("q5_k_m", &DENSE, false, &more_bits);
}

#[test]
fn mixtures_of_two_and_three_bits() {
    let all = |part: &str| format!("{part}: {ALL}");
    let (down, output, value) = (all("ffn_down Q3_K"), all("attn_output Q3_K"), all("attn_v Q3_K"));
    check("q2_k", &DENSE, false, &[&output, &value, &down, "output Q6_K: -"]);
    let grouped = ModelFacts { heads_per_key_head: 4, ..DENSE };
    check("q2_k", &grouped, false, &[&output, &all("attn_v Q4_K"), &down, "output Q6_K: -"]);
    check(
        "q3_k_m",
        &DENSE,
        false,
        &[
            &all("attn_output Q4_K"),
            &format!("attn_v Q4_K: {}", &ALL[4..]),
            "attn_v Q5_K: 0 1",
            &format!("ffn_down Q4_K: {}", &ALL[2..]),
            "ffn_down Q5_K: 0",
            "output Q6_K: -",
        ],
    );
    let large =
        [&*all("attn_output Q5_K"), &all("attn_v Q5_K"), &all("ffn_down Q5_K"), "output Q6_K: -"];
    check("q3_k_l", &DENSE, false, &large);
}

#[test]
fn a_tied_embedding_is_the_output() {
    check("q5_k_s", &DENSE, true, &["token_embd Q6_K: -"]);
    check("q8_0", &DENSE, true, &[]);
}

#[test]
fn promoted_models() {
    let experts = ModelFacts { layers: 2, experts: 8, ..DENSE };
    check(
        "q4_k_s",
        &experts,
        false,
        &["attn_k Q8_0: 0 1", "attn_output Q5_K: 0 1", "attn_v Q8_0: 0 1", "output Q6_K: -"],
    );
    let seventy = ModelFacts { layers: 2, is_seventy_billion: true, ..DENSE };
    check("q3_k_s", &seventy, false, &["attn_v Q5_K: 0 1", "output Q6_K: -"]);
}

#[test]
fn importance_changes_some_rules() {
    let check = |name: &str, has_importance, expected: &[&str]| {
        let found = exceptions(name, &DENSE, false, has_importance);
        assert_eq!(found, expected, "{name} {has_importance}");
    };
    let output = "output Q6_K: -";
    check("q4_0", false, &[output]);
    check("q4_0", true, &["ffn_down Q4_1: 0 1", output]);
    check("q5_0", true, &["ffn_down Q5_1: 0 1", output]);
    check("iq4_xs", false, &["ffn_down Q5_K: 0 1", output]);
    check("iq4_xs", true, &[output]);
    let all = |part: &str| format!("{part}: {ALL}");
    let (keys, queries, merges) =
        (all("attn_k IQ2_S"), all("attn_q IQ2_S"), all("attn_output IQ3_S"));
    let others = [&*keys, &merges, &queries];
    let with = [&others[..], &["output Q5_K: -", "token_embd IQ3_S: -"]].concat();
    check("iq3_xxs", true, &with);
    let (values, later) = (all("attn_v IQ3_S"), format!("ffn_down Q3_K: {}", &ALL[4..]));
    let downs = [&*later, "ffn_down Q4_K: 0 1"];
    let without = [&others[..], &[&values], &downs, &["output Q5_K: -", "token_embd IQ3_S: -"]];
    check("iq3_xxs", false, &without.concat());
}

#[test]
fn embeddings_that_need_more() {
    check("tq2_0", &DENSE, false, &["output Q6_K: -", "token_embd Q4_K: -"]);
    check("tq2_0", &DENSE, true, &["token_embd Q6_K: -"]);
    check("iq3_xxs", &ModelFacts { layers: 0, ..DENSE }, true, &["token_embd Q5_K: -"]);
}

#[test]
fn feed_forward_layers_are_counted_or_named() {
    // Two tensors of each kind in a layer: with experts the layer's number counts.
    let names = |layer: u32| {
        ["ffn_down_exps", "ffn_down_shexp"].map(|part| format!("blk.{layer}.{part}.weight"))
    };
    let shape = Shape::new([512, 256]).expect("fits");
    let planned = |name| PlannedTensor {
        name,
        shape: shape.clone(),
        unquantized: DataType::F32,
        source_type: DataType::F32,
    };
    let tensors: Vec<PlannedTensor> = (0..16).flat_map(names).map(planned).collect();
    let check = |name: &str, experts, expected: usize| {
        let facts = &ModelFacts { experts, ..DENSE };
        let request = Request {
            file_type: FileType::from_name(name).expect("known"),
            facts,
            has_importance: false,
            overrides: &Overrides::default(),
            fallback: Fallback::Refused,
        };
        let types = assign(&request, &tensors).expect("fits");
        let base = request.file_type.base;
        let promoted = types.iter().filter(|assignment| assignment.data_type != base).count();
        assert_eq!(promoted, expected, "{name} {experts}");
    };
    check("q4_k_s", 0, 2);
    check("q4_k_s", 64, 4);
    check("iq2_xs", 0, 2);
    check("iq2_xs", 64, 2);
}
