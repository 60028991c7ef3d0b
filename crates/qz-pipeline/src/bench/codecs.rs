//! Each codec's speed: decoding, encoding, and products with matrices of its type.

use qz_codec::{CODECS, Codec};
use qz_kernels::backend::{Backend, CpuBackend, FewTokens, Rounding};
use qz_kernels::{Workers, codec_for};
use qz_tensor::DataType;
use rayon::prelude::*;

use super::machine::Machine;
use super::timing::fastest;
use crate::error::Error;
use crate::estimate::made_up;
use crate::event::{Event, Observer};
use crate::stream::{Cancel, check_cancelled};

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct CodecBenchOptions {
    /// The element types; all that have a codec if empty.
    pub types: Vec<DataType>,
    /// Threads.
    pub threads: usize,
}

/// How fast the machine and the codecs are.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CodecBench {
    /// What it can do at best.
    pub machine: Machine,
    /// The codecs.
    pub codecs: Vec<CodecSpeed>,
}

/// One codec's speeds, on all threads together. Bytes are those of the stored type.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CodecSpeed {
    /// The element type.
    #[serde(rename = "type")]
    pub data_type: &'static str,
    /// Its bits per weight.
    pub bits_per_weight: f64,
    /// Bytes decoded in a second.
    pub decode_bytes_per_second: f64,
    /// Bytes of a matrix multiplied with one token in a second.
    pub dot_bytes_per_second: f64,
    /// Products and sums of it.
    pub dot_operations_per_second: f64,
    /// Products and sums of a matrix and 512 tokens.
    pub matmul_operations_per_second: f64,
    /// Weights encoded in a second, without importance.
    pub encode_weights_per_second: f64,
}

/// A matrix of a layer: 16.8 million weights.
const COLUMNS: usize = 4096;
const ROWS: usize = 4096;

/// Rows that are multiplied with many tokens, which takes long enough.
const MATMUL_ROWS: usize = 1024;
const MATMUL_TOKENS: usize = 512;

/// Rows that are encoded; a matrix repeats them.
const ENCODED_ROWS: usize = 64;

/// Matrices of so many bytes together take turns, so that none is in a cache.
const COLD_BYTES: usize = 128 << 20;

/// Measures the machine and codecs.
///
/// # Errors
/// If there are no threads, a type has no codec, or the job is stopped.
pub fn bench_codecs(
    options: &CodecBenchOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<CodecBench, Error> {
    let workers = Workers::stopped_by(options.threads, cancel)?;
    let backend = CpuBackend::new(&workers).with_few_tokens(FewTokens::Own);
    let all = CODECS.iter().map(|codec| codec.spec().data_type);
    let types = if options.types.is_empty() { all.collect() } else { options.types.clone() };
    let weights = (ROWS * COLUMNS) as u64;
    let job = "bench";
    observer.observe(Event::Started {
        job,
        tensors: types.len(),
        weights: weights * types.len() as u64,
    });
    let machine = Machine::measure(&workers, options.threads);
    let bench =
        Bench { workers: &workers, backend: &backend, weights: made_up(ENCODED_ROWS * COLUMNS) };
    let mut codecs = Vec::new();
    for data_type in types {
        check_cancelled(cancel)?;
        codecs.push(bench.codec(data_type)?);
        observer.observe(Event::Advanced { weights });
    }
    check_cancelled(cancel)?;
    Ok(CodecBench { machine, codecs })
}

struct Bench<'a> {
    workers: &'a Workers,
    backend: &'a CpuBackend,
    /// Rows that all matrices are made of.
    weights: Vec<f32>,
}

impl Bench<'_> {
    fn codec(&self, data_type: DataType) -> Result<CodecSpeed, Error> {
        let codec = codec_for(data_type).ok_or(Error::NoCodecToMeasure(data_type))?;
        let row_bytes = COLUMNS / data_type.block_elements() * data_type.block_bytes();
        let mut rows = vec![0; ENCODED_ROWS * row_bytes];
        let encode = fastest(|_| self.encode(codec, row_bytes, &mut rows));
        let bytes = ROWS * row_bytes;
        let matrices = COLD_BYTES.div_ceil(bytes).max(2);
        let decode = self.decode(codec, &rows.repeat(ROWS / ENCODED_ROWS), row_bytes);
        let dot = self.multiply(data_type, &rows, (ROWS, matrices), 1)?;
        let matmul = self.multiply(data_type, &rows, (MATMUL_ROWS, 1), MATMUL_TOKENS)?;
        let operations = |rows: usize, tokens: usize| (2 * rows * COLUMNS * tokens) as f64;
        Ok(CodecSpeed {
            data_type: data_type.name(),
            bits_per_weight: 8.0 * row_bytes as f64 / COLUMNS as f64,
            decode_bytes_per_second: bytes as f64 / decode,
            dot_bytes_per_second: bytes as f64 / dot,
            dot_operations_per_second: operations(ROWS, 1) / dot,
            matmul_operations_per_second: operations(MATMUL_ROWS, MATMUL_TOKENS) / matmul,
            encode_weights_per_second: self.weights.len() as f64 / encode,
        })
    }

    fn encode(&self, codec: &dyn Codec, row_bytes: usize, out: &mut [u8]) {
        // Some rows at a time, as the pipeline's tiles have.
        let rows = out.par_chunks_mut(4 * row_bytes).zip(self.weights.par_chunks(4 * COLUMNS));
        self.workers.install(|| {
            rows.for_each(|(out, weights)| codec.encode(weights, COLUMNS, None, out));
        });
    }

    /// Seconds for a whole matrix, a tile at a time.
    fn decode(&self, codec: &dyn Codec, bytes: &[u8], row_bytes: usize) -> f64 {
        fastest(|_| {
            self.workers.install(|| {
                bytes.par_chunks(16 * row_bytes).for_each_init(
                    || vec![0.0; 16 * COLUMNS],
                    |numbers, bytes| {
                        codec.decode(bytes, numbers);
                        std::hint::black_box(&numbers[..]);
                    },
                );
            });
        })
    }

    /// Seconds for the product of tokens and a matrix of so many rows, of which there
    /// are several.
    fn multiply(
        &self,
        data_type: DataType,
        rows: &[u8],
        (count, matrices): (usize, usize),
        tokens: usize,
    ) -> Result<f64, Error> {
        let load =
            |_| self.backend.matrix(data_type, count, COLUMNS, rows.repeat(count / ENCODED_ROWS));
        let loaded = (0..matrices).map(load).collect::<Result<Vec<_>, _>>();
        let matrices = loaded.map_err(|_| Error::NoCodecToMeasure(data_type))?;
        let activations: Vec<f32> =
            self.weights.iter().copied().cycle().take(tokens * COLUMNS).collect();
        let activations = self.backend.buffer(COLUMNS, &activations)?;
        let mut outcome = Ok(());
        let seconds = fastest(|round| {
            let matrix = &matrices[round % matrices.len()];
            let product = self.backend.matmul(Rounding::Engine, &activations, matrix);
            outcome = outcome.clone().and(product.map(drop));
        });
        Ok(outcome.map(|()| seconds)?)
    }
}
