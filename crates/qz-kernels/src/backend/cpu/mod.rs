//! The processor as a backend: buffers are memory, work is divided among threads.

mod attention;
mod exponentials;
mod floats;
mod integers;
mod matmul;
mod recurrence;
mod scan;
mod tiles;

use std::borrow::Cow;
use std::ops::Range;

use qz_tensor::DataType;
use rayon::prelude::*;

use super::reference;
use super::{
    Activation, Attention, Backend, Error, ExpertLoad, Part, Queries, Recurrence, Rotation,
    Rounding, Router, Scan, ScanWeights,
};
use crate::codec_for;
use crate::isa::Isa;
use crate::memory::Bytes;
use crate::vector::Instructions;
use crate::workers::Workers;
use attention::Cache;
use matmul::{Matrix, Products};

/// Numbers that a thread takes at a time in operations on single numbers.
const PART: usize = 16 * 1024;

/// The processor.
pub struct CpuBackend {
    workers: Workers,
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
    /// A backend that computes on these threads.
    pub fn new(workers: &Workers) -> Self {
        let workers = workers.clone();
        Self { workers, instructions: Instructions::best(), few: FewTokens::default() }
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

    /// Calls `work` with matching parts of both, on all threads.
    fn for_parts(&self, to: &mut [f32], from: &[f32], work: impl Fn(&mut [f32], &[f32]) + Sync) {
        self.workers.install(|| {
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

    fn buffer(&self, values: &[f32]) -> Result<Vec<f32>, Error> {
        Ok(values.to_vec())
    }

    fn zeros(&self, elements: usize) -> Result<Vec<f32>, Error> {
        Ok(vec![0.0; elements])
    }

    fn read(&self, buffer: &Vec<f32>, from: usize, out: &mut [f32]) -> Result<(), Error> {
        out.copy_from_slice(&buffer[from..from + out.len()]);
        Ok(())
    }

    fn numbers<'b>(&self, buffer: &'b Vec<f32>) -> Result<Cow<'b, [f32]>, Error> {
        Ok(Cow::Borrowed(buffer))
    }

    fn first_non_finite(&self, buffer: &Vec<f32>) -> Result<Option<usize>, Error> {
        // Whether there is one is found in vectors, where it is only if there is.
        const INFINITE: u32 = 0x7f80_0000;
        let has_one = |part: &[f32]| {
            part.iter().fold(false, |found, value| found | (value.to_bits() & INFINITE == INFINITE))
        };
        let find = || buffer.par_chunks(PART).position_first(has_one);
        let Some(part) = self.workers.install(find) else { return Ok(None) };
        let first = part * PART;
        let own = buffer[first..].iter().position(|value| !value.is_finite());
        Ok(own.map(|position| first + position))
    }

    fn matmul(
        &self,
        rounding: Rounding,
        activations: &Vec<f32>,
        matrix: &Matrix,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let multiply = || {
            let products = Products { instructions: self.instructions, few: self.few };
            products.multiply(rounding, activations, matrix, out);
        };
        self.workers.install(multiply);
        Ok(())
    }

    fn rms_norm(
        &self,
        input: &Vec<f32>,
        weights: &Vec<f32>,
        groups: usize,
        epsilon: f32,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let width = weights.len() / groups;
        let own = |group: usize| &weights[group % groups * width..][..width];
        self.workers.install(|| {
            let rows = out.par_chunks_mut(width).zip(input.par_chunks(width)).enumerate();
            rows.for_each(|(at, (out, row))| floats::rms_norm(row, own(at), epsilon, out));
        });
        Ok(())
    }

    fn rotate(
        &self,
        rows: &mut Vec<f32>,
        width: usize,
        rotation: &Rotation,
        table: &Vec<f32>,
    ) -> Result<(), Error> {
        // Cosines and sines of a position are as many as elements that turn.
        let (size, count) = (rotation.head_size, rotation.count);
        let positions = table.len() / count;
        let turn = |(number, row): (usize, &mut [f32])| {
            let table = &table[number % positions * count..][..count];
            row.chunks_exact_mut(size).for_each(|head| reference::rotate(head, rotation, table));
        };
        self.workers.install(|| rows.par_chunks_mut(width).enumerate().for_each(turn));
        Ok(())
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
    ) -> Result<(), Error> {
        cache.store(position, keys, values, rows);
        Ok(())
    }

    fn attend(
        &self,
        shape: &Attention,
        sinks: Option<&Vec<f32>>,
        cache: &Cache,
        Queries { buffer, rows, position }: Queries<'_, Vec<f32>>,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let elements = |width: usize| rows.start * width..rows.end * width;
        let queries = &buffer[elements(shape.query_width())];
        let out = &mut out[elements(shape.result_width())];
        let sinks = sinks.map(Vec::as_slice);
        let (instructions, length) = (self.instructions, position + rows.len());
        let work = attention::Work { instructions, shape, sinks, cache, position, length };
        self.workers.install(|| work.attend(queries, out));
        Ok(())
    }

    fn scan(
        &self,
        shape: &Scan,
        weights: &ScanWeights<'_, Vec<f32>>,
        state: &mut Vec<f32>,
        input: &Vec<f32>,
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let weights = ScanWeights {
            convolution: &weights.convolution[..],
            convolution_bias: weights.convolution_bias,
            time_step: weights.time_step,
            decay: weights.decay,
            skip: weights.skip,
        };
        let input = &input[rows.start * shape.width()..rows.end * shape.width()];
        let out = &mut out[rows.start * shape.inner()..rows.end * shape.inner()];
        self.workers.install(|| scan::scan(shape, &weights, state, input, out));
        Ok(())
    }

    fn recur(
        &self,
        shape: &Recurrence,
        weights: &[&Vec<f32>],
        state: &mut Vec<f32>,
        inputs: &[&Vec<f32>],
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let weights: Vec<&[f32]> = weights.iter().map(|own| own.as_slice()).collect();
        let inputs: Vec<&[f32]> = inputs
            .iter()
            .zip(shape.inputs())
            .map(|(input, width)| &input[rows.start * width..rows.end * width])
            .collect();
        let out = &mut out[rows.start * shape.width()..rows.end * shape.width()];
        self.workers.install(|| recurrence::recur(shape, &weights, state, &inputs, out));
        Ok(())
    }

    fn activate_times(
        &self,
        activation: Activation,
        gate: &mut Vec<f32>,
        up: Option<&Vec<f32>>,
    ) -> Result<(), Error> {
        let activate = match activation {
            Activation::Silu => exponentials::times::<exponentials::Silu>,
            Activation::GeluTanh => exponentials::times::<exponentials::GeluTanh>,
            Activation::GeluErf => exponentials::gelu_erf_times,
            Activation::GeluHalf => exponentials::gelu_half_times,
            Activation::ClampedSilu => exponentials::times::<exponentials::ClampedSilu>,
            Activation::Identity => exponentials::times::<exponentials::Identity>,
            Activation::Sigmoid => exponentials::times::<exponentials::Sigmoid>,
        };
        let Some(up) = up else {
            let ones = vec![1.0; PART.min(gate.len())];
            self.workers.install(|| {
                let parts = gate.par_chunks_mut(PART);
                parts.for_each(|part| activate(self.instructions, part, &ones[..part.len()]));
            });
            return Ok(());
        };
        self.for_parts(gate, up, |gate, up| activate(self.instructions, gate, up));
        Ok(())
    }

    fn layer_norm(
        &self,
        input: &Vec<f32>,
        weights: &Vec<f32>,
        bias: Option<&Vec<f32>>,
        epsilon: f32,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let (width, bias) = (weights.len(), bias.map(Vec::as_slice));
        self.workers.install(|| {
            let rows = out.par_chunks_mut(width).zip(input.par_chunks(width));
            rows.for_each(|(out, row)| {
                out.copy_from_slice(&reference::layer_norm(row, weights, bias, epsilon));
            });
        });
        Ok(())
    }

    fn columns(
        &self,
        from: &Vec<f32>,
        width: usize,
        columns: Range<usize>,
    ) -> Result<Vec<f32>, Error> {
        let rows = from.chunks_exact(width);
        Ok(rows.flat_map(|row| &row[columns.clone()]).copied().collect())
    }

    fn join(&self, parts: &[Part<'_, Vec<f32>>]) -> Result<Vec<f32>, Error> {
        let Some(first) = parts.first() else { return Ok(Vec::new()) };
        let mut joined = Vec::new();
        for head in 0..first.buffer.len() / first.size.max(1) {
            for Part { buffer, size, columns } in parts {
                joined.extend_from_slice(&buffer[head * size..][columns.clone()]);
            }
        }
        Ok(joined)
    }

    fn times_sigmoid(
        &self,
        rows: &mut Vec<f32>,
        width: usize,
        scores: &Vec<f32>,
    ) -> Result<(), Error> {
        for (row, score) in rows.chunks_exact_mut(width).zip(scores) {
            let weight = 1.0 / (1.0 + (-score).exp());
            row.iter_mut().for_each(|number| *number *= weight);
        }
        Ok(())
    }

    fn add(&self, to: &mut Vec<f32>, from: &Vec<f32>) -> Result<(), Error> {
        self.for_parts(to, from, |to, from| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        });
        Ok(())
    }

    fn add_bias(&self, to: &mut Vec<f32>, bias: &Vec<f32>) -> Result<(), Error> {
        for row in to.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(to, bias)| *to += bias);
        }
        Ok(())
    }

    fn route(
        &self,
        router: &Router,
        scores: &Vec<f32>,
        bias: Option<&Vec<f32>>,
    ) -> Result<Vec<ExpertLoad>, Error> {
        Ok(reference::route(router, scores, bias.map(Vec::as_slice)))
    }

    fn gather(&self, from: &Vec<f32>, width: usize, tokens: &[usize]) -> Result<Vec<f32>, Error> {
        let rows = tokens.iter().flat_map(|token| &from[token * width..][..width]);
        Ok(rows.copied().collect())
    }

    fn scatter_add(
        &self,
        to: &mut Vec<f32>,
        width: usize,
        load: &ExpertLoad,
        from: &Vec<f32>,
    ) -> Result<(), Error> {
        let rows = load.tokens.iter().zip(&load.weights).zip(from.chunks_exact(width));
        for ((token, weight), row) in rows {
            let to = &mut to[token * width..][..width];
            to.iter_mut().zip(row).for_each(|(to, value)| *to += value * weight);
        }
        Ok(())
    }
}
