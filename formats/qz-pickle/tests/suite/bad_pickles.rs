//! Pickles that want something executed, and pickles that are broken.

use crate::support::{
    VALID, check, check_refused, checkpoint, dict, global, number, open, ordered_dict, program,
    text, tuple,
};

/// The checkpoint of a program that is refused; the message has `expected`.
#[track_caller]
fn refused(parts: &[&[u8]], rule: &str, expected: &str) {
    let pickle = program(parts);
    let (diagnosis, message) = check_refused(&checkpoint(&pickle), rule);
    assert!(message.contains(expected), "{message}");
    // Inside the pickle, which begins behind the header of its entry.
    let start = 30 + "m/data.pkl".len() as u64;
    let offset = diagnosis.location.offset.expect("an offset");
    assert!((start..start + pickle.len() as u64).contains(&offset), "{message}");
}

#[track_caller]
fn broken(parts: &[&[u8]], rule: &str) {
    check(&checkpoint(&program(parts)), rule);
}

#[test]
fn what_would_be_executed_is_refused() {
    let command = tuple(&[text("touch /tmp/owned")]);
    let name = "forbidden-global";
    refused(&[&global("os", "system"), &command, b"R"], name, "os.system");
    refused(&[&global("posix", "system"), &command, b"R"], name, "posix.system");
    refused(&[&global("builtins", "eval"), &command, b"R"], name, "builtins.eval");
    refused(&[&global("__builtin__", "exec"), &command, b"R"], name, "exec");
    refused(&[&global("torch", "load"), &command, b"R"], name, "torch.load");
    refused(&[&global("torch.storage", "_load_from_bytes"), b")R"], name, "_load_from_bytes");
    refused(&[&global("numpy.core.multiarray", "_reconstruct"), b")R"], name, "_reconstruct");
    refused(&[&global("argparse", "Namespace"), b")\x81"], name, "argparse.Namespace");
    // From texts, and from texts in the memo.
    refused(&[&text("os"), &text("system"), b"\x93"], name, "os.system");
    let kept = [text("system"), b"q\0".to_vec(), text("os"), b"q\x01".to_vec()].concat();
    refused(&[&kept, b"h\x01h\0\x93"], name, "os.system");
    // A name that would break a message.
    refused(&[&global("os\u{1b}[2J", "x\u{202e}")], name, "u{1b}");
}

#[test]
fn the_offset_is_that_of_the_name() {
    let pickle = program(&[&ordered_dict(), b"(", &text("w"), &global("os", "system"), b")Rsu"]);
    let (diagnosis, _) = check_refused(&checkpoint(&pickle), "forbidden-global");
    let place = pickle.windows(4).position(|bytes| bytes == b"cos\n").expect("the name");
    assert_eq!(diagnosis.location.offset, Some((40 + place) as u64));
}

#[test]
fn opcodes_that_make_objects_are_refused() {
    let code = "forbidden-opcode";
    refused(&[b"(ios\nsystem\n"], code, "INST");
    refused(&[b"(", &global("collections", "OrderedDict"), b"o"], code, "OBJ");
    refused(&[&global("collections", "OrderedDict"), b")\x81"], code, "NEWOBJ");
    refused(&[&global("collections", "OrderedDict"), b")}\x92"], code, "NEWOBJ_EX");
    refused(&[b"\x82\x01"], code, "EXT1");
    refused(&[b"\x83\x01\0"], code, "EXT2");
    refused(&[b"\x84\x01\0\0\0"], code, "EXT4");
    refused(&[b"Pstorage\n"], code, "PERSID");
    refused(&[b"I1\n"], code, "INT");
    refused(&[b"\x8b\x01\0\0\0\x01"], code, "LONG4");
    refused(&[b"\x8f"], code, "EMPTY_SET");
    refused(&[b"\x97"], code, "NEXT_BUFFER");
}

#[test]
fn calls_and_attributes_are_few() {
    refused(&[&global("torch", "FloatStorage"), b")R"], "forbidden-call", "calls");
    refused(&[&global("torch", "float16"), b")R"], "forbidden-call", "calls");
    let with_arguments = [global("collections", "OrderedDict"), tuple(&[text("x")])].concat();
    refused(&[&with_arguments, b"R"], "forbidden-call", "calls");
    refused(&[b"}}b"], "forbidden-build", "a dictionary");
    refused(&[&VALID.pickled(), b"}b"], "forbidden-build", "a tensor");
    refused(&[&global("torch", "FloatStorage"), b"}b"], "forbidden-build", "a class");
    broken(&[b"})R"], "wrong-value");
    broken(&[&global("collections", "OrderedDict"), b"}R"], "wrong-value");
}

#[test]
fn a_second_pickle_is_refused() {
    let two = [dict(&[("w", VALID.pickled())]), program(&[b"}"])].concat();
    check_refused(&checkpoint(&two), "trailing-pickle");
}

#[test]
fn pickles_that_end_too_early() {
    let whole = dict(&[("w", VALID.pickled())]);
    for length in 0..whole.len() {
        check(&checkpoint(&whole[..length]), "truncated-pickle");
    }
    assert!(open(&checkpoint(&whole)).is_ok());
}

#[test]
fn lengths_that_lie() {
    broken(&[b"X\xff\xff\xff\xff"], "truncated-pickle");
    broken(&[b"\x8c\xff"], "truncated-pickle");
    broken(&[b"\x8d", &(1u64 << 60).to_le_bytes()], "truncated-pickle");
    broken(&[b"\x8e", &u64::MAX.to_le_bytes()], "truncated-pickle");
    broken(&[b"B\xff\xff\xff\x7f"], "truncated-pickle");
    broken(&[b"\x95", &u64::MAX.to_le_bytes()], "truncated-pickle");
    broken(&[b"\x8a\x09", &[1; 9]], "number-too-long");
    broken(&[b"\x8a\xff"], "number-too-long");
    broken(&[b"c", &[b'a'; 300], b"\nb\n"], "name-too-long");
}

#[test]
fn programs_that_make_no_sense() {
    broken(&[], "stack-underflow");
    broken(&[b"R"], "stack-underflow");
    broken(&[b"\x85"], "stack-underflow");
    broken(&[b"NN\x87"], "stack-underflow");
    broken(&[b"(Ns"], "stack-underflow");
    broken(&[b"}(Nu"], "stack-underflow");
    broken(&[b"}N(s"], "stack-underflow");
    broken(&[b"q\0"], "stack-underflow");
    broken(&[b"t"], "no-mark");
    broken(&[b"}NNu"], "no-mark");
    broken(&[b"NN"], "left-on-stack");
    broken(&[b"(N"], "left-on-stack");
    broken(&[b"h\0"], "pickle-memo");
    broken(&[b"j\xff\xff\xff\xff"], "pickle-memo");
    broken(&[b"Nq\x05"], "pickle-memo");
    broken(&[b"Nr\xff\xff\xff\xff"], "pickle-memo");
    broken(&[b"\xff"], "unknown-opcode");
    broken(&[b"\x80\x02N"], "unknown-opcode");
    broken(&[b"X\x01\0\0\0\xff"], "invalid-utf8");
    broken(&[b"K\x01K\x02\x93"], "wrong-value");
    broken(&[b"K\x01Q"], "wrong-value");
    broken(&[b")Q"], "not-a-storage");
    broken(&[&tuple(&[text("module"), number(1)]), b"Q"], "not-a-storage");
    // CVE-2026-24747: items of what is no dictionary.
    broken(&[b"]NNs"], "wrong-value");
    broken(&[b"](NNu"], "wrong-value");
    broken(&[&VALID.pickled(), b"NNs"], "wrong-value");
    broken(&[b"}Na"], "wrong-value");
    broken(&[b")(Ne"], "wrong-value");
    check(&checkpoint(b"\x80\x06N."), "pickle-protocol");
    check(&checkpoint(b"}."), "not-pytorch");
    check(&checkpoint(b"(dp0\n."), "not-pytorch");
}

#[test]
fn results_that_are_no_state_dict() {
    let none = |parts: &[&[u8]], expected: &str| {
        let (_, message) = check(&checkpoint(&program(parts)), "no-state-dict");
        assert!(message.contains(expected), "{message}");
    };
    none(&[b"N"], "None");
    none(&[b"]"], "a list");
    none(&[&VALID.pickled()], "a tensor");
    none(&[b"}", &text("a"), b"Ns"], "has no tensors");
    none(&[b"}K\x01", &VALID.pickled(), b"s"], "a key is a whole number");
    let tensor = [text("w"), VALID.pickled(), b"s".to_vec()].concat();
    none(&[b"}", &tensor, &text("step"), b"K\x01s"], "\"step\" is a whole number");
    let nested = |key: &str| [text(key), b"}".to_vec(), tensor.clone(), b"s".to_vec()].concat();
    none(&[b"}", &nested("ema")], "\"ema\"");
    none(&[b"}", &nested("model"), &nested("ema")], "\"model\", \"ema\"");
    none(&[b"}", &text("model"), b"}", &nested("model"), b"s"], "has no tensors");
}

/// What grows without end where values are copied, or recurses when they are dropped.
#[test]
fn bombs() {
    // Each tuple holds the one before twice: 2^60 leaves if anything copied them.
    let doubling = b"h\0h\0\x86q\0".repeat(60);
    broken(&[b"(Nq\0", &doubling, b"t"], "no-state-dict");
    // A million tuples in each other.
    broken(&[b")", &b"\x85".repeat(1_000_000)], "no-state-dict");
    // A million lists in each other.
    broken(&[&b"]".repeat(400_000), &b"a".repeat(399_999)], "no-state-dict");
    // A list in itself.
    broken(&[b"]q\0h\0a"], "no-state-dict");
    broken(&[&b"N".repeat(1_100_000)], "pickle-limit");
    broken(&[&b"(".repeat(1_100_000)], "pickle-limit");
    broken(&[&b"}".repeat(600_000)], "pickle-limit");
    broken(&[b"N", &b"\x94".repeat(2_200_000)], "pickle-limit");
    broken(&[b"N", &b"(t\x85".repeat(2_000_000)], "pickle-limit");
    broken(&[b"]q\0", &b"Na".repeat(2_200_000)], "pickle-limit");
    let long = [b"N".to_vec(), vec![0; 33 << 20]].concat();
    check(&checkpoint(&long), "pickle-limit");
}
