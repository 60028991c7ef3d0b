//! Causal attention over cached keys and values.

use std::ops::Range;

use qz_tensor::DataType;
use rayon::prelude::*;

use super::super::reference::softmax;
use super::super::{Attention, Error, activation_type, round_activations};
use super::products::{Products, TOGETHER};

/// Queries of a head that a thread takes at a time.
const QUERIES: usize = 32;

/// Keys and values of one sequence: as numbers that the cache's type can represent, each
/// head's positions one behind the other.
pub struct Cache {
    data_type: DataType,
    head_size: usize,
    heads: usize,
    capacity: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    pub(super) fn new(
        shape: &Attention,
        capacity: usize,
        data_type: DataType,
    ) -> Result<Self, Error> {
        let Attention { head_size, key_value_heads: heads, .. } = *shape;
        if !head_size.is_multiple_of(data_type.block_elements()) {
            return Err(Error::CacheType { head_size, data_type });
        }
        let elements = capacity * shape.key_value_width();
        let (keys, values) = (vec![0.0; elements], vec![0.0; elements]);
        Ok(Self { data_type, head_size, heads, capacity, keys, values })
    }

    pub(super) fn store(
        &mut self,
        position: usize,
        keys: &[f32],
        values: &[f32],
        rows: Range<usize>,
    ) {
        let (size, width) = (self.head_size, self.heads * self.head_size);
        for (position, row) in (position..).zip(rows) {
            for head in 0..self.heads {
                let to = (head * self.capacity + position) * size;
                for (cache, from) in [(&mut self.keys, keys), (&mut self.values, values)] {
                    let to = &mut cache[to..to + size];
                    to.copy_from_slice(&from[row * width + head * size..][..size]);
                    round_activations(self.data_type, size, to);
                }
            }
        }
    }

    /// All positions of a head.
    fn head<'a>(&self, numbers: &'a [f32], head: usize) -> &'a [f32] {
        let size = self.capacity * self.head_size;
        &numbers[head * size..][..size]
    }
}

/// Attention of queries from `position` on; runs on the current pool's threads.
pub(super) fn attend(
    products: Products,
    shape: &Attention,
    cache: &Cache,
    position: usize,
    queries: &[f32],
    out: &mut [f32],
) {
    let width = shape.query_width();
    let count = queries.len() / width;
    let blocks =
        (0..count).step_by(QUERIES).flat_map(|first| (0..shape.heads).map(move |h| (first, h)));
    let blocks: Vec<(usize, usize)> = blocks.collect();
    let results: Vec<Vec<f32>> = blocks
        .par_iter()
        .map(|(first, head)| {
            let rows = *first..count.min(first + QUERIES);
            Head { products, shape, cache, head: *head, position }.attend(queries, rows)
        })
        .collect();
    for ((first, head), result) in blocks.into_iter().zip(results) {
        for (row, result) in (first..).zip(result.chunks_exact(shape.head_size)) {
            let to = row * width + head * shape.head_size;
            out[to..to + shape.head_size].copy_from_slice(result);
        }
    }
}

/// One query head's work.
struct Head<'a> {
    products: Products,
    shape: &'a Attention,
    cache: &'a Cache,
    head: usize,
    /// Of the first query.
    position: usize,
}

impl Head<'_> {
    /// The results of the queries `rows`, one behind the other.
    fn attend(&self, queries: &[f32], rows: Range<usize>) -> Vec<f32> {
        let (shape, size) = (self.shape, self.shape.head_size);
        let served = self.head * shape.key_value_heads / shape.heads;
        let keys = self.cache.head(&self.cache.keys, served);
        let values = self.cache.head(&self.cache.values, served);
        let mut out = vec![0.0; rows.len() * size];
        let mut own = vec![0.0; TOGETHER * size];
        for (group, out) in out.chunks_mut(TOGETHER * size).enumerate() {
            let first = rows.start + group * TOGETHER;
            let count = out.len() / size;
            for (row, own) in (first..).zip(own.chunks_exact_mut(size)).take(count) {
                let from = row * shape.query_width() + self.head * size;
                own.copy_from_slice(&queries[from..][..size]);
            }
            self.round_queries(&mut own);
            let visible: Vec<Range<usize>> =
                (first..first + count).map(|row| shape.visible(self.position + row)).collect();
            let mut scores = self.scores(&own[..count * size], keys, &visible);
            for ((scores, visible), out) in
                scores.iter_mut().zip(&visible).zip(out.chunks_exact_mut(size))
            {
                softmax(scores);
                self.products.add_weighted(scores, &values[visible.start * size..], size, out);
            }
        }
        out
    }

    /// ggml rounds queries for quantized keys; for others its tiled attention keeps them
    /// (`ggml_compute_forward_flash_attn_ext_tiled` in ops.cpp).
    fn round_queries(&self, queries: &mut [f32]) {
        if self.cache.data_type.is_block() {
            let data_type = activation_type(self.cache.data_type);
            round_activations(data_type, self.shape.head_size, queries);
        }
    }

    /// Each query's scaled products with the keys it sees.
    fn scores(&self, queries: &[f32], keys: &[f32], visible: &[Range<usize>]) -> Vec<Vec<f32>> {
        let size = self.shape.head_size;
        let start = visible.iter().map(|range| range.start).min().unwrap_or(0);
        let end = visible.iter().map(|range| range.end).max().unwrap_or(0);
        let mut scores: Vec<Vec<f32>> =
            visible.iter().map(|range| Vec::with_capacity(range.len())).collect();
        let queries = super::products::group(queries, size);
        for (group, keys) in keys[start * size..end * size].chunks(TOGETHER * size).enumerate() {
            let first = start + group * TOGETHER;
            let dots = self.products.dots(queries, super::products::group(keys, size));
            for ((scores, dots), visible) in scores.iter_mut().zip(dots).zip(visible) {
                let seen = (first..first + keys.len() / size).zip(dots);
                let seen = seen.filter(|(position, _)| visible.contains(position));
                scores.extend(seen.map(|(_, dot)| dot * self.shape.scale));
            }
        }
        scores
    }
}
