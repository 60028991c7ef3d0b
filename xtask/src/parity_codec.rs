//! Every codec against llama.cpp's own library, loaded into this process: equal
//! bytes, equal values, and how long each takes.

#![allow(clippy::print_stdout, reason = "the tables are the result")]

#[path = "../../crates/qz-codec/golden/inputs.rs"]
mod inputs;

use std::ffi::c_void;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libloading::Library;
use qz_codec::{CODECS, Codec, ImportanceUse};
use qz_tensor::{DataType, GgmlTypeId};

use inputs::{IMPORTANCE, Kind, Random, WEIGHTS};

/// `ggml_quantize_chunk` (ggml.h): type, weights, output, first weight, rows,
/// columns, importance; returns the bytes written.
type QuantizeChunk =
    unsafe extern "C" fn(u32, *const f32, *mut c_void, i64, i64, i64, *const f32) -> usize;
/// `quantize_row_*_ref` (ggml-quants.h): weights, blocks, elements.
type QuantizeRow = unsafe extern "C" fn(*const f32, *mut c_void, i64);
/// `dequantize_row_*` (ggml-quants.h): blocks, output, elements.
type Dequantize = unsafe extern "C" fn(*const c_void, *mut f32, i64);

struct Reference {
    library: Library,
    quantize_chunk: QuantizeChunk,
}

impl Reference {
    fn load(path: &Path) -> anyhow::Result<Self> {
        // SAFETY: the caller names a build of libggml-base, whose initializers
        // only set up its own state.
        let library = unsafe { Library::new(path) }
            .with_context(|| format!("cannot load {}", path.display()))?;
        // SAFETY: the declaration above is that of ggml.h.
        let quantize_chunk = unsafe { *library.get::<QuantizeChunk>(b"ggml_quantize_chunk\0")? };
        Ok(Self { library, quantize_chunk })
    }

    /// The library's function for a type of activations, that no chunk can have.
    fn activations(&self, data_type: DataType) -> anyhow::Result<Option<QuantizeRow>> {
        let symbol: &[u8] = match data_type.name() {
            "Q8_1" => b"quantize_row_q8_1_ref",
            "Q8_K" => b"quantize_row_q8_K_ref",
            _ => return Ok(None),
        };
        // SAFETY: the declaration above is that of ggml-quants.h.
        Ok(Some(*unsafe { self.library.get::<QuantizeRow>(symbol)? }))
    }

    fn encode(
        &self,
        id: GgmlTypeId,
        activations: Option<QuantizeRow>,
        weights: &[f32],
        columns: usize,
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) {
        if let Some(quantize) = activations {
            // The sums of a zero block of Q8_K are left as they were.
            out.fill(0);
            // SAFETY: `out` has the bytes of all weights.
            unsafe {
                quantize(weights.as_ptr(), out.as_mut_ptr().cast(), weights.len() as i64);
            }
            return;
        }
        let matrix = importance.map_or(std::ptr::null(), |importance| {
            assert_eq!(importance.len(), columns);
            importance.as_ptr()
        });
        let rows = weights.len() / columns;
        // SAFETY: all rows lie in `weights`, importance covers the columns, and
        // `out` has the bytes of all rows; the assertion below confirms the size.
        let written = unsafe {
            (self.quantize_chunk)(
                id.0,
                weights.as_ptr(),
                out.as_mut_ptr().cast(),
                0,
                rows as i64,
                columns as i64,
                matrix,
            )
        };
        assert_eq!(written, out.len());
    }

    /// The library's decoder; none for F32, which needs none, and for Q8_1, which it
    /// only multiplies.
    fn decoder(&self, data_type: DataType) -> anyhow::Result<Option<Dequantize>> {
        let symbol = match data_type.name() {
            "F32" | "Q8_1" => return Ok(None),
            "F16" => "ggml_fp16_to_fp32_row".to_owned(),
            "BF16" => "ggml_bf16_to_fp32_row".to_owned(),
            name => format!("dequantize_row_{}", name.to_lowercase().replace("_k", "_K")),
        };
        // SAFETY: all these functions have the declaration above (ggml-quants.h,
        // ggml.h).
        let function = unsafe { self.library.get::<Dequantize>(symbol.as_bytes()) };
        Ok(Some(*function.with_context(|| format!("the library has no {symbol}"))?))
    }
}

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
    activations: Option<QuantizeRow>,
    decoder: Option<Dequantize>,
}

/// Compares encoders and decoders on every kind of input, and decoders on random
/// bytes.
///
/// # Errors
/// If the library cannot be loaded, or anything differs.
pub(crate) fn run(library: &Path, rounds: u64) -> anyhow::Result<()> {
    let reference = Reference::load(library)?;
    println!("type   input               importance    blocks  bytes differ  values differ");
    let mut total = Count::default();
    for codec in CODECS.iter().copied() {
        let data_type = codec.spec().data_type;
        let id = data_type.spec().ggml.context("a type without a GGUF id")?;
        let decoder = reference.decoder(data_type)?;
        let activations = reference.activations(data_type)?;
        let comparison = Comparison { reference: &reference, codec, id, activations, decoder };
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
        let (id, activations) = (self.id, self.activations);
        self.reference.encode(id, activations, weights, columns, importance, &mut theirs);
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
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
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

/// Times encoders and decoders in turns with the library's, so that a machine
/// whose speed drifts slows both.
///
/// # Errors
/// If the library cannot be loaded.
pub(crate) fn speed(library: &Path) -> anyhow::Result<()> {
    ensure!(!cfg!(debug_assertions), "only a release build has a speed: cargo run --release");
    let reference = Reference::load(library)?;
    println!("type   work               Mweights/s  reference  ratio");
    for codec in CODECS.iter().copied() {
        let data_type = codec.spec().data_type;
        let mut encoded = Vec::new();
        for importance in importance_kinds(codec).into_iter().take(2) {
            let pairs = time_encoders(&reference, codec, importance, &mut encoded)?;
            let importance = importance.map_or("none", |kind| kind.0);
            print_pairs(data_type, &format!("encode, {importance}"), &pairs);
        }
        if let Some(decoder) = reference.decoder(data_type)? {
            print_pairs(data_type, "decode", &time_decoders(codec, decoder, &encoded));
        }
    }
    Ok(())
}

fn print_pairs(data_type: DataType, work: &str, pairs: &[(Duration, Duration)]) {
    let rate = |time: Duration| (ROWS * COLUMNS) as f64 / time.as_secs_f64() * 1e-6;
    let ours = median(pairs.iter().map(|pair| rate(pair.0)));
    let theirs = median(pairs.iter().map(|pair| rate(pair.1)));
    let ratio = median(pairs.iter().map(|(a, b)| b.as_secs_f64() / a.as_secs_f64()));
    println!("{data_type:<6} {work:<17} {ours:>11.1} {theirs:>10.1} {ratio:>6.2}");
}

/// Few enough that a run seldom loses its core: it would look slow.
const ROWS: usize = 8;
const COLUMNS: usize = 4096;

fn time_encoders(
    reference: &Reference,
    codec: &dyn Codec,
    importance: Option<&Kind>,
    out: &mut Vec<u8>,
) -> anyhow::Result<Vec<(Duration, Duration)>> {
    let data_type = codec.spec().data_type;
    let id = data_type.spec().ggml.context("a type without a GGUF id")?;
    let bell = inputs::find(WEIGHTS, "bell").context("a kind of input")?;
    let weights = inputs::values(bell, 1, ROWS * COLUMNS);
    let importance = importance.map(|kind| inputs::values(kind, 2, COLUMNS));
    let importance = importance.as_deref();
    let activations = reference.activations(data_type)?;
    out.resize(weights.len() / data_type.block_elements() * data_type.block_bytes(), 0);
    let mut theirs = out.clone();
    Ok(time_pairs(
        || codec.encode(&weights, COLUMNS, importance, out),
        || reference.encode(id, activations, &weights, COLUMNS, importance, &mut theirs),
    ))
}

fn time_decoders(
    codec: &dyn Codec,
    decoder: Dequantize,
    bytes: &[u8],
) -> Vec<(Duration, Duration)> {
    let (mut ours, mut theirs) = (vec![0.0; ROWS * COLUMNS], vec![0.0; ROWS * COLUMNS]);
    time_pairs(
        || codec.decode(bytes, &mut ours),
        || {
            // SAFETY: `bytes` holds the encoded blocks of as many elements as
            // `theirs` has.
            unsafe {
                decoder(bytes.as_ptr().cast(), theirs.as_mut_ptr(), (ROWS * COLUMNS) as i64);
            }
        },
    )
}

/// The times of two pieces of work, in turns.
fn time_pairs(mut ours: impl FnMut(), mut theirs: impl FnMut()) -> Vec<(Duration, Duration)> {
    let time = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let mut pairs = Vec::new();
    let start = Instant::now();
    while pairs.len() < 5 || (start.elapsed().as_secs_f64() < 1.0 && pairs.len() < 1001) {
        pairs.push((time(&mut ours), time(&mut theirs)));
    }
    pairs
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
