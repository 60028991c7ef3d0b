//! The processor as a backend: buffers are memory, work is divided among threads.

mod attention;
mod exponentials;
mod floats;
mod integers;
mod matmul;
mod tiles;

use std::borrow::Cow;
use std::ops::Range;

use qz_tensor::DataType;
use rayon::prelude::*;

use super::reference;
use super::{Attention, Backend, Error, ExpertLoad, RotaryPairs, Rounding};
use crate::codec_for;
use crate::memory::Bytes;
use crate::stop;
use crate::vector::Instructions;
use attention::Cache;
use matmul::{Matrix, Products};

/// Numbers that a thread takes at a time in operations on single numbers.
const PART: usize = 16 * 1024;

/// The processor.
pub struct CpuBackend {
    pool: rayon::ThreadPool,
    instructions: Instructions,
    few: FewTokens,
}

/// What takes products with few tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FewTokens {
    /// What takes those with many: a token's result does not depend on what else is
    /// computed with it, and so not on how a text is cut into batches.
    #[default]
    AsMany,
    /// Kernels of their own, which read weights once, from where they lie: several times
    /// faster, with sums in another order.
    Own,
}

impl CpuBackend {
    /// A backend with so many threads of its own.
    ///
    /// # Errors
    /// If the operating system gives none.
    pub fn new(threads: usize) -> Result<Self, Error> {
        Self::stopped_by(threads, &stop::Flag::default())
    }

    /// The same, with work that ends early once `flag` is set ([`stop`]).
    ///
    /// # Errors
    /// If the operating system gives no threads.
    pub fn stopped_by(threads: usize, flag: &stop::Flag) -> Result<Self, Error> {
        let pool = stop::pool(threads, flag).map_err(|error| Error::Threads(error.to_string()))?;
        Ok(Self { pool, instructions: Instructions::best(), few: FewTokens::default() })
    }

    /// The same backend, with another choice for products with few tokens.
    #[must_use]
    pub fn with_few_tokens(self, few: FewTokens) -> Self {
        Self { few, ..self }
    }

    /// Calls `work` on this backend's threads, so that parallel work in it runs there.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// Calls `work` with matching parts of both, on all threads.
    fn for_parts(&self, to: &mut [f32], from: &[f32], work: impl Fn(&mut [f32], &[f32]) + Sync) {
        self.pool.install(|| {
            let parts = to.par_chunks_mut(PART).zip(from.par_chunks(PART));
            parts.for_each(|(to, from)| work(to, from));
        });
    }
}

impl Backend for CpuBackend {
    type Buffer = Vec<f32>;
    type Matrix = Matrix;
    type Cache = Cache;

    fn matrix(
        &self,
        data_type: DataType,
        rows: usize,
        columns: usize,
        bytes: Vec<u8>,
    ) -> Result<Matrix, Error> {
        let codec = codec_for(data_type).ok_or(Error::NoCodec(data_type))?;
        let size = (columns as u64)
            .checked_mul(rows as u64)
            .filter(|_| columns.is_multiple_of(data_type.block_elements()))
            .and_then(|elements| data_type.byte_size(elements).ok());
        if size != Some(bytes.len() as u64) || columns == 0 {
            return Err(Error::MatrixSize { data_type, rows, columns, bytes: bytes.len() });
        }
        Ok(Matrix { codec, rows, columns, bytes: Bytes::new(bytes) })
    }

    fn rows(&self, matrix: &Matrix) -> usize {
        matrix.rows
    }

    fn buffer(&self, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }

    fn zeros(&self, elements: usize) -> Vec<f32> {
        vec![0.0; elements]
    }

    fn read(&self, buffer: &Vec<f32>, from: usize, out: &mut [f32]) {
        out.copy_from_slice(&buffer[from..from + out.len()]);
    }

    fn numbers<'b>(&self, buffer: &'b Vec<f32>) -> Cow<'b, [f32]> {
        Cow::Borrowed(buffer)
    }

    fn first_non_finite(&self, buffer: &Vec<f32>) -> Option<usize> {
        // Whether there is one is found in vectors, where it is only if there is.
        const INFINITE: u32 = 0x7f80_0000;
        let has_one = |part: &[f32]| {
            part.iter().fold(false, |found, value| found | (value.to_bits() & INFINITE == INFINITE))
        };
        let find = || buffer.par_chunks(PART).position_first(has_one);
        let first = self.pool.install(find)? * PART;
        let own = buffer[first..].iter().position(|value| !value.is_finite());
        own.map(|position| first + position)
    }

    fn matmul(
        &self,
        rounding: Rounding,
        activations: &Vec<f32>,
        matrix: &Matrix,
        out: &mut Vec<f32>,
    ) {
        let multiply = || {
            let products = Products { instructions: self.instructions, few: self.few };
            products.multiply(rounding, activations, matrix, out);
        };
        self.pool.install(multiply);
    }

    fn rms_norm(&self, input: &Vec<f32>, weights: &Vec<f32>, epsilon: f32, out: &mut Vec<f32>) {
        let width = weights.len();
        self.pool.install(|| {
            let rows = out.par_chunks_mut(width).zip(input.par_chunks(width));
            rows.for_each(|(out, row)| floats::rms_norm(row, weights, epsilon, out));
        });
    }

    fn rotate(
        &self,
        rows: &mut Vec<f32>,
        width: usize,
        head_size: usize,
        pairs: RotaryPairs,
        table: &Vec<f32>,
    ) {
        // Cosines and sines of a position are as many as elements of a head.
        let positions = table.len() / head_size;
        let turn = |(number, row): (usize, &mut [f32])| {
            let table = &table[number % positions * head_size..][..head_size];
            row.chunks_exact_mut(head_size).for_each(|head| reference::rotate(head, pairs, table));
        };
        self.pool.install(|| rows.par_chunks_mut(width).enumerate().for_each(turn));
    }

    fn cache(
        &self,
        shape: &Attention,
        capacity: usize,
        data_type: DataType,
    ) -> Result<Cache, Error> {
        Cache::new(shape, capacity, data_type, tiles::width(self.instructions))
    }

    fn store(
        &self,
        cache: &mut Cache,
        position: usize,
        keys: &Vec<f32>,
        values: &Vec<f32>,
        rows: Range<usize>,
    ) {
        cache.store(position, keys, values, rows);
    }

    fn attend(
        &self,
        shape: &Attention,
        cache: &Cache,
        position: usize,
        queries: &Vec<f32>,
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) {
        let width = shape.query_width();
        let elements = rows.start * width..rows.end * width;
        let (queries, out) = (&queries[elements.clone()], &mut out[elements]);
        let attend = || attention::attend(self.instructions, shape, cache, position, queries, out);
        self.pool.install(attend);
    }

    fn silu_times(&self, gate: &mut Vec<f32>, up: &Vec<f32>) {
        self.for_parts(gate, up, |gate, up| {
            exponentials::silu_times(self.instructions, gate, up);
        });
    }

    fn add(&self, to: &mut Vec<f32>, from: &Vec<f32>) {
        self.for_parts(to, from, |to, from| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        });
    }

    fn add_bias(&self, to: &mut Vec<f32>, bias: &Vec<f32>) {
        for row in to.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(to, bias)| *to += bias);
        }
    }

    fn route(&self, scores: &Vec<f32>, experts: usize, used: usize) -> Vec<ExpertLoad> {
        reference::route(scores, experts, used)
    }

    fn gather(&self, from: &Vec<f32>, width: usize, tokens: &[usize]) -> Vec<f32> {
        let rows = tokens.iter().flat_map(|token| &from[token * width..][..width]);
        rows.copied().collect()
    }

    fn scatter_add(&self, to: &mut Vec<f32>, width: usize, load: &ExpertLoad, from: &Vec<f32>) {
        let rows = load.tokens.iter().zip(&load.weights).zip(from.chunks_exact(width));
        for ((token, weight), row) in rows {
            let to = &mut to[token * width..][..width];
            to.iter_mut().zip(row).for_each(|(to, value)| *to += value * weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[test]
    fn conforms() {
        for (threads, few) in [(1, FewTokens::AsMany), (1, FewTokens::Own), (3, FewTokens::Own)] {
            let backend = CpuBackend::new(threads).expect("threads").with_few_tokens(few);
            conformance::check(&backend).unwrap_or_else(|problem| panic!("{problem}"));
        }
    }

    /// A long context and a large product, which would take seconds.
    #[test]
    fn a_stop_is_heard() {
        use std::sync::atomic::Ordering;
        use std::time::{Duration, Instant};

        let flag = stop::Flag::default();
        let backend = CpuBackend::stopped_by(2, &flag).expect("threads");
        let shape =
            Attention { heads: 32, key_value_heads: 1, head_size: 64, scale: 0.125, window: None };
        let tokens = 16 * 1024;
        let cache = backend.cache(&shape, tokens, DataType::F32).expect("a cache");
        let queries = vec![0.5; tokens / 8 * shape.query_width()];
        let mut out = queries.clone();
        let (rows, columns) = (4096, 4096);
        let matrix = backend.matrix(DataType::F32, rows, columns, vec![0; rows * columns * 4]);
        let matrix = matrix.expect("fits");
        let (activations, mut products) = (vec![0.5; 512 * columns], vec![0.0; 512 * rows]);
        let setter = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            flag.store(true, Ordering::Relaxed);
            Instant::now()
        });
        backend.attend(&shape, &cache, tokens - tokens / 8, &queries, 0..tokens / 8, &mut out);
        let attended = Instant::now();
        let set = setter.join().expect("no panic");
        assert!(attended.saturating_duration_since(set) < Duration::from_secs(2));
        backend.matmul(Rounding::Exact, &activations, &matrix, &mut products);
        assert!(attended.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn every_instruction_set_conforms() {
        for instructions in Instructions::available() {
            let mut backend = CpuBackend::new(2).expect("threads").with_few_tokens(FewTokens::Own);
            backend.instructions = instructions;
            conformance::check(&backend)
                .unwrap_or_else(|problem| panic!("{instructions:?}: {problem}"));
        }
    }

    /// Blocks of any bytes but for the units, which lie at `units`: levels and scales that
    /// no encoder makes, with activations as large as they can be.
    #[test]
    fn one_token_takes_every_block() {
        let check = |data_type: DataType, units: &[usize]| {
            let (rows, columns) = (5, 1024);
            let size = rows * columns / data_type.block_elements() * data_type.block_bytes();
            let numbers = conformance::made_up(size, 3);
            let mut bytes: Vec<u8> = numbers.iter().map(|x| (x * 1e4) as i32 as u8).collect();
            // The highest levels and scales.
            bytes[..data_type.block_bytes()].fill(0xff);
            for block in bytes.chunks_exact_mut(data_type.block_bytes()) {
                units.iter().for_each(|unit| block[unit + 1] = 0x2c);
            }
            let signs = conformance::made_up(columns, 4);
            let activations = signs.iter().map(|x| 1.0f32.copysign(*x)).collect();
            let run = |instructions| {
                let backend = CpuBackend::new(1).expect("threads");
                let mut backend = backend.with_few_tokens(FewTokens::Own);
                backend.instructions = instructions;
                let matrix = backend.matrix(data_type, rows, columns, bytes.clone());
                let mut out = backend.zeros(rows);
                backend.matmul(Rounding::Engine, &activations, &matrix.expect("fits"), &mut out);
                out
            };
            let expected = run(Instructions::Portable);
            let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for instructions in Instructions::available() {
                for (found, expected) in run(instructions).iter().zip(&expected) {
                    let within = (found - expected).abs() <= 1e-5 * largest;
                    assert!(within, "{data_type} {instructions:?}: {found}, not {expected}");
                }
            }
        };
        check(DataType::Q8_0, &[0]);
        check(DataType::Q2_K, &[80, 82]);
        check(DataType::Q3_K, &[108]);
        check(DataType::Q4_K, &[0, 2]);
        check(DataType::Q5_K, &[0, 2]);
        check(DataType::Q6_K, &[208]);
        check(DataType::IQ4_XS, &[0]);
    }

    #[test]
    fn a_token_is_the_same_in_any_company() {
        for (data_type, rows, columns) in
            [(DataType::F32, 35, 512), (DataType::BF16, 35, 512), (DataType::Q4_K, 35, 512)]
        {
            let weights = conformance::made_up(rows * columns, 1);
            let blocks = rows * columns / data_type.block_elements();
            let mut bytes = vec![0; blocks * data_type.block_bytes()];
            codec_for(data_type).expect("a codec").encode(&weights, columns, None, &mut bytes);
            let activations = conformance::made_up(23 * columns, 2);
            let backend = CpuBackend::new(2).expect("threads");
            let matrix = backend.matrix(data_type, rows, columns, bytes).expect("fits");
            let run = |tokens: usize| {
                let mut out = backend.zeros(tokens * rows);
                let own = activations[..tokens * columns].to_vec();
                backend.matmul(Rounding::Engine, &own, &matrix, &mut out);
                out
            };
            let all = run(23);
            for tokens in [1, 4, 5, 17] {
                assert!(run(tokens) == all[..tokens * rows], "{data_type} {tokens}");
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_threads() {
        let shapes = [(DataType::F32, 301, 512), (DataType::Q8_0, 301, 512)];
        let more = [(DataType::Q4_K, 301, 512), (DataType::BF16, 51, 4608)];
        for (data_type, rows, columns) in shapes.into_iter().chain(more) {
            let weights = conformance::made_up(rows * columns, 1);
            let blocks = rows * columns / data_type.block_elements();
            let mut bytes = vec![0; blocks * data_type.block_bytes()];
            codec_for(data_type).expect("a codec").encode(&weights, columns, None, &mut bytes);
            for tokens in [1, 3, 23] {
                let activations = conformance::made_up(tokens * columns, 2);
                let run = |threads| {
                    let backend = CpuBackend::new(threads).expect("threads");
                    let backend = backend.with_few_tokens(FewTokens::Own);
                    let matrix = backend.matrix(data_type, rows, columns, bytes.clone());
                    let matrix = matrix.expect("fits");
                    let mut out = backend.zeros(tokens * rows);
                    backend.matmul(Rounding::Engine, &activations, &matrix, &mut out);
                    let mut exact = backend.zeros(tokens * rows);
                    backend.matmul(Rounding::Exact, &activations, &matrix, &mut exact);
                    (out, exact)
                };
                assert!(run(1) == run(2), "{data_type} {tokens}");
                assert!(run(1) == run(5), "{data_type} {tokens}");
            }
        }
    }
}
