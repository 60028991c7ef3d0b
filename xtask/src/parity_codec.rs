//! Every codec against llama.cpp's own library, loaded into this process: equal
//! bytes, equal values.

#![allow(clippy::print_stdout, reason = "the tables are the result")]

use std::path::Path;

use anyhow::{Context, ensure};
use qz_codec::{Codec, ImportanceUse};
use qz_kernels::Isa;
use qz_tensor::{DataType, GgmlTypeId};

use crate::inputs::{self, IMPORTANCE, Kind, Random, WEIGHTS};
use crate::reference::{Dequantize, Reference};

/// Blocks compared and blocks that differ.
#[derive(Default)]
struct Count {
    blocks: usize,
    encoded: usize,
    decoded: usize,
}

/// A comparison of one codec.
struct Comparison<'a> {
    reference: &'a Reference,
    codec: &'static dyn Codec,
    id: GgmlTypeId,
    decoder: Option<Dequantize>,
}

/// Compares encoders and decoders on every kind of input, and decoders on random
/// bytes.
///
/// # Errors
/// If the library cannot be loaded, or anything differs.
pub(crate) fn run(library: &Path, rounds: u64, isa: Isa) -> anyhow::Result<()> {
    let reference = Reference::load(library)?;
    println!("type   input               importance    blocks  bytes differ  values differ");
    let mut total = Count::default();
    for codec in isa.codecs().iter().copied() {
        let data_type = codec.spec().data_type;
        let id = data_type.spec().ggml.context("a type without a GGUF id")?;
        let decoder = reference.decoder(data_type)?;
        let comparison = Comparison { reference: &reference, codec, id, decoder };
        for weights in WEIGHTS {
            for importance in importance_kinds(codec) {
                let count = comparison.inputs(weights, importance, rounds);
                print_row(data_type, weights.0, importance.map_or("none", |kind| kind.0), &count);
                total.add(&count);
            }
        }
        let count = comparison.random_bytes(rounds);
        print_row(data_type, "random bytes", "-", &count);
        total.add(&count);
    }
    println!("{} blocks compared", total.blocks);
    ensure!(
        total.encoded + total.decoded == 0,
        "{} encoded and {} decoded blocks differ",
        total.encoded,
        total.decoded
    );
    Ok(())
}

fn importance_kinds(codec: &dyn Codec) -> Vec<Option<&'static Kind>> {
    let kinds = IMPORTANCE.iter().map(Some);
    match codec.spec().importance {
        // Given all the same: it must not matter.
        ImportanceUse::Ignored => [None, IMPORTANCE.first()].into(),
        ImportanceUse::Optional => std::iter::once(None).chain(kinds).collect(),
        ImportanceUse::Required => kinds.collect(),
    }
}

fn print_row(data_type: DataType, input: &str, importance: &str, count: &Count) {
    println!(
        "{data_type:<6} {input:<19} {importance:<12} {:>7} {:>13} {:>14}",
        count.blocks, count.encoded, count.decoded
    );
}

impl Count {
    fn add(&mut self, other: &Count) {
        self.blocks += other.blocks;
        self.encoded += other.encoded;
        self.decoded += other.decoded;
    }
}

impl Comparison<'_> {
    fn inputs(&self, weights: &Kind, importance: Option<&Kind>, rounds: u64) -> Count {
        let block_elements = self.codec.spec().data_type.block_elements();
        let mut count = Count::default();
        for round in 0..rounds {
            for (case, columns) in [256, 768, 1280, 4096].into_iter().enumerate() {
                let seed = round << 8 | (case as u64) << 1;
                let rows = 8192 / columns + 1;
                let weights = inputs::values(weights, seed, rows * columns);
                let importance = importance.map(|kind| inputs::values(kind, seed + 1, columns));
                if self.may_abort(&weights, importance.as_deref()) {
                    continue;
                }
                count.blocks += weights.len() / block_elements;
                self.compare(&weights, columns, importance.as_deref(), &mut count);
            }
        }
        count
    }

    /// True where products may overflow and the type's encoder ends the process then.
    /// Such inputs are left out; the goldens have some.
    fn may_abort(&self, weights: &[f32], importance: Option<&[f32]>) -> bool {
        let name = self.codec.spec().data_type.name();
        if !["IQ1_", "IQ2_", "IQ3_"].iter().any(|family| name.starts_with(family)) {
            return false;
        }
        let largest = |numbers: &[f32]| {
            numbers.iter().fold(0.0, |max, number| f64::max(max, f64::from(number.abs())))
        };
        let value = largest(weights);
        let weight = value * importance.map_or(value, |importance| 2.0 * largest(importance));
        let squares = 512.0 * value * value;
        let error = if name.starts_with("IQ1_") {
            // Of ten times a value, as the least level is an eighth.
            weight * 100.0 * value * value
        } else {
            // Of a value, or of three times it; it counts with the weight's root.
            weight.sqrt() * 9.0 * value * value
        };
        // Levels stand for up to 15.
        let sum = 32.0 * weight * 15.0 * value.max(15.0);
        squares.max(error).max(sum) > f64::from(f32::MAX)
    }

    fn compare(
        &self,
        weights: &[f32],
        columns: usize,
        importance: Option<&[f32]>,
        count: &mut Count,
    ) {
        let data_type = self.codec.spec().data_type;
        let size = weights.len() / data_type.block_elements() * data_type.block_bytes();
        let (mut ours, mut theirs) = (vec![0xa5; size], vec![0x5a; size]);
        self.codec.encode(weights, columns, importance, &mut ours);
        self.reference.encode(self.id, weights, columns, importance, &mut theirs);
        count.encoded += different_chunks(&ours, &theirs, data_type.block_bytes());
        self.compare_decoders(&theirs, count);
    }

    fn compare_decoders(&self, bytes: &[u8], count: &mut Count) {
        let Some(decoder) = self.decoder else { return };
        let data_type = self.codec.spec().data_type;
        let elements = bytes.len() / data_type.block_bytes() * data_type.block_elements();
        let (mut ours, mut theirs) = (vec![f32::NAN; elements], vec![0.0; elements]);
        self.codec.decode(bytes, &mut ours);
        // SAFETY: `bytes` holds whole blocks, and `theirs` their elements.
        unsafe { decoder(bytes.as_ptr().cast(), theirs.as_mut_ptr(), elements as i64) };
        // Which of two NaNs comes out of an operation is the compiler's choice.
        let bits = |value: f32| if value.is_nan() { u32::MAX } else { value.to_bits() };
        let bits = |values: Vec<f32>| values.into_iter().map(bits).collect::<Vec<u32>>();
        count.decoded += different_chunks(&bits(ours), &bits(theirs), data_type.block_elements());
    }

    /// Decodes blocks that no encoder would write.
    fn random_bytes(&self, rounds: u64) -> Count {
        let blocks = 4096 * rounds as usize;
        let mut random = Random::new(1);
        let size = blocks * self.codec.spec().data_type.block_bytes();
        let bytes: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        let mut count = Count { blocks, ..Count::default() };
        self.compare_decoders(&bytes, &mut count);
        count
    }
}

fn different_chunks<T: PartialEq>(a: &[T], b: &[T], length: usize) -> usize {
    a.chunks(length).zip(b.chunks(length)).filter(|(a, b)| a != b).count()
}
