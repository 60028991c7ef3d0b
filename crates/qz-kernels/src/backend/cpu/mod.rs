//! The processor as a backend: buffers are memory, work is divided among threads.

mod attention;
mod exponentials;
mod factor;
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

use super::{
    Activation, Attention, Backend, Error, ExpertLoad, InputRounding, JoinedColumns, Queries,
    Recurrence, Rotation, Rounding, Router, Rowwise, Scan, ScanWeights,
};
use super::{HostBuffer, Shaped, reference, shapes};
use crate::codec_for;
use crate::gemm::{Into, View, ViewMut, add_gram, multiply};
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

    /// The position of the first number that is not finite.
    fn first_non_finite(&self, values: &[f32]) -> Option<usize> {
        // Whether there is one is found in vectors, where it is only if there is.
        const INFINITE: u32 = 0x7f80_0000;
        let has_one = |part: &[f32]| {
            part.iter().fold(false, |found, value| found | (value.to_bits() & INFINITE == INFINITE))
        };
        let find = || values.par_chunks(PART).position_first(has_one);
        let first = self.workers.install(find)? * PART;
        let own = values[first..].iter().position(|value| !value.is_finite());
        own.map(|position| first + position)
    }

    /// Calls `work` with matching parts of both, on all threads.
    fn for_parts(&self, to: &mut [f32], from: &[f32], work: impl Fn(&mut [f32], &[f32]) + Sync) {
        self.workers.install(|| {
            let parts = to.par_chunks_mut(PART).zip(from.par_chunks(PART));
            parts.for_each(|(to, from)| work(to, from));
        });
    }
}

/// A gate and what it is multiplied with.
type ActivationKernel = fn(Instructions, &mut [f32], &[f32]);

impl Backend for CpuBackend {
    type Buffer = HostBuffer;
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
        shapes::matrix(data_type, rows, columns, bytes.len())?;
        Ok(Matrix { codec, rows, columns, bytes: Bytes::new(bytes) })
    }

    fn decode(&self, matrix: &Matrix) -> Result<HostBuffer, Error> {
        let mut out = HostBuffer::zeros(matrix.rows, matrix.columns);
        let row_bytes = (matrix.bytes.len() / matrix.rows.max(1)).max(1);
        self.workers.install(|| {
            let rows = out.par_chunks_mut(matrix.columns).zip(matrix.bytes.par_chunks(row_bytes));
            rows.for_each(|(out, bytes)| matrix.codec.decode(bytes, out));
        });
        Ok(out)
    }

    fn buffer(&self, columns: usize, values: &[f32]) -> Result<HostBuffer, Error> {
        shapes::buffer(columns, values)?;
        Ok(HostBuffer::new(columns, values.to_vec()))
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<HostBuffer, Error> {
        Ok(HostBuffer::zeros(rows, columns))
    }

    fn copy(&self, buffer: &HostBuffer) -> Result<HostBuffer, Error> {
        Ok(buffer.clone())
    }

    fn numbers<'b>(&self, buffer: &'b HostBuffer) -> Result<Cow<'b, [f32]>, Error> {
        Ok(Cow::Borrowed(buffer))
    }

    fn take_numbers(&self, buffer: HostBuffer) -> Result<Vec<f32>, Error> {
        Ok(buffer.into())
    }

    fn check_finite(
        &self,
        buffer: &HostBuffer,
        found: &mut HostBuffer,
        at: usize,
    ) -> Result<(), Error> {
        shapes::check_finite(found, at)?;
        let row = self.first_non_finite(buffer).map(|number| number / buffer.columns());
        // Rows of a batch are fewer than an f32 can count.
        found[at] = row.map_or(-1.0, |row| row as f32);
        Ok(())
    }

    fn matmul(
        &self,
        rounding: Rounding,
        activations: &HostBuffer,
        matrix: &Matrix,
    ) -> Result<HostBuffer, Error> {
        shapes::matmul(activations, matrix)?;
        let mut out = HostBuffer::zeros(activations.rows(), matrix.rows);
        self.workers.install(|| {
            let products = Products { instructions: self.instructions, few: self.few };
            products.multiply(rounding, activations, matrix, &mut out);
        });
        Ok(out)
    }

    fn round_inputs(
        &self,
        inputs: &HostBuffer,
        rounding: &InputRounding,
    ) -> Result<HostBuffer, Error> {
        shapes::round_inputs(inputs, rounding)?;
        let mut rounded = inputs.clone();
        let width = inputs.columns().max(1);
        self.workers.install(|| {
            rounded.par_chunks_exact_mut(width).for_each(|row| rounding.round_row(row));
        });
        Ok(rounded)
    }

    fn rms_norm(
        &self,
        input: &HostBuffer,
        weights: &HostBuffer,
        groups: usize,
        epsilon: f32,
    ) -> Result<HostBuffer, Error> {
        shapes::norm("rms_norm", input, weights, None, groups)?;
        let mut out = HostBuffer::zeros(input.rows(), input.columns());
        let width = weights.len() / groups;
        let own = |group: usize| &weights[group % groups * width..][..width];
        self.workers.install(|| {
            let rows = out.par_chunks_mut(width).zip(input.par_chunks(width)).enumerate();
            rows.for_each(|(at, (out, row))| floats::rms_norm(row, own(at), epsilon, out));
        });
        Ok(out)
    }

    fn layer_norm(
        &self,
        input: &HostBuffer,
        weights: &HostBuffer,
        bias: Option<&HostBuffer>,
        groups: usize,
        epsilon: f32,
    ) -> Result<HostBuffer, Error> {
        shapes::norm("layer_norm", input, weights, bias, groups)?;
        let mut out = HostBuffer::zeros(input.rows(), input.columns());
        let width = weights.len() / groups;
        let own = |group: usize| group % groups * width..(group % groups + 1) * width;
        self.workers.install(|| {
            let rows = out.par_chunks_mut(width).zip(input.par_chunks(width)).enumerate();
            rows.for_each(|(at, (out, row))| {
                let bias = bias.map(|bias| &bias[own(at)]);
                out.copy_from_slice(&reference::layer_norm(row, &weights[own(at)], bias, epsilon));
            });
        });
        Ok(out)
    }

    fn rotate(
        &self,
        rows: &mut HostBuffer,
        rotation: &Rotation,
        table: &HostBuffer,
    ) -> Result<(), Error> {
        shapes::rotate(rows, rotation, table)?;
        // Cosines and sines of a position are as many as elements that turn.
        let (size, count) = (rotation.head_size, rotation.count);
        let (width, positions) = (rows.columns(), table.rows());
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
        keys: &HostBuffer,
        values: &HostBuffer,
        rows: Range<usize>,
    ) -> Result<(), Error> {
        shapes::store(cache.sizes(), position, keys, values, &rows)?;
        cache.store(position, keys, values, rows);
        Ok(())
    }

    fn attend(
        &self,
        shape: &Attention,
        sinks: Option<&HostBuffer>,
        learned: Option<&HostBuffer>,
        cache: &Cache,
        queries: Queries<'_, HostBuffer>,
        out: &mut HostBuffer,
    ) -> Result<(), Error> {
        shapes::attend(shape, sinks, learned, &queries, out)?;
        let Queries { buffer, rows, position } = queries;
        let elements = |width: usize| rows.start * width..rows.end * width;
        let queries = &buffer[elements(shape.query_width())];
        let out = &mut out[elements(shape.result_width())];
        let sinks = sinks.map(|sinks| &sinks[..]);
        let learned = learned.map(|learned| &learned[..]);
        let (instructions, length) = (self.instructions, position + rows.len());
        let work = attention::Work { instructions, shape, sinks, learned, cache, position, length };
        self.workers.install(|| work.attend(queries, out));
        Ok(())
    }

    fn scan(
        &self,
        shape: &Scan,
        weights: &ScanWeights<'_, HostBuffer>,
        state: &mut HostBuffer,
        input: &HostBuffer,
        rows: Range<usize>,
        out: &mut HostBuffer,
    ) -> Result<(), Error> {
        shapes::scan(shape, weights, state, input, &rows, out)?;
        let weights = weights.numbers();
        let input = &input[rows.start * shape.width()..rows.end * shape.width()];
        let out = &mut out[rows.start * shape.inner()..rows.end * shape.inner()];
        self.workers.install(|| scan::scan(shape, &weights, state, input, out));
        Ok(())
    }

    fn recur(
        &self,
        shape: &Recurrence,
        weights: &[&HostBuffer],
        state: &mut HostBuffer,
        inputs: &[&HostBuffer],
        rows: Range<usize>,
        out: &mut HostBuffer,
    ) -> Result<(), Error> {
        shapes::recur(shape, weights, state, inputs, &rows, out)?;
        let weights: Vec<&[f32]> = weights.iter().map(|own| &own[..]).collect();
        let inputs: Vec<&[f32]> = inputs
            .iter()
            .zip(shape.inputs())
            .map(|(input, width)| &input[rows.start * width..rows.end * width])
            .collect();
        let out = &mut out[rows.start * shape.width()..rows.end * shape.width()];
        self.workers.install(|| recurrence::recur(shape, &weights, state, &inputs, out));
        Ok(())
    }

    fn rowwise(&self, operation: &Rowwise, inputs: &[&HostBuffer]) -> Result<HostBuffer, Error> {
        let (rows, width) = shapes::rowwise(operation, inputs)?;
        let mut out = HostBuffer::zeros(rows, width);
        let compute = |(row, out): (usize, &mut [f32])| {
            let own = inputs.iter().map(|input| {
                let row = if input.rows() == 1 { 0 } else { row };
                &input[row * input.columns()..(row + 1) * input.columns()]
            });
            operation.of_row(&own.collect::<Vec<_>>(), out);
        };
        self.workers.install(|| out.par_chunks_mut(width.max(1)).enumerate().for_each(compute));
        Ok(out)
    }

    fn activate_times(
        &self,
        activation: Activation,
        gate: &mut HostBuffer,
        up: Option<&HostBuffer>,
    ) -> Result<(), Error> {
        let kernel: Option<ActivationKernel> = match activation {
            Activation::Silu => Some(exponentials::times::<exponentials::Silu>),
            Activation::GeluTanh => Some(exponentials::times::<exponentials::GeluTanh>),
            Activation::GeluErf => Some(exponentials::gelu_erf_times),
            Activation::GeluHalf => Some(exponentials::gelu_half_times),
            Activation::ClampedSilu => Some(exponentials::times::<exponentials::ClampedSilu>),
            Activation::Identity => Some(exponentials::times::<exponentials::Identity>),
            Activation::Sigmoid => Some(exponentials::times::<exponentials::Sigmoid>),
            Activation::ReluSquared | Activation::Tanh | Activation::Xielu(_) => None,
        };
        let activate = |instructions: Instructions, gate: &mut [f32], up: &[f32]| match kernel {
            Some(kernel) => kernel(instructions, gate, up),
            None => exponentials::defined_times(activation, gate, up),
        };
        let Some(up) = up else {
            let ones = vec![1.0; PART.min(gate.len())];
            self.workers.install(|| {
                let parts = gate.par_chunks_mut(PART);
                parts.for_each(|part| activate(self.instructions, part, &ones[..part.len()]));
            });
            return Ok(());
        };
        shapes::same("activate_times", gate, up)?;
        self.for_parts(gate, up, |gate, up| activate(self.instructions, gate, up));
        Ok(())
    }

    fn columns(&self, from: &HostBuffer, columns: Range<usize>) -> Result<HostBuffer, Error> {
        shapes::columns(from, &columns)?;
        let rows = from.chunks_exact(from.columns()).flat_map(|row| &row[columns.clone()]);
        Ok(HostBuffer::new(columns.len(), rows.copied().collect()))
    }

    fn join(&self, parts: &[JoinedColumns<'_, HostBuffer>]) -> Result<HostBuffer, Error> {
        let width = shapes::join(parts)?;
        let Some(first) = parts.first() else { return Ok(HostBuffer::zeros(0, 0)) };
        let heads = shapes::joined_heads(parts);
        let mut joined = Vec::with_capacity(first.buffer.rows() * width);
        for row in 0..first.buffer.rows() {
            for head in 0..heads {
                for JoinedColumns { buffer, size, columns } in parts {
                    let own = if buffer.columns() == *size { 0 } else { head * size };
                    let start = row * buffer.columns() + own;
                    joined.extend_from_slice(&buffer[start..][columns.clone()]);
                }
            }
        }
        Ok(HostBuffer::new(width, joined))
    }

    fn times_sigmoid(&self, rows: &mut HostBuffer, scores: &HostBuffer) -> Result<(), Error> {
        shapes::times_sigmoid(rows, scores)?;
        let width = rows.columns();
        for (row, score) in rows.chunks_exact_mut(width).zip(scores.iter()) {
            let weight = 1.0 / (1.0 + libm::expf(-score));
            row.iter_mut().for_each(|number| *number *= weight);
        }
        Ok(())
    }

    fn add(&self, to: &mut HostBuffer, from: &HostBuffer) -> Result<(), Error> {
        shapes::same("add", to, from)?;
        self.for_parts(to, from, |to, from| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        });
        Ok(())
    }

    fn add_bias(&self, to: &mut HostBuffer, bias: &HostBuffer) -> Result<(), Error> {
        shapes::add_bias(to, bias)?;
        for row in to.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias.iter()).for_each(|(to, bias)| *to += bias);
        }
        Ok(())
    }

    fn route(
        &self,
        router: &Router,
        scores: &HostBuffer,
        bias: Option<&HostBuffer>,
    ) -> Result<Vec<ExpertLoad>, Error> {
        shapes::route(router, scores, bias)?;
        Ok(reference::route(router, scores, bias.map(|bias| &bias[..])))
    }

    fn gather(&self, from: &HostBuffer, rows: &[usize]) -> Result<HostBuffer, Error> {
        shapes::gather(from, rows)?;
        let width = from.columns();
        let numbers = rows.iter().flat_map(|row| &from[row * width..][..width]);
        Ok(HostBuffer::new(width, numbers.copied().collect()))
    }

    fn stack(&self, parts: &[&HostBuffer]) -> Result<HostBuffer, Error> {
        let columns = shapes::stack(parts)?;
        Ok(HostBuffer::new(columns, parts.iter().flat_map(|part| part.iter()).copied().collect()))
    }

    fn scatter_add(
        &self,
        to: &mut HostBuffer,
        load: &ExpertLoad,
        from: &HostBuffer,
    ) -> Result<(), Error> {
        shapes::scatter_add(to, load, from)?;
        let width = to.columns();
        let rows = load.tokens.iter().zip(&load.weights).zip(from.chunks_exact(width));
        for ((token, weight), row) in rows {
            let to = &mut to[token * width..][..width];
            to.iter_mut().zip(row).for_each(|(to, value)| *to += value * weight);
        }
        Ok(())
    }

    fn add_products(
        &self,
        sums: &mut HostBuffer,
        left: &HostBuffer,
        right: &HostBuffer,
        rows: Range<usize>,
    ) -> Result<(), Error> {
        shapes::add_products(sums, left, right, &rows)?;
        let (height, width) = (left.columns(), right.columns());
        let left = View::dense(left, left.rows(), height).block(rows.clone(), 0..height);
        let right = View::dense(right, right.rows(), width).block(rows, 0..width);
        let sums = ViewMut::dense(sums, height, width);
        self.workers.install(|| multiply(Into::Add, 1.0, left.transposed(), right, sums));
        Ok(())
    }

    fn add_gram(
        &self,
        sums: &mut HostBuffer,
        inputs: &HostBuffer,
        first: usize,
        rows: Range<usize>,
    ) -> Result<(), Error> {
        shapes::add_gram(sums, inputs, first, &rows)?;
        let (count, width, columns) = (sums.rows(), sums.columns(), inputs.columns());
        let inputs = View::dense(inputs, inputs.rows(), columns);
        let own = inputs.block(rows.clone(), first..first + count);
        self.workers.install(|| {
            add_gram(1.0, own, ViewMut::new(sums, count, count, width));
            if count < width {
                let right = inputs.block(rows, first + count..columns);
                let sums = ViewMut::new(&mut sums[count..], count, width - count, width);
                multiply(Into::Add, 1.0, own.transposed(), right, sums);
            }
        });
        Ok(())
    }

    fn factor(&self, size: usize, matrix: Vec<f32>) -> Result<Result<Vec<f32>, usize>, Error> {
        shapes::factor(size, &matrix)?;
        Ok(self.workers.install(|| factor::factor(size, matrix)))
    }
}
