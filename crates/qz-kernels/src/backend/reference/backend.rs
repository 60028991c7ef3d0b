//! The definitions as a backend: slow, on one thread, and without any instruction of its own.
//! Tests compute whole models with it.

use std::borrow::Cow;
use std::ops::Range;

use qz_tensor::DataType;

use super::{
    activate_times, attend, decode, factor, layer_norm, matmul, rms_norm, rotate, route, scan,
};
use crate::backend::{
    Activation, Attention, Backend, Error, ExpertLoad, HostBuffer, InputRounding, JoinedColumns,
    Queries, Rotation, Rounding, Router, Scan, ScanWeights, Shaped, activation_type,
    round_activations, shapes,
};

/// Computes what the definitions say.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceBackend;

/// A matrix in its own type.
#[derive(Clone, Debug)]
pub struct Matrix {
    data_type: DataType,
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
}

impl Shaped for Matrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }
}

/// Keys and values of one sequence, rounded.
#[derive(Clone, Debug)]
pub struct Cache {
    shape: Attention,
    data_type: DataType,
    capacity: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    /// The keys of a head at the first so many positions, one behind the other.
    fn of_head(numbers: &[f32], positions: usize, width: usize, head: Range<usize>) -> Vec<f32> {
        let rows = numbers.chunks_exact(width).take(positions);
        rows.flat_map(|row| row[head.clone()].to_vec()).collect()
    }
}

impl Backend for ReferenceBackend {
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
        decode(data_type, &[])?;
        shapes::matrix(data_type, rows, columns, bytes.len())?;
        Ok(Matrix { data_type, rows, columns, bytes })
    }

    fn decode(&self, matrix: &Matrix) -> Result<HostBuffer, Error> {
        Ok(HostBuffer::new(matrix.columns, decode(matrix.data_type, &matrix.bytes)?))
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
        let first = buffer.iter().position(|value| !value.is_finite());
        found[at] = first.map_or(-1.0, |number| (number / buffer.columns()) as f32);
        Ok(())
    }

    fn matmul(
        &self,
        rounding: Rounding,
        activations: &HostBuffer,
        matrix: &Matrix,
    ) -> Result<HostBuffer, Error> {
        shapes::matmul(activations, matrix)?;
        let Matrix { data_type, columns, bytes, .. } = matrix;
        let products = matmul(rounding, activations, *columns, *data_type, bytes)?;
        Ok(HostBuffer::new(matrix.rows, products))
    }

    fn round_inputs(
        &self,
        inputs: &HostBuffer,
        rounding: &InputRounding,
    ) -> Result<HostBuffer, Error> {
        shapes::round_inputs(inputs, rounding)?;
        let mut rounded = inputs.clone();
        let width = inputs.columns().max(1);
        rounded.chunks_exact_mut(width).for_each(|row| rounding.round_row(row));
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
        let width = weights.len() / groups;
        let runs = input.chunks_exact(width).zip(weights.chunks_exact(width).cycle());
        let normed = runs.flat_map(|(run, weights)| rms_norm(run, weights, epsilon)).collect();
        Ok(HostBuffer::new(input.columns(), normed))
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
        let width = weights.len() / groups;
        let own = |group: usize| group % groups * width..(group % groups + 1) * width;
        let runs = input.chunks_exact(width).enumerate();
        let normed = runs.flat_map(|(at, run)| {
            let bias = bias.map(|bias| &bias[own(at)]);
            layer_norm(run, &weights[own(at)], bias, epsilon)
        });
        let normed = normed.collect();
        Ok(HostBuffer::new(input.columns(), normed))
    }

    fn rotate(
        &self,
        rows: &mut HostBuffer,
        rotation: &Rotation,
        table: &HostBuffer,
    ) -> Result<(), Error> {
        shapes::rotate(rows, rotation, table)?;
        let width = rows.columns();
        let positions = table.chunks_exact(rotation.count).cycle();
        for (row, table) in rows.chunks_exact_mut(width).zip(positions) {
            let heads = row.chunks_exact_mut(rotation.head_size);
            heads.for_each(|head| rotate(head, rotation, table));
        }
        Ok(())
    }

    fn cache(
        &self,
        shape: &Attention,
        capacity: usize,
        data_type: DataType,
    ) -> Result<Cache, Error> {
        for head_size in [shape.key_size, shape.value_size] {
            if !head_size.is_multiple_of(data_type.block_elements()) {
                return Err(Error::CacheType { head_size, data_type });
            }
        }
        let zeros = |width: usize| vec![0.0; capacity * width];
        let (keys, values) = (zeros(shape.key_width()), zeros(shape.value_width()));
        Ok(Cache { shape: *shape, data_type, capacity, keys, values })
    }

    fn store(
        &self,
        cache: &mut Cache,
        position: usize,
        keys: &HostBuffer,
        values: &HostBuffer,
        rows: Range<usize>,
    ) -> Result<(), Error> {
        let Cache { shape, data_type, capacity, .. } = *cache;
        let (key_width, value_width) = (shape.key_width(), shape.value_width());
        shapes::store((key_width, value_width, capacity), position, keys, values, &rows)?;
        for (to, from, width, size) in [
            (&mut cache.keys, keys, key_width, shape.key_size),
            (&mut cache.values, values, value_width, shape.value_size),
        ] {
            let to = &mut to[position * width..][..rows.len() * width];
            to.copy_from_slice(&from[rows.start * width..rows.end * width]);
            round_activations(data_type, size, to);
        }
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
        let learned = learned.map(|learned| &learned[..]);
        let Queries { buffer, rows, position } = queries;
        let length = position + rows.len();
        for head in 0..shape.heads {
            let served = head * shape.key_value_heads / shape.heads;
            let own = |size: usize| served * size..(served + 1) * size;
            let (key_width, value_width) = (shape.key_width(), shape.value_width());
            let keys = Cache::of_head(&cache.keys, length, key_width, own(shape.key_size));
            let values = Cache::of_head(&cache.values, length, value_width, own(shape.value_size));
            let sink = sinks.map(|sinks| sinks[head]);
            for (at, row) in (position..).zip(rows.clone()) {
                let first = row * shape.query_width() + head * shape.key_size;
                let mut query = buffer[first..first + shape.key_size].to_vec();
                if cache.data_type.is_block() {
                    let rounded = activation_type(cache.data_type);
                    round_activations(rounded, shape.key_size, &mut query);
                }
                let added = |key: usize| shape.added(head, at, key, learned);
                let place = (at, length);
                let result = attend(shape, sink, &added, place, &query, &keys, &values);
                let first = row * shape.result_width() + head * shape.value_size;
                out[first..first + shape.value_size].copy_from_slice(&result);
            }
        }
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
        let input = &input[rows.start * shape.width()..rows.end * shape.width()];
        let scanned = scan(shape, &weights.numbers(), state, input);
        out[rows.start * shape.inner()..rows.end * shape.inner()].copy_from_slice(&scanned);
        Ok(())
    }

    fn activate_times(
        &self,
        activation: Activation,
        gate: &mut HostBuffer,
        up: Option<&HostBuffer>,
    ) -> Result<(), Error> {
        up.map_or(Ok(()), |up| shapes::same("activate_times", gate, up))?;
        for (at, gate) in gate.iter_mut().enumerate() {
            *gate = activate_times(activation, *gate, up.map_or(1.0, |up| up[at]));
        }
        Ok(())
    }

    fn columns(&self, from: &HostBuffer, columns: Range<usize>) -> Result<HostBuffer, Error> {
        shapes::columns(from, &columns)?;
        let rows = from.chunks_exact(from.columns()).flat_map(|row| &row[columns.clone()]);
        Ok(HostBuffer::new(columns.len(), rows.copied().collect()))
    }

    fn join(&self, parts: &[JoinedColumns<'_, HostBuffer>]) -> Result<HostBuffer, Error> {
        let width = shapes::join(parts)?;
        let heads = shapes::joined_heads(parts);
        let rows = parts.first().map_or(0, |part| part.buffer.rows());
        let own = |(row, head): (usize, usize)| {
            parts.iter().flat_map(move |part| {
                let heads_before = if part.buffer.columns() == part.size { 0 } else { head };
                let start = row * part.buffer.columns() + heads_before * part.size;
                &part.buffer[start..][part.columns.clone()]
            })
        };
        let all = (0..rows).flat_map(|row| (0..heads).map(move |head| (row, head)));
        Ok(HostBuffer::new(width, all.flat_map(own).copied().collect()))
    }

    fn times_sigmoid(&self, rows: &mut HostBuffer, scores: &HostBuffer) -> Result<(), Error> {
        shapes::times_sigmoid(rows, scores)?;
        let width = rows.columns();
        for (at, number) in rows.iter_mut().enumerate() {
            *number *= 1.0 / (1.0 + libm::expf(-scores[at / width]));
        }
        Ok(())
    }

    fn add(&self, to: &mut HostBuffer, from: &HostBuffer) -> Result<(), Error> {
        shapes::same("add", to, from)?;
        to.iter_mut().zip(from.iter()).for_each(|(to, from)| *to += from);
        Ok(())
    }

    fn add_bias(&self, to: &mut HostBuffer, bias: &HostBuffer) -> Result<(), Error> {
        shapes::add_bias(to, bias)?;
        to.iter_mut().zip(bias.iter().cycle()).for_each(|(to, bias)| *to += bias);
        Ok(())
    }

    fn route(
        &self,
        router: &Router,
        scores: &HostBuffer,
        bias: Option<&HostBuffer>,
    ) -> Result<Vec<ExpertLoad>, Error> {
        shapes::route(router, scores, bias)?;
        Ok(route(router, scores, bias.map(|bias| &bias[..])))
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
        for (at, (token, weight)) in load.tokens.iter().zip(&load.weights).enumerate() {
            for column in 0..width {
                to[token * width + column] += from[at * width + column] * weight;
            }
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
        for (at, sum) in sums.iter_mut().enumerate() {
            let (i, j) = (at / width, at % width);
            let products = rows
                .clone()
                .map(|row| f64::from(left[row * height + i]) * f64::from(right[row * width + j]));
            *sum = (f64::from(*sum) + products.sum::<f64>()) as f32;
        }
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
        let left = self.columns(inputs, first..first + sums.rows())?;
        let right = self.columns(inputs, first..inputs.columns())?;
        self.add_products(sums, &left, &right, rows)
    }

    fn factor(&self, size: usize, matrix: Vec<f32>) -> Result<Result<Vec<f32>, usize>, Error> {
        shapes::factor(size, &matrix)?;
        Ok(factor(size, matrix))
    }
}
