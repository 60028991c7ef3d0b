//! The processor as a backend: buffers are memory, work is divided among threads.

mod attention;
mod matmul;
mod products;

use std::ops::Range;

use qz_tensor::DataType;
use rayon::prelude::*;

use super::reference;
use super::{
    Attention, Backend, Error, ExpertLoad, RotaryPairs, Rounding, activation_type,
    round_activations,
};
use crate::codec_for;
use crate::vector::Instructions;
use attention::Cache;
use matmul::Matrix;
use products::Products;

/// Numbers that a thread takes at a time in operations on single numbers.
const PART: usize = 16 * 1024;

/// The processor.
pub struct CpuBackend {
    pool: rayon::ThreadPool,
    products: Products,
}

impl CpuBackend {
    /// A backend with so many threads of its own.
    ///
    /// # Errors
    /// If the operating system gives none.
    pub fn new(threads: usize) -> Result<Self, Error> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .build()
            .map_err(|error| Error::Threads(error.to_string()))?;
        Ok(Self { pool, products: Products(Instructions::best()) })
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
        Ok(Matrix { codec, rows, columns, bytes })
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

    fn first_non_finite(&self, buffer: &Vec<f32>) -> Option<usize> {
        let find = || buffer.par_iter().position_first(|value| !value.is_finite());
        self.pool.install(find)
    }

    fn matmul(
        &self,
        rounding: Rounding,
        activations: &Vec<f32>,
        matrix: &Matrix,
        out: &mut Vec<f32>,
    ) {
        let wanted = activation_type(matrix.codec.spec().data_type);
        self.pool.install(|| {
            if rounding == Rounding::Exact || wanted == DataType::F32 {
                return matmul::multiply(self.products, activations, matrix, out);
            }
            let mut rounded = activations.clone();
            let rows = rounded.par_chunks_mut(matrix.columns);
            rows.for_each(|row| round_activations(wanted, matrix.columns, row));
            matmul::multiply(self.products, &rounded, matrix, out);
        });
    }

    fn rms_norm(&self, input: &Vec<f32>, weights: &Vec<f32>, epsilon: f32, out: &mut Vec<f32>) {
        let width = weights.len();
        self.pool.install(|| {
            let rows = out.par_chunks_mut(width).zip(input.par_chunks(width));
            rows.for_each(|(out, row)| {
                out.copy_from_slice(&reference::rms_norm(row, weights, epsilon));
            });
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
        Cache::new(shape, capacity, data_type)
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
        let attend = || attention::attend(self.products, shape, cache, position, queries, out);
        self.pool.install(attend);
    }

    fn silu_times(&self, gate: &mut Vec<f32>, up: &Vec<f32>) {
        self.for_parts(gate, up, |gate, up| {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = reference::silu_times(*gate, *up);
            }
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
        for threads in [1, 3] {
            let backend = CpuBackend::new(threads).expect("threads");
            conformance::check(&backend).unwrap_or_else(|problem| panic!("{problem}"));
        }
    }

    #[test]
    fn every_instruction_set_conforms() {
        for products in Instructions::available().into_iter().map(Products) {
            let mut backend = CpuBackend::new(2).expect("threads");
            backend.products = products;
            conformance::check(&backend)
                .unwrap_or_else(|problem| panic!("{products:?}: {problem}"));
        }
    }

    #[test]
    fn results_do_not_depend_on_threads() {
        let (rows, columns, tokens) = (75, 96, 13);
        let values = |n: usize| (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0);
        let bytes: Vec<u8> = values(rows * columns).flat_map(f32::to_le_bytes).collect();
        let activations: Vec<f32> = values(tokens * columns).collect();
        let run = |threads| {
            let backend = CpuBackend::new(threads).expect("threads");
            let matrix = backend.matrix(DataType::F32, rows, columns, bytes.clone());
            let mut out = backend.zeros(tokens * rows);
            backend.matmul(Rounding::Exact, &activations, &matrix.expect("fits"), &mut out);
            out
        };
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(5));
    }
}
