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
use crate::isa::Isa;
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

    /// The same backend, with vectors of at most this instruction set.
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { instructions: Instructions::of(isa), ..self }
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
