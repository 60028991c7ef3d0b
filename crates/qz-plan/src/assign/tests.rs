use super::*;

const DOWN: &str = "blk.0.ffn_down.weight";

fn planned(name: &str, dimensions: &[u64]) -> PlannedTensor {
    PlannedTensor {
        name: name.into(),
        shape: Shape::new(dimensions).expect("fits"),
        unquantized: DataType::F32,
        source_type: DataType::BF16,
    }
}

fn assign_with(
    file_type: &str,
    overrides: &Overrides,
    fallback: Fallback,
    tensors: &[PlannedTensor],
) -> Result<Vec<Assignment>, Error> {
    let facts = &ModelFacts { layers: 16, heads_per_key_head: 4, ..ModelFacts::default() };
    let file_type = FileType::from_name(file_type).expect("known");
    assign(&Request { file_type, facts, has_importance: false, overrides, fallback }, tensors)
}

#[test]
fn rows_that_do_not_fit_fall_back_or_are_named() {
    let assign_one = |file_type: &str, columns: u64, fallback| {
        let tensor = planned("blk.0.ffn_up.weight", &[16, columns]);
        assign_with(file_type, &Overrides::default(), fallback, &[tensor])
    };
    let check = |file_type: &str, columns: u64, expected: DataType, from: Option<DataType>| {
        let types = assign_one(file_type, columns, Fallback::Allowed).expect("falls back");
        assert_eq!((types[0].data_type, types[0].fallback_from), (expected, from), "{file_type}");
    };
    check("q4_k_s", 512, DataType::Q4_K, None);
    check("q4_k_s", 96, DataType::Q5_0, Some(DataType::Q4_K));
    check("q5_k_s", 96, DataType::Q5_1, Some(DataType::Q5_K));
    check("q2_k", 96, DataType::Q4_0, Some(DataType::Q2_K));
    check("iq4_xs", 96, DataType::IQ4_NL, Some(DataType::IQ4_XS));
    check("tq2_0", 96, DataType::Q4_0, Some(DataType::TQ2_0));
    check("q6_k", 96, DataType::Q8_0, Some(DataType::Q6_K));
    check("q6_k", 100, DataType::F16, Some(DataType::Q6_K));
    check("q8_0", 100, DataType::F16, Some(DataType::Q8_0));
    let check_best = |file_type: &str, expected: DataType| {
        let types = assign_one(file_type, 96, Fallback::Best).expect("falls back");
        assert_eq!(types[0].data_type, expected, "{file_type}");
    };
    check_best("q2_k", DataType::IQ4_NL);
    check_best("q3_k_s", DataType::IQ4_NL);
    check_best("q4_k_s", DataType::Q5_0);
    // What fits stays what was asked for.
    check_best("q4_0", DataType::Q4_0);
    let error = assign_one("q4_k_s", 96, Fallback::Refused).expect_err("may not fall back");
    assert_eq!(error.diagnosis().location.tensor.as_deref(), Some("blk.0.ffn_up.weight"));
    assert_eq!(error.diagnosis().rule, "row-does-not-fit");
    // Blocks of 128 have no stand-in.
    assign_one("q1_0", 96, Fallback::Allowed).expect_err("nothing stands in");
}

#[test]
fn tables_of_numbers_are_kept() {
    let check = |source_type: DataType, unquantized: DataType, expected: (DataType, &str)| {
        let table = PlannedTensor { source_type, unquantized, ..planned(DOWN, &[16, 256]) };
        let found = assign_with("q8_0", &Overrides::default(), Fallback::Allowed, &[table]);
        let found = found.expect("fits")[0];
        assert_eq!((found.data_type, found.reason.name()), expected, "{source_type}");
    };
    check(DataType::I32, DataType::I32, (DataType::I32, "kept"));
    check(DataType::F64, DataType::F64, (DataType::F64, "kept"));
    check(DataType::F16, DataType::F16, (DataType::Q8_0, "base"));
    // A checkpoint's weights.
    check(DataType::F64, DataType::F32, (DataType::Q8_0, "base"));
}

/// The type and the deciding part of each tensor of a small model.
fn decisions(file_type: &str, overrides: &Overrides) -> Vec<(String, &'static str)> {
    let names = ["output.weight", "token_embd.weight", "blk.0.attn_norm.weight", DOWN];
    let tensors = names.map(|name| {
        let vector = name.contains("norm");
        planned(name, if vector { &[256] } else { &[512, 256] })
    });
    let types = assign_with(file_type, overrides, Fallback::Allowed, &tensors).expect("fits");
    types.iter().map(|one| (one.data_type.to_string(), one.reason.name())).collect()
}

#[track_caller]
fn check(file_type: &str, overrides: &Overrides, expected: [(&str, &str); 4]) {
    let found = decisions(file_type, overrides);
    let found: Vec<(&str, &str)> = found.iter().map(|(name, reason)| (&**name, *reason)).collect();
    assert_eq!(found, expected, "{file_type} {overrides:?}");
}

fn patterns(texts: &[&str]) -> Overrides {
    let tensors = texts.iter().map(|text| text.parse().expect("parses")).collect();
    Overrides { tensors, ..Overrides::default() }
}

const NORM: (&str, &str) = ("F32", "kept");

#[test]
fn wishes_come_in_the_reference_order() {
    let none = Overrides::default();
    let rules = [("Q6_K", "output"), ("Q4_K", "base"), NORM, ("Q6_K", "rule")];
    check("q4_k_m", &none, rules);
    check(
        "q4_k_m",
        &Overrides { leave_output: true, ..none.clone() },
        [("BF16", "left"), ("Q4_K", "base"), NORM, ("Q6_K", "rule")],
    );
    check(
        "q4_k_m",
        &Overrides { pure: true, ..none.clone() },
        [("Q4_K", "pure"), ("Q4_K", "pure"), NORM, ("Q4_K", "pure")],
    );
    let both = Overrides {
        output: Some(DataType::Q8_0),
        token_embedding: Some(DataType::Q2_K),
        ..patterns(&["weight=q5_k"])
    };
    // Patterns do not reach what the two options name, pure does not stop them.
    let expected =
        [("Q8_0", "output-option"), ("Q2_K", "token-embedding-option"), NORM, ("Q5_K", "override")];
    check("q4_k_m", &both, expected);
    check("q4_k_m", &Overrides { pure: true, ..both.clone() }, expected);
    // Types without blocks take the two options, but no patterns.
    check(
        "f16",
        &both,
        [("Q8_0", "output-option"), ("Q2_K", "token-embedding-option"), NORM, ("F16", "base")],
    );
    let first = patterns(&["ffn=q3_k", "down=q8_0"]);
    check("q4_k_m", &first, [("Q6_K", "output"), ("Q4_K", "base"), NORM, ("Q3_K", "override")]);
}

#[test]
fn a_tied_embedding_follows_the_output_option() {
    let overrides = Overrides { output: Some(DataType::Q5_K), ..Overrides::default() };
    let tensors = [planned("token_embd.weight", &[512, 256])];
    let types = assign_with("q4_k_m", &overrides, Fallback::Allowed, &tensors).expect("fits");
    assert_eq!((types[0].data_type, types[0].reason.name()), (DataType::Q5_K, "output-option"));
    // Here, as in the reference, it may fall back; as the output itself it may not.
    let narrow = [planned("token_embd.weight", &[512, 96])];
    let types = assign_with("q4_k_m", &overrides, Fallback::Allowed, &narrow).expect("falls back");
    assert_eq!(types[0].fallback_from, Some(DataType::Q5_K));
    let output = [planned("output.weight", &[512, 96])];
    assign_with("q4_k_m", &overrides, Fallback::Allowed, &output).expect_err("as wished or not");
}

#[test]
fn overridden_tensors_fall_back_but_are_not_counted() {
    let overrides = patterns(&[r"blk\.0\.=q6_k"]);
    let values = (0..3).map(|layer| planned(&format!("blk.{layer}.attn_v.weight"), &[16, 256]));
    let tensors: Vec<PlannedTensor> = values.collect();
    let types = assign_with("q3_k_m", &overrides, Fallback::Allowed, &tensors).expect("fits");
    let types: Vec<DataType> = types.iter().map(|one| one.data_type).collect();
    // The first two that the rules see get Q5_K.
    assert_eq!(types, [DataType::Q6_K, DataType::Q5_K, DataType::Q5_K]);
    let narrow = [planned("blk.0.attn_v.weight", &[16, 96])];
    let types = assign_with("q3_k_m", &overrides, Fallback::Allowed, &narrow).expect("falls back");
    assert_eq!(types[0].data_type, DataType::Q8_0);
}

#[test]
fn stacked_matrices_are_experts() {
    let tensors = [planned("blk.0.ffn_up_exps.weight", &[4, 16, 96]), planned(DOWN, &[16, 96])];
    let types =
        assign_with("mxfp4_moe", &Overrides::default(), Fallback::Refused, &tensors).expect("fits");
    let types: Vec<DataType> = types.iter().map(|one| one.data_type).collect();
    assert_eq!(types, [DataType::MXFP4, DataType::Q8_0]);
}
