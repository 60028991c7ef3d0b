//! Files of a reference's probabilities: what is written comes back, and files that
//! break one rule each are refused by name.

use std::fs;
use std::path::Path;

use qz_eval::Error;
use qz_eval::leading_file::{LeadingFile, LeadingWriter};
use qz_eval::logits_file::{LogitsFile, LogitsWriter};
use qz_eval::text::Text;
use qz_tensor::{Diagnose, FaultClass, OutputOptions};

const VOCABULARY: usize = 33;

fn text() -> Text {
    let tokens: Vec<u32> = (0..24).map(|position| position * 7 % VOCABULARY as u32).collect();
    Text::new(&tokens, 8, None).expect("long enough")
}

/// Made-up logits of one position.
fn logits(position: usize) -> Vec<f32> {
    (0..VOCABULARY).map(|token| ((position * 31 + token * 17) % 97) as f32 * 0.3).collect()
}

fn write_logits(path: &Path) {
    let options = OutputOptions::default();
    let mut writer = LogitsWriter::create(path, &text(), VOCABULARY, options).expect("created");
    for position in 0..text().positions() {
        writer.write(&logits(position)).expect("written");
    }
    writer.finish().expect("finished");
}

fn write_leading(path: &Path) {
    let options = OutputOptions::default();
    let mut writer = LeadingWriter::create(path, &text(), VOCABULARY, 5, options).expect("created");
    for position in 0..text().positions() {
        writer.write(&logits(position), position % VOCABULARY).expect("written");
    }
    writer.finish().expect("finished");
}

#[test]
fn logits_come_back_in_16_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("base");
    write_logits(&path);
    let file = LogitsFile::open(&path).expect("opens");
    assert_eq!((file.read_text().expect("a text"), file.vocabulary()), (text(), VOCABULARY));
    for position in 0..text().positions() {
        let record = file.read(position).expect("a record");
        let logits = logits(position);
        let sum: f32 = logits.iter().map(|logit| libm::expf(*logit)).sum();
        let maximum = logits.iter().copied().fold(0.0, f32::max);
        for (token, logit) in logits.iter().enumerate() {
            let expected = logit.max(maximum - 16.0) - libm::logf(sum);
            let found = record.as_levels().log_probability(token);
            assert!((found - expected).abs() < 2e-4, "{found} {expected}");
        }
    }
}

#[test]
fn leading_tokens_come_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("base");
    write_leading(&path);
    let file = LeadingFile::open(&path).expect("opens");
    assert_eq!((file.read_text().expect("a text"), file.vocabulary()), (text(), VOCABULARY));
    for position in 0..text().positions() {
        let logits = logits(position);
        let top = (0..VOCABULARY).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        assert_eq!(Some(file.read(position).expect("a record").top()), top);
    }
}

/// Bends a copy of a file and expects the broken rule.
#[track_caller]
fn check<T>(
    write: fn(&Path),
    open: fn(&Path) -> Result<T, Error>,
    bend: impl FnOnce(&mut Vec<u8>),
    rule: &str,
) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("base");
    write(&path);
    let mut bytes = fs::read(&path).expect("read");
    bend(&mut bytes);
    fs::write(&path, bytes).expect("written");
    let error = open(&path).err().unwrap_or_else(|| panic!("accepted, expected {rule}"));
    let diagnosis = error.diagnosis();
    assert_eq!((diagnosis.rule, diagnosis.class), (rule, FaultClass::BadInput), "{error}");
    assert_eq!(diagnosis.location.file.as_deref(), Some(path.as_path()));
    assert!(diagnosis.location.offset.is_some());
}

type Bend = Box<dyn FnOnce(&mut Vec<u8>)>;

fn set(at: usize, value: u32) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes())
}

/// Who opens a file sees its vocabulary before a token is read.
#[test]
fn tokens_are_read_last() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("base");
    write_logits(&path);
    let mut bytes = fs::read(&path).expect("read");
    bytes[20..24].copy_from_slice(&(VOCABULARY as u32).to_le_bytes());
    fs::write(&path, bytes).expect("written");
    let file = LogitsFile::open(&path).expect("opens");
    assert_eq!(file.vocabulary(), VOCABULARY);
    assert_eq!(file.read_text().expect_err("refused").diagnosis().location.offset, Some(20));
}

#[test]
fn bad_logits_files() {
    let check = |bend: Bend, rule| {
        check(write_logits, |path| LogitsFile::open(path)?.read_text(), bend, rule);
    };
    check(Box::new(|bytes| bytes.clear()), "not-logits");
    check(Box::new(|bytes| bytes.truncate(19)), "not-logits");
    check(Box::new(|bytes| bytes[0] = b'-'), "not-logits");
    check(Box::new(set(8, 3)), "logits-empty");
    check(Box::new(set(12, 0)), "logits-empty");
    check(Box::new(set(16, 0)), "logits-empty");
    check(Box::new(set(16, u32::MAX)), "logits-length");
    check(Box::new(set(12, u32::MAX)), "logits-length");
    check(Box::new(set(20, VOCABULARY as u32)), "logits-token");
    check(Box::new(|bytes| bytes.truncate(bytes.len() - 1)), "logits-length");
    check(Box::new(|bytes| bytes.push(0)), "logits-length");
}

#[test]
fn bad_leading_files() {
    let check = |bend: Bend, rule| {
        check(write_leading, |path| LeadingFile::open(path)?.read_text(), bend, rule);
    };
    check(Box::new(|bytes| bytes.truncate(20)), "not-logits");
    check(Box::new(|bytes| bytes[7] = b'2'), "not-logits");
    check(Box::new(set(20, 0)), "logits-empty");
    check(Box::new(set(20, VOCABULARY as u32 + 1)), "logits-empty");
    check(Box::new(set(16, u32::MAX)), "logits-length");
    check(Box::new(set(24, u32::MAX)), "logits-token");
    check(Box::new(|bytes| bytes.truncate(bytes.len() - 1)), "logits-length");
}

/// Files with holes: a few bytes on the disk, as long as their heads say.
#[test]
fn texts_longer_than_any() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("base");
    let make = |head: Vec<u8>, length: u64| {
        fs::write(&path, head).expect("written");
        let file = fs::OpenOptions::new().write(true).open(&path).expect("opens");
        file.set_len(length).expect("grown");
    };
    let (context, chunks) = (1u64 << 20, 1000);
    let positions = (context - context / 2 - 1) * chunks;
    let numbers = |numbers: &[u32]| -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    };
    let head = [b"_logits_".to_vec(), numbers(&[1 << 20, 2, 1000])].concat();
    make(head, 20 + 4 * context * chunks + positions * 12);
    let error = LogitsFile::open(&path).expect_err("refused");
    assert_eq!(error.diagnosis().rule, "logits-tokens");
    let head = [b"QZLEAD01".to_vec(), numbers(&[1 << 20, 2, 1000, 1])].concat();
    make(head, 24 + 4 * context * chunks + positions * 16);
    let error = LeadingFile::open(&path).expect_err("refused");
    assert_eq!(error.diagnosis().rule, "logits-tokens");
}

#[test]
fn records_that_are_no_numbers() {
    let first_record = 20 + 4 * 24;
    check(
        write_logits,
        |path| LogitsFile::open(path)?.read(0),
        set(first_record, f32::NAN.to_bits()),
        "logits-non-finite",
    );
    check(
        write_leading,
        |path| LeadingFile::open(path)?.read(0),
        set(first_record + 4, f32::INFINITY.to_bits()),
        "logits-non-finite",
    );
}
